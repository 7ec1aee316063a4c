// The layer-wise order over real sockets: D listens, P calls, claims D's transfer and announces each layer of
// each chunk as it is computed.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "transfer/tcp/testing_pair.h"

namespace baton::transfer::tcp {
namespace {

struct Row {
  uint32_t tokens = 0;
  uint32_t present = 0;  // at D
  uint32_t chunk = 0;    // of the prefill
};

// P calls, D listens.
struct CallingPair {
  std::unique_ptr<Side> p;
  std::unique_ptr<Side> d;
  std::vector<std::byte> computed;  // what P's arena shall hold
  TransferId transfer = random_id<TransferId>();
  HandoverId handover = random_id<HandoverId>();
  std::vector<BlockId> source;
  std::vector<BlockId> target;

  CallingPair(Options from, Options to) {
    to.listens = true;
    p = make_side(from);
    d = make_side(to);
    fill(*p->arena, 1);
    fill(*d->arena, 2);
    computed.assign(p->arena->data(), p->arena->data() + kBlocks * from.layout.block_bytes());
  }
  void run_until(const std::function<bool()>& done) const {
    const Time end = p->clock.now() + kPatience;
    while (!done() && p->clock.now() < end) {
      p->step();
      d->step();
    }
    ASSERT_TRUE(done());
  }
  // D reserves, P promises; nothing is computed yet.
  void reserve(const Row& row, uint64_t seed) {
    transfer = random_id<TransferId>();
    handover = random_id<HandoverId>();
    source = shuffled_blocks(p->arena->layout().blocks_for(row.tokens), seed);
    const kv::KvLayout& layout = d->arena->layout();
    target = shuffled_blocks(layout.blocks_for(row.tokens) - row.present / layout.block_tokens, seed + 1);
    if (row.present == row.tokens) target.clear();
    d->target->expect({.flow = Flow::kFromCaller,
                       .transfer = transfer,
                       .handover = {},
                       .host = {},
                       .engine_id = {},
                       .incarnation = {},
                       .tokens = row.tokens,
                       .prompt_hash = "hash",
                       .deadline = d->clock.now() + kPatience},
                      d->clock.now());
    d->target->land(transfer, target, row.present, d->clock.now());
    for (const BlockId block : source)
      std::memset(p->arena->data() + p->arena->layout().offset(0, block), 0,
                  p->arena->layout().block_bytes());
    p->source->promise({.id = handover,
                        .transfer = transfer,
                        .host = "127.0.0.1",
                        .port = d->mover->port(),
                        .engine_id = {},
                        .incarnation = d->incarnation,
                        .tokens = row.tokens,
                        .prompt_hash = "hash",
                        .deadline = p->clock.now() + kPatience},
                       p->clock.now());
  }
  // One layer of positions [first, end), as a pass leaves it, and the word about it.
  void compute(uint32_t layer, uint32_t first, uint32_t end) const {
    const kv::KvLayout& layout = p->arena->layout();
    for (uint32_t i = first / layout.block_tokens; i < layout.blocks_for(end); ++i) {
      const std::span<std::byte> bytes = p->arena->at(layer, source[i]);
      std::memcpy(bytes.data(), computed.data() + (bytes.data() - p->arena->data()), bytes.size());
    }
    p->source->on_layer(handover, source, layer, end);
  }
  void compute_all(const Row& row) const {
    for (uint32_t first = 0; first < row.tokens; first += row.chunk) {
      const uint32_t end = std::min(row.tokens, first + row.chunk);
      for (uint32_t layer = 0; layer < kLayout.layers; ++layer) {
        compute(layer, first, end);
        p->step();
        d->step();
      }
    }
  }
  void expect_moved(const Row& row) const {
    if (target.empty()) return;
    const uint32_t from = p->arena->layout().block_tokens;
    const uint32_t to = d->arena->layout().block_tokens;
    const kv::Move move = kv::move_of(row.present, row.tokens, from, to);
    for (kv::PieceCursor at(move); !at.is_done(); at.next()) {
      std::vector<std::byte> sent(kLayout.layers * kLayout.layer_bytes(at->tokens));
      std::vector<std::byte> got(sent.size());
      kv::gather(*p->arena, {source[row.present / from + at->source], at->source_token, at->tokens}, 0, sent);
      kv::gather(*d->arena, {target[at->target], at->target_token, at->tokens}, 0, got);
      ASSERT_EQ(sent, got) << "positions from " << at->first;
    }
  }
};

class Layerwise : public testing::TestWithParam<Way> {};

TEST_P(Layerwise, FillsBlocksLayerByLayerAndChunkByChunk) {
  for (const auto& [from, to] :
       {std::pair{16U, 16U}, {32U, 32U}, {16U, 48U}, {48U, 16U}, {48U, 32U}, {64U, 48U}}) {
    kv::KvLayout p_layout = kLayout;
    kv::KvLayout d_layout = kLayout;
    p_layout.block_tokens = from;
    d_layout.block_tokens = to;
    CallingPair pair(options_of(GetParam(), {.layout = p_layout, .secret = "0123456789abcdef"}),
                     options_of(GetParam(), {.layout = d_layout, .secret = "0123456789abcdef"}));
    uint64_t seed = 0;
    for (const Row& row : {Row{1, 0, 8}, Row{16, 0, 16}, Row{97, 0, 97}, Row{97, 0, 10}, Row{250, to, 40},
                           Row{250, 3 * to, 100}, Row{191, to, 1}, Row{200, 200, 64}}) {
      SCOPED_TRACE(fmt::format("{} to {}: {} of {} tokens present, chunks of {}", from, to, row.present,
                               row.tokens, row.chunk));
      pair.reserve(row, ++seed);
      pair.run_until([&] { return !pair.p->ready.empty(); });
      pair.compute_all(row);
      ASSERT_TRUE(pair.d->outcomes.empty()) << "landed before P was done";
      const std::vector<std::byte> note{std::byte{1}, std::byte{2}};
      ASSERT_TRUE(pair.p->source->finish(pair.handover, pair.source, note, pair.p->clock.now()));
      pair.run_until([&] { return !pair.d->outcomes.empty() && !pair.p->released.empty(); });
      ASSERT_FALSE(pair.d->outcomes[0].error) << pair.d->outcomes[0].error->message;
      EXPECT_EQ(pair.d->outcomes[0].note, note);
      EXPECT_EQ(pair.d->outcomes[0].transport, GetParam().transport);
      EXPECT_EQ(pair.p->released[0].end, HoldEnd::kTaken);
      EXPECT_EQ(pair.p->released[0].blocks, pair.source);
      pair.expect_moved(row);
      if (HasFatalFailure()) return;
      for (Side* side : {pair.p.get(), pair.d.get()}) {
        side->outcomes.clear();
        side->released.clear();
        side->ready.clear();
      }
    }
  }
}

// Passes that end early are computed again, perhaps over other positions: what was announced stays as it is.
TEST_P(Layerwise, AnnouncesEachLayerOnceWhateverPassesDo) {
  CallingPair pair(options_of(GetParam()), options_of(GetParam()));
  const Row row{96, 0, 0};
  pair.reserve(row, 1);
  pair.run_until([&] { return !pair.p->ready.empty(); });
  const auto pass = [&](uint32_t first, uint32_t end, uint32_t layers) {
    for (uint32_t layer = 0; layer < layers; ++layer) pair.compute(layer, first, end);
  };
  pass(0, 40, 2);   // ends after two layers
  pass(0, 20, 3);   // goes less far
  pass(20, 70, 1);  // ends after one
  pass(20, 70, 3);
  pass(70, 96, 3);
  ASSERT_TRUE(pair.p->source->finish(pair.handover, pair.source, {}, pair.p->clock.now()));
  pair.run_until([&] { return !pair.d->outcomes.empty() && !pair.p->released.empty(); });
  ASSERT_FALSE(pair.d->outcomes[0].error) << pair.d->outcomes[0].error->message;
  EXPECT_EQ(pair.d->outcomes[0].bytes, 6 * kLayout.block_bytes());
  pair.expect_moved(row);
}

TEST_P(Layerwise, WhatIsGivenAwayWhileItMovesDoesNotLand) {
  CallingPair pair(options_of(GetParam()), options_of(GetParam()));
  pair.reserve({64, 0, 0}, 1);
  pair.run_until([&] { return !pair.p->ready.empty(); });
  for (uint32_t layer = 0; layer < kLayout.layers; ++layer) pair.compute(layer, 0, 64);
  pair.p->arena->bump_epoch(pair.source[2]);
  pair.run_until([&] { return !pair.d->outcomes.empty(); });
  ASSERT_TRUE(pair.d->outcomes[0].error);
}

TEST_P(Layerwise, AClaimOfWhatNobodyExpectsIsSentAway) {
  CallingPair pair(options_of(GetParam()), options_of(GetParam()));
  pair.p->source->promise({.id = pair.handover,
                           .transfer = pair.transfer,
                           .host = "127.0.0.1",
                           .port = pair.d->mover->port(),
                           .engine_id = {},
                           .incarnation = {},
                           .tokens = 1,
                           .prompt_hash = "hash",
                           .deadline = pair.p->clock.now() + kPatience},
                          pair.p->clock.now());
  pair.run_until([&] { return !pair.p->released.empty(); });
  EXPECT_EQ(pair.p->released[0].end, HoldEnd::kReleasedByPeer);
  EXPECT_NE(pair.p->released[0].reason.find("not expected here"), std::string::npos);
}

TEST_P(Layerwise, AnotherLifeOfDGetsNothing) {
  CallingPair pair(options_of(GetParam()), options_of(GetParam()));
  pair.d->incarnation = random_id<Incarnation>();  // the promise names one that is gone
  pair.reserve({16, 0, 16}, 1);
  pair.run_until([&] { return !pair.p->released.empty() && !pair.d->outcomes.empty(); });
  EXPECT_EQ(pair.p->released[0].end, HoldEnd::kFailed);
  EXPECT_NE(pair.p->released[0].reason.find("it has restarted"), std::string::npos);
  EXPECT_TRUE(pair.d->outcomes[0].error);
}

INSTANTIATE_TEST_SUITE_P(EachTransport, Layerwise, testing::ValuesIn(kWays),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace baton::transfer::tcp
