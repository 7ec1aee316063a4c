#include "transfer/tcp/socket_mover.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <xxhash.h>

#include <cstring>
#include <functional>

#include "transfer/tcp/testing_pair.h"

namespace baton::transfer::tcp {
namespace {

void expect_equal_blocks(const Side& p, const std::vector<BlockId>& source, const Side& d,
                         const std::vector<BlockId>& target) {
  ASSERT_EQ(source.size(), target.size());
  const kv::KvLayout& layout = p.arena->layout();
  for (size_t i = 0; i < source.size(); ++i) {
    EXPECT_EQ(0, std::memcmp(p.arena->data() + layout.offset(0, source[i]),
                             d.arena->data() + layout.offset(0, target[i]), layout.block_bytes()))
        << "block " << i;
  }
}

class EachTransport : public testing::TestWithParam<Way> {};

TEST_P(EachTransport, MovesRandomBlocksAndGivesThemBackOnce) {
  const Pair pair(options_of(GetParam(), {.secret = "0123456789abcdef"}),
                  options_of(GetParam(), {.secret = "0123456789abcdef"}));
  const auto handover = random_id<HandoverId>();
  const uint32_t tokens = 16 * 20 + 5;
  const std::vector<BlockId> held = shuffled_blocks(21, 1);
  pair.p->source->hold({handover, held, tokens, "hash"}, pair.p->clock.now());
  const Expected expected = pair.expect(handover, tokens);
  pair.d->target->expect(expected, pair.d->clock.now());
  const std::vector<BlockId> target = shuffled_blocks(18, 2);
  pair.d->target->land(expected.transfer, target, 16 * 3, pair.d->clock.now());
  pair.run_until([&] { return !pair.d->outcomes.empty() && !pair.p->released.empty(); });
  ASSERT_EQ(pair.d->outcomes.size(), 1U);
  EXPECT_FALSE(pair.d->outcomes[0].error) << pair.d->outcomes[0].error->message;
  EXPECT_EQ(pair.d->outcomes[0].bytes, 18 * kLayout.block_bytes());
  EXPECT_EQ(pair.d->outcomes[0].transport, GetParam().transport);
  ASSERT_EQ(pair.p->released.size(), 1U);
  EXPECT_EQ(pair.p->released[0].end, HoldEnd::kTaken);
  EXPECT_EQ(pair.p->released[0].blocks, held);
  expect_equal_blocks(*pair.p, {held.begin() + 3, held.end()}, *pair.d, target);
}

TEST_P(EachTransport, MovesBlocksThatNeedSeveralFrames) {
  const kv::KvLayout large{.layers = 24, .kv_heads = 8, .head_dim = 128, .block_tokens = 16};
  const Pair pair(options_of(GetParam(), {.layout = large}), options_of(GetParam(), {.layout = large}));
  const auto handover = random_id<HandoverId>();
  const std::vector<BlockId> held = shuffled_blocks(16, 3);
  pair.p->source->hold({handover, held, 256, "hash"}, pair.p->clock.now());
  const Expected expected = pair.expect(handover, 256);
  pair.d->target->expect(expected, pair.d->clock.now());
  const std::vector<BlockId> target = shuffled_blocks(16, 4);
  pair.d->target->land(expected.transfer, target, 0, pair.d->clock.now());
  pair.run_until([&] { return !pair.d->outcomes.empty(); });
  EXPECT_FALSE(pair.d->outcomes[0].error) << pair.d->outcomes[0].error->message;
  expect_equal_blocks(*pair.p, held, *pair.d, target);
}

// The vector of (layer, K|V, head) of a position.
const std::byte* vector_at(const kv::KvArena& arena, BlockId block, uint32_t row, uint32_t position) {
  const kv::KvLayout& layout = arena.layout();
  const uint32_t rows = 2 * layout.kv_heads;
  return arena.at(row / rows, block).data() +
         (row % rows * layout.block_tokens + position % layout.block_tokens) * layout.head_dim *
             size_of(layout.dtype);
}

struct Held {
  uint32_t tokens = 0;
  uint32_t present = 0;  // on D
  std::vector<BlockId> source;
  std::vector<BlockId> target;
};

// D's blocks hold P's KV of positions [present, tokens), and nothing of what D had has changed.
void expect_moved(const Pair& pair, const Held& held, const std::vector<std::byte>& before) {
  const kv::KvArena& p = *pair.p->arena;
  const kv::KvArena& d = *pair.d->arena;
  const kv::KvLayout& layout = d.layout();
  const size_t bytes = layout.head_dim * size_of(layout.dtype);
  const uint32_t rows = layout.layers * 2 * layout.kv_heads;
  const uint32_t covered = held.present + static_cast<uint32_t>(held.target.size()) * layout.block_tokens;
  const uint32_t moved = std::min(covered, p.layout().blocks_for(held.tokens) * p.layout().block_tokens);
  std::vector<bool> is_target(kBlocks);
  for (const BlockId block : held.target) is_target[index(block)] = true;
  for (uint32_t position = held.present; position < covered; ++position) {
    const BlockId block = held.target[(position - held.present) / layout.block_tokens];
    for (uint32_t row = 0; row < rows; ++row) {
      const std::byte* const got = vector_at(d, block, row, position);
      const std::byte* const expected =
          position < moved ? vector_at(p, held.source[position / p.layout().block_tokens], row, position)
                           : before.data() + (got - d.data());
      ASSERT_EQ(0, std::memcmp(got, expected, bytes)) << "position " << position << " row " << row;
    }
  }
  for (uint32_t block = 0; block < kBlocks; ++block) {
    if (is_target[block]) continue;
    const size_t at = layout.offset(0, BlockId{block});
    ASSERT_EQ(0, std::memcmp(d.data() + at, before.data() + at, layout.block_bytes())) << "block " << block;
  }
}

TEST_P(EachTransport, MovesTheRightTokensBetweenAllPairsOfBlockSizes) {
  for (const uint32_t source_tokens : {16U, 32U, 48U, 64U}) {
    for (const uint32_t target_tokens : {16U, 32U, 48U, 64U}) {
      SCOPED_TRACE(fmt::format("{} to {}", source_tokens, target_tokens));
      kv::KvLayout source_layout = kLayout;
      kv::KvLayout target_layout = kLayout;
      source_layout.block_tokens = source_tokens;
      target_layout.block_tokens = target_tokens;
      const Pair pair(options_of(GetParam(), {.layout = source_layout}),
                      options_of(GetParam(), {.layout = target_layout}));
      fill(*pair.d->arena, 2);
      uint64_t seed = 0;
      for (const uint32_t tokens : {1U, 16U, 33U, 64U, 97U, 191U, 192U, 250U}) {
        for (const uint32_t hit : {0U, 1U, 3U}) {
          const uint32_t present = hit * target_tokens;
          if (present >= tokens) continue;
          SCOPED_TRACE(fmt::format("{} of {} tokens are there", present, tokens));
          const Held held{tokens, present, shuffled_blocks(source_layout.blocks_for(tokens), ++seed),
                          shuffled_blocks(target_layout.blocks_for(tokens) - hit, ++seed)};
          const std::vector<std::byte> before(pair.d->arena->data(),
                                              pair.d->arena->data() + kBlocks * target_layout.block_bytes());
          const auto handover = random_id<HandoverId>();
          pair.p->source->hold({handover, held.source, tokens, "hash"}, pair.p->clock.now());
          const Expected expected = pair.expect(handover, tokens);
          pair.d->target->expect(expected, pair.d->clock.now());
          pair.d->target->land(expected.transfer, held.target, present, pair.d->clock.now());
          pair.run_until([&] { return !pair.d->outcomes.empty() && !pair.p->released.empty(); });
          ASSERT_FALSE(pair.d->outcomes[0].error) << pair.d->outcomes[0].error->message;
          EXPECT_EQ(
              pair.d->outcomes[0].bytes,
              kv::move_of(present, tokens, source_tokens, target_tokens).bytes(kLayout, kLayout.layers));
          expect_moved(pair, held, before);
          if (HasFatalFailure()) return;
          pair.d->outcomes.clear();
          pair.p->released.clear();
        }
      }
    }
  }
}

// Pieces that are not whole blocks and need several frames: gathered and scattered in part.
TEST_P(EachTransport, MovesLargePiecesBetweenBlocksOfTwoSizes) {
  for (const auto& [source_tokens, target_tokens] : {std::pair{48U, 64U}, {64U, 16U}, {16U, 64U}}) {
    SCOPED_TRACE(fmt::format("{} to {}", source_tokens, target_tokens));
    kv::KvLayout source_layout{.layers = 8, .kv_heads = 8, .head_dim = 128, .block_tokens = source_tokens};
    kv::KvLayout target_layout = source_layout;
    target_layout.block_tokens = target_tokens;
    const Pair pair(options_of(GetParam(), {.layout = source_layout}),
                    options_of(GetParam(), {.layout = target_layout}));
    const Held held{200, target_tokens, shuffled_blocks(source_layout.blocks_for(200), 1),
                    shuffled_blocks(target_layout.blocks_for(200) - 1, 2)};
    const std::vector<std::byte> before(kBlocks * target_layout.block_bytes());
    const auto handover = random_id<HandoverId>();
    pair.p->source->hold({handover, held.source, held.tokens, "hash"}, pair.p->clock.now());
    const Expected expected = pair.expect(handover, held.tokens);
    pair.d->target->expect(expected, pair.d->clock.now());
    pair.d->target->land(expected.transfer, held.target, held.present, pair.d->clock.now());
    pair.run_until([&] { return !pair.d->outcomes.empty(); });
    ASSERT_FALSE(pair.d->outcomes[0].error) << pair.d->outcomes[0].error->message;
    expect_moved(pair, held, before);
  }
}

TEST_P(EachTransport, RefusesBlocksThatPHasGivenAway) {
  const Pair pair(options_of(GetParam()), options_of(GetParam()));
  const auto handover = random_id<HandoverId>();
  const std::vector<BlockId> held = shuffled_blocks(4, 1);
  pair.p->source->hold({handover, held, 64, "hash"}, pair.p->clock.now());
  pair.p->arena->bump_epoch(held[2]);
  const Expected expected = pair.expect(handover, 64);
  pair.d->target->expect(expected, pair.d->clock.now());
  pair.d->target->land(expected.transfer, shuffled_blocks(4, 2), 0, pair.d->clock.now());
  pair.run_until([&] { return !pair.d->outcomes.empty() && !pair.p->released.empty(); });
  ASSERT_TRUE(pair.d->outcomes[0].error);
  EXPECT_NE(pair.d->outcomes[0].error->message.find("p-engine"), std::string::npos);
}

TEST_P(EachTransport, NoticesThatThePeerIsGone) {
  const Pair pair(options_of(GetParam()), options_of(GetParam()));
  const auto handover = random_id<HandoverId>();
  pair.p->source->hold({handover, shuffled_blocks(4, 1), 64, "hash"}, pair.p->clock.now());
  const Expected expected = pair.expect(handover, 64);
  pair.d->target->expect(expected, pair.d->clock.now());
  pair.run_until([&] { return pair.d->target->snapshot()[0].state == TransferState::kWaiting; });
  pair.p->mover.reset();
  const Time end = pair.d->clock.now() + kPatience;
  while (pair.d->outcomes.empty() && pair.d->clock.now() < end) pair.d->step();
  ASSERT_EQ(pair.d->outcomes.size(), 1U);
  EXPECT_EQ(pair.d->outcomes[0].error->code, Code::kUnavailable);
}

TEST_P(EachTransport, TakesASilentPeerForDead) {
  const Pair pair(options_of(GetParam()), options_of(GetParam()));
  const auto handover = random_id<HandoverId>();
  pair.p->source->hold({handover, shuffled_blocks(4, 1), 64, "hash"}, pair.p->clock.now());
  const Expected expected = pair.expect(handover, 64);
  pair.d->target->expect(expected, pair.d->clock.now());
  pair.run_until([&] { return pair.d->target->snapshot()[0].state == TransferState::kWaiting; });
  const Time end = pair.d->clock.now() + kPatience;
  while (pair.d->outcomes.empty() && pair.d->clock.now() < end) pair.d->step();
  ASSERT_EQ(pair.d->outcomes.size(), 1U);
  EXPECT_EQ(pair.d->outcomes[0].error->code, Code::kTimeout);
  EXPECT_NE(pair.d->outcomes[0].error->message.find("silent"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(SocketMover, EachTransport, testing::ValuesIn(kWays),
                         [](const auto& info) { return info.param.name; });

std::shared_ptr<const net::TlsContext> strangers_tls() {
  static const net::TestAuthority authority("strangers");
  static const auto context = *net::TlsContext::create(authority.sign("stranger"));
  return context;
}

struct RefusalRow {
  const char* name;
  Options source;
  Options target;
  const char* says;
};

TEST(SocketMover, RefusesPeersThatDoNotFit) {
  kv::KvLayout other_heads = kLayout;
  other_heads.kv_heads = 4;
  kv::KvLayout other_dtype = kLayout;
  other_dtype.dtype = DType::kF32;
  for (const RefusalRow& row : {
           RefusalRow{
               "secrets", {.secret = "0123456789abcdef"}, {.secret = "0123456789abcdeF"}, "proof is wrong"},
           RefusalRow{"no secret", {.secret = "0123456789abcdef"}, {}, "the peer has none, expected one"},
           RefusalRow{"only D", {}, {.secret = "0123456789abcdef"}, "the peer has one, expected none"},
           RefusalRow{"only P speaks TLS",
                      {.encrypted = true},
                      {},
                      "TLS: the peer does not speak it, expected --kv-tls-certfile there too"},
           RefusalRow{"only D speaks TLS", {}, {.encrypted = true}, "the peer does not speak TLS"},
           RefusalRow{"another authority's P",
                      {.adjust = [](SocketMoverConfig& config) { config.tls = strangers_tls(); }},
                      {.encrypted = true},
                      "expected one of this cluster's authority"},
           RefusalRow{"another authority's D",
                      {.encrypted = true},
                      {.adjust = [](SocketMoverConfig& config) { config.tls = strangers_tls(); }},
                      "expected one of this cluster's authority"},
           RefusalRow{"secrets within TLS",
                      {.encrypted = true, .secret = "0123456789abcdef"},
                      {.encrypted = true, .secret = "0123456789abcdeF"},
                      "proof is wrong"},
           RefusalRow{"model", {}, {.fingerprint = "beef"}, "fingerprint: peer has beef, expected f00d"},
           RefusalRow{"heads", {}, {.layout = other_heads}, "kv_heads: peer has 4, expected 2"},
           RefusalRow{"dtype", {}, {.layout = other_dtype}, "dtype: peer has float32, expected bfloat16"},
       }) {
    SCOPED_TRACE(row.name);
    const Pair pair(row.source, row.target);
    pair.d->target->expect(pair.expect(random_id<HandoverId>(), 64), pair.d->clock.now());
    pair.run_until([&] { return !pair.d->outcomes.empty(); });
    ASSERT_EQ(pair.d->outcomes.size(), 1U);
    EXPECT_NE(pair.d->outcomes[0].error->message.find(row.says), std::string::npos)
        << pair.d->outcomes[0].error->message;
  }
}

TEST(SocketMover, EncryptsNothingThatUcxMoves) {
  auto arena = *kv::KvArena::create(kLayout, kBlocks, random_id<Incarnation>());
  SocketMoverConfig config;
  config.identity.layout = kLayout;
  config.choice = TransportChoice::kUcx;
  config.tls = test_tls();
  const auto mover = SocketMover::create(std::move(config), *arena);
  ASSERT_FALSE(mover);
  EXPECT_EQ(mover.error().message, "--kv-transport ucx: UCX does not encrypt, expected no TLS beside it");
}

TEST(SocketMover, NamesThePortThatIsTaken) {
  const auto side = make_side({.listens = true});
  SocketMoverConfig config;
  config.listen = net::Address{"127.0.0.1", side->mover->port()};
  config.identity.layout = kLayout;
  const auto second = SocketMover::create(std::move(config), *side->arena);
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find(std::to_string(side->mover->port())), std::string::npos)
      << second.error().message;
}

struct HostileRow {
  const char* name;
  std::function<void(KvFrame&)> spoil;
  const char* says;
};

// Lets D connect to `peer` and send its Landing; answers with a handshake and the given end.
std::string outcome_with(const std::function<void(RawPeer&, const Landing&)>& end) {
  RawPeer peer;
  const auto d = make_side({.choice = TransportChoice::kTcp});
  const Expected expected{.transfer = random_id<TransferId>(),
                          .handover = random_id<HandoverId>(),
                          .host = "127.0.0.1",
                          .port = peer.port(),
                          .engine_id = {},
                          .incarnation = {},
                          .tokens = 16,
                          .prompt_hash = "hash",
                          .deadline = d->clock.now() + kPatience};
  d->target->expect(expected, d->clock.now());
  d->target->land(expected.transfer, {BlockId{7}}, 0, d->clock.now());
  while (!peer.accept()) d->step();
  const Time until = d->clock.now() + kPatience;
  while (d->outcomes.empty() && d->clock.now() < until) {
    d->step();
    const auto message = peer.receive();
    if (!message) continue;
    if (const auto* hello = std::get_if<Hello>(&*message)) {
      Identity identity = hello->identity;
      identity.engine_id = "raw";
      peer.send(Challenge{.identity = identity});
    } else if (std::holds_alternative<Proof>(*message)) {
      peer.send(Welcome{});
    } else if (const auto* landing = std::get_if<Landing>(&*message)) {
      end(peer, *landing);
    }
  }
  EXPECT_EQ(d->outcomes.size(), 1U);
  if (d->outcomes.empty()) return "none";
  return d->outcomes[0].error ? d->outcomes[0].error->message : "landed";
}

TEST(SocketMover, NamesWhatIsWrongWithAFrame) {
  for (const HostileRow& row : {
           HostileRow{"nothing", [](KvFrame&) {}, "landed"},
           HostileRow{"checksum", [](KvFrame& f) { ++f.checksum; }, "checksum of position 0"},
           HostileRow{"epoch", [](KvFrame& f) { ++f.epoch; }, "KvFrame: epoch is 6, expected 5"},
           HostileRow{"position", [](KvFrame& f) { f.position = 1; }, "KvFrame: position is 1, expected 0"},
           HostileRow{"far position", [](KvFrame& f) { f.position = ~0U; }, "position is 4294967295"},
           HostileRow{"offset", [](KvFrame& f) { f.offset = 8; }, "KvFrame: offset is 8, expected 0"},
           HostileRow{"transfer", [](KvFrame& f) { f.transfer.bytes[0] ^= 1; },
                      "is unknown, expected a granted one"},
       }) {
    SCOPED_TRACE(row.name);
    const std::vector<std::byte> bytes(kLayout.block_bytes(), std::byte{0});
    const std::string says = outcome_with([&](RawPeer& peer, const Landing& landing) {
      peer.send(Announce{landing.transfer, {0, kLayout.layers}, 0, 16, {BlockId{3}}, {5}, true});
      KvFrame frame{.transfer = landing.transfer,
                    .position = 0,
                    .offset = 0,
                    .bytes = static_cast<uint32_t>(bytes.size()),
                    .epoch = 5,
                    .checksum = 0};
      frame.checksum = XXH3_64bits(bytes.data(), bytes.size());
      row.spoil(frame);
      peer.send_frame(frame, bytes);
      peer.send(Pushed{landing.transfer, {0, kLayout.layers}, true});
    });
    EXPECT_NE(says.find(row.says), std::string::npos) << says;
  }
}

TEST(SocketMover, NamesWhatIsWrongWithAnAnnounce) {
  const std::string blocks = outcome_with([](RawPeer& peer, const Landing& landing) {
    peer.send(Announce{landing.transfer, {0, 3}, 0, 16, {BlockId{3}, BlockId{4}}, {5, 5}, true});
  });
  EXPECT_NE(blocks.find("source blocks is 2, expected 1"), std::string::npos) << blocks;
  const std::string layers = outcome_with([](RawPeer& peer, const Landing& landing) {
    peer.send(Announce{landing.transfer, {0, 9}, 0, 16, {BlockId{3}}, {5}, true});
  });
  EXPECT_NE(layers.find("9 layers, expected 1 to 3"), std::string::npos) << layers;
  const std::string early = outcome_with([](RawPeer& peer, const Landing& landing) {
    peer.send(Announce{landing.transfer, {0, 3}, 0, 16, {BlockId{3}}, {5}, true});
    peer.send(Pushed{landing.transfer, {0, 3}, true});
  });
  EXPECT_NE(early.find("0 of 16 positions have come"), std::string::npos) << early;
}

TEST(SocketMover, EndsAConnectionThatSendsGarbage) {
  const std::string kind = outcome_with(
      [](RawPeer& peer, const Landing&) { peer.send_bytes(std::vector<std::byte>(64, std::byte{0xFF})); });
  EXPECT_NE(kind.find("frame head: kind: 255"), std::string::npos) << kind;
  const std::string size = outcome_with([](RawPeer& peer, const Landing&) {
    std::vector<std::byte> head = encode(Message(Ping{}));
    head[3] = std::byte{0x7F};
    peer.send_bytes(head);
  });
  EXPECT_NE(size.find("frame head: body_bytes"), std::string::npos) << size;
}

// The first bytes of TLS may come one by one, and what follows them looks like nothing in particular.
TEST(SocketMover, WaitsForTheRestOfATlsHandshake) {
  const auto p = make_side({.encrypted = true, .listens = true});
  RawPeer raw(p->mover->port());
  for (const std::byte byte :
       {std::byte{22}, std::byte{3}, std::byte{1}, std::byte{2}, std::byte{0}, std::byte{1}}) {
    raw.send_bytes(std::span(&byte, 1));
    for (int i = 0; i < 5; ++i) p->step();
    ASSERT_FALSE(raw.is_closed());
  }
  const Time until = p->clock.now() + kPatience;
  while (!raw.is_closed() && p->clock.now() < until) p->step();
  EXPECT_TRUE(raw.is_closed()) << "the handshake has no end";
}

TEST(SocketMover, EndsAHandshakeThatNobodyAnswers) {
  RawPeer peer;
  const auto d = make_side({});
  d->target->expect({.transfer = random_id<TransferId>(),
                     .handover = random_id<HandoverId>(),
                     .host = "127.0.0.1",
                     .port = peer.port(),
                     .engine_id = {},
                     .incarnation = {},
                     .tokens = 16,
                     .prompt_hash = "hash",
                     .deadline = d->clock.now() + kPatience},
                    d->clock.now());
  const Time until = d->clock.now() + kPatience;
  while (d->outcomes.empty() && d->clock.now() < until) d->step();
  ASSERT_EQ(d->outcomes.size(), 1U);
  EXPECT_NE(d->outcomes[0].error->message.find("no handshake within 2 s"), std::string::npos);
}

}  // namespace
}  // namespace baton::transfer::tcp
