// What one peer may cost the others: nothing but its share.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <semaphore>

#include "transfer/tcp/testing_pair.h"

namespace baton::transfer::tcp {
namespace {

Expected expected_at(const Side& p, const Side& d, HandoverId handover, uint32_t tokens) {
  return {.transfer = random_id<TransferId>(),
          .handover = handover,
          .host = "127.0.0.1",
          .port = p.mover->port(),
          .engine_id = "p-engine",
          .incarnation = p.incarnation,
          .tokens = tokens,
          .prompt_hash = "hash",
          .deadline = d.clock.now() + kPatience};
}

// P holds `count` blocks from `first` on, which D takes into blocks of the same numbers.
TransferId hand_over(Side& p, Side& d, uint32_t first, uint32_t count) {
  const auto handover = random_id<HandoverId>();
  std::vector<BlockId> blocks;
  for (uint32_t i = 0; i < count; ++i) blocks.push_back(BlockId{first + i});
  const uint32_t tokens = count * p.arena->layout().block_tokens;
  p.source->hold({handover, blocks, tokens, "hash"}, p.clock.now());
  const Expected expected = expected_at(p, d, handover, tokens);
  d.target->expect(expected, d.clock.now());
  d.target->land(expected.transfer, blocks, 0, d.clock.now());
  return expected.transfer;
}

void step_until(const std::vector<Side*>& sides, const std::function<bool()>& done) {
  const Time end = sides.front()->clock.now() + kPatience;
  while (!done()) {
    ASSERT_LT(sides.front()->clock.now(), end);
    for (Side* const side : sides) side->step();
  }
}

class Shared : public testing::TestWithParam<TransportChoice> {};

// A block takes several frames and slices.
constexpr kv::KvLayout kLarge{.layers = 24, .kv_heads = 8, .head_dim = 128, .block_tokens = 16};

TEST_P(Shared, ALargeTransferDoesNotHoldUpASmallOneOfTheSameConnection) {
  const Pair pair({.choice = GetParam(), .layout = kLarge}, {.choice = GetParam(), .layout = kLarge});
  hand_over(*pair.p, *pair.d, 10, 1);  // the connection is up
  pair.run_until([&] { return pair.d->outcomes.size() == 1; });
  pair.d->outcomes.clear();
  const TransferId large = hand_over(*pair.p, *pair.d, 0, 5);  // less than a window
  const TransferId small = hand_over(*pair.p, *pair.d, 5, 1);
  pair.run_until([&] { return pair.d->outcomes.size() == 2; });
  EXPECT_FALSE(pair.d->outcomes[0].error);
  EXPECT_EQ(pair.d->outcomes[0].transfer, small);
  EXPECT_FALSE(pair.d->outcomes[1].error);
  EXPECT_EQ(pair.d->outcomes[1].transfer, large);
}

TEST_P(Shared, ALargeTransferDoesNotHoldUpAnotherConnection) {
  const Pair pair({.choice = GetParam(), .layout = kLarge}, {.choice = GetParam(), .layout = kLarge});
  const auto other = make_side({.choice = GetParam(), .layout = kLarge});
  hand_over(*pair.p, *pair.d, 0, 20);
  hand_over(*pair.p, *other, 20, 1);
  step_until({pair.p.get(), pair.d.get(), other.get()},
             [&] { return !other->outcomes.empty() || !pair.d->outcomes.empty(); });
  EXPECT_EQ(other->outcomes.size(), 1U);
  EXPECT_TRUE(pair.d->outcomes.empty());
}

INSTANTIATE_TEST_SUITE_P(Connections, Shared,
                         testing::Values(TransportChoice::kTcp, TransportChoice::kLocal));

Hello hello_of(const Side& p) {
  Hello hello;
  hello.identity.engine_id = "raw";
  hello.identity.incarnation = random_id<Incarnation>();
  hello.identity.fingerprint = "f00d";
  hello.identity.layout = p.arena->layout();
  return hello;
}

// As far as the connection's being up on P.
void shake_hands(RawPeer& raw, Side& p) {
  raw.send(hello_of(p));
  std::optional<Message> answer;
  const auto wait_for_answer = [&] {
    step_until({&p}, [&] {
      answer = raw.receive();
      return answer.has_value();
    });
  };
  wait_for_answer();
  ASSERT_TRUE(answer && std::holds_alternative<Challenge>(*answer));
  raw.send(Proof{});
  wait_for_answer();
  ASSERT_TRUE(answer && std::holds_alternative<Welcome>(*answer));
  raw.send(Ready{});
}

TEST(Connections, APeerThatDoesNotReadDelaysNobody) {
  const auto p =
      make_side({.choice = TransportChoice::kTcp, .layout = kLarge, .secret = {}, .listens = true});
  const auto d = make_side({.choice = TransportChoice::kTcp, .layout = kLarge});
  RawPeer raw(p->mover->port());
  raw.shrink_receive_buffer();
  shake_hands(raw, *p);
  Landing landing;
  landing.transfer = random_id<TransferId>();
  landing.handover = random_id<HandoverId>();
  const auto is_up = [&] {
    return std::ranges::any_of(p->events,
                               [](const auto& event) { return std::holds_alternative<PeerUp>(event); });
  };
  step_until({p.get()}, is_up);
  for (const MoverEvent& event : p->events) {
    if (const auto* const up = std::get_if<PeerUp>(&event))
      landing.target_incarnation = up->identity.incarnation;
  }
  std::vector<BlockId> blocks;
  for (uint32_t i = 0; i < 30; ++i) blocks.push_back(BlockId{i});
  p->source->hold({landing.handover, blocks, 480, "hash"}, p->clock.now());
  landing.target = blocks;
  landing.tokens_total = 480;
  landing.prompt_hash = "hash";
  landing.deadline = kPatience;
  raw.send(landing);
  step_until({p.get()}, [&] { return p->source->snapshot()[0].state == HeldState::kMoving; });
  hand_over(*p, *d, 40, 8);
  step_until({p.get(), d.get()}, [&] { return !d->outcomes.empty(); });
  EXPECT_FALSE(d->outcomes[0].error);
  EXPECT_FALSE(std::ranges::any_of(p->events, [](const auto& event) {
    return std::holds_alternative<PeerLost>(event);
  })) << "it waited until the peer that does not read was given up";
}

bool answers_hello(RawPeer& raw, Side& p) {
  raw.send(hello_of(p));
  std::optional<Message> answer;
  step_until({&p}, [&] {
    if (!raw.is_closed()) answer = raw.receive();
    return answer || raw.is_closed();
  });
  return answer && std::holds_alternative<Challenge>(*answer);
}

TEST(Connections, OneBeyondTheLimitIsClosedAndTheOthersGoOn) {
  const auto p = make_side({.listens = true, .adjust = [](auto& config) { config.accepted_max = 2; }});
  auto first = std::make_unique<RawPeer>(p->mover->port());
  EXPECT_TRUE(answers_hello(*first, *p));
  RawPeer second(p->mover->port());
  EXPECT_TRUE(answers_hello(second, *p));
  {
    RawPeer third(p->mover->port());
    step_until({p.get()}, [&] { return third.is_closed(); });
  }
  first.reset();
  // P learns of the end before or after the next one comes.
  std::unique_ptr<RawPeer> fourth;
  step_until({p.get()}, [&] {
    fourth = std::make_unique<RawPeer>(p->mover->port());
    for (int i = 0; i < 10; ++i) p->step();
    return !fourth->is_closed();
  });
  EXPECT_TRUE(answers_hello(*fourth, *p));
  EXPECT_FALSE(second.is_closed());
}

TEST(Connections, OutgoingOnesDoNotCountTowardsTheLimit) {
  const auto p = make_side({.listens = true});
  const auto both = make_side({.listens = true, .adjust = [](auto& config) { config.accepted_max = 1; }});
  hand_over(*p, *both, 0, 2);
  step_until({p.get(), both.get()}, [&] { return both->outcomes.size() == 1; });
  RawPeer raw(both->mover->port());
  EXPECT_TRUE(answers_hello(raw, *both));
}

// The lowest descriptor that is free now is the first that may not be had.
class WithoutFreeDescriptors {
 public:
  WithoutFreeDescriptors() {
    getrlimit(RLIMIT_NOFILE, &before_);
    const net::Fd lowest(dup(0));
    rlimit none = before_;
    none.rlim_cur = static_cast<rlim_t>(lowest.get());
    setrlimit(RLIMIT_NOFILE, &none);
  }
  ~WithoutFreeDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST(Connections, WaitWhileNoDescriptorIsFree) {
  const auto p = make_side({.listens = true});
  RawPeer raw(p->mover->port());
  {
    const WithoutFreeDescriptors none;
    int polls = 0;
    const Time end = p->clock.now() + std::chrono::milliseconds(300);
    for (; p->clock.now() < end; ++polls) p->mover->poll(std::chrono::milliseconds(10));
    EXPECT_LT(polls, 200) << "the transfer thread spins";
  }
  EXPECT_TRUE(answers_hello(raw, *p));
}

// Names for a D: "hangs" is answered when its connection has long been given up, "second" has P's address
// behind one that refuses.
struct Names {
  struct Inside {
    std::counting_semaphore<> may_end{0};
    std::counting_semaphore<> ended{0};
  };
  std::shared_ptr<Inside> inside = std::make_shared<Inside>();

  net::Resolver::Lookup lookup() const {
    return [inside = inside](const net::Address& address) -> Result<std::vector<net::Endpoint>> {
      if (address.host == "hangs") {
        static_cast<void>(inside->may_end.try_acquire_for(std::chrono::seconds(5)));
        inside->ended.release();
      }
      if (address.host == "nowhere") return fail(Code::kUnavailable, "host \"nowhere\": unknown");
      const auto found = *net::literal_endpoint("127.0.0.1", 0);
      if (address.host == "second") return std::vector{*net::literal_endpoint("127.0.0.9", 0), found};
      return std::vector{found};
    };
  }
};

TEST(Connections, ANameThatHangsDelaysNobody) {
  const Names names;
  const auto p = make_side({.listens = true});
  const auto d = make_side({.adjust = [&](SocketMoverConfig& config) { config.lookup = names.lookup(); }});
  std::map<std::string, TransferId> transfers;
  for (const std::string host : {"hangs", "nowhere", "second", "p", "127.0.0.1"}) {
    const auto handover = random_id<HandoverId>();
    const auto block = static_cast<uint32_t>(transfers.size());
    p->source->hold({handover, {BlockId{block}}, 16, "hash"}, p->clock.now());
    Expected expected = expected_at(*p, *d, handover, 16);
    expected.host = host;
    transfers[host] = expected.transfer;
    d->target->expect(expected, d->clock.now());
    d->target->land(expected.transfer, {BlockId{block}}, 0, d->clock.now());
  }
  step_until({p.get(), d.get()}, [&] { return d->outcomes.size() == 5; });
  std::map<TransferId, Outcome> ends;
  for (const Outcome& outcome : d->outcomes) ends[outcome.transfer] = outcome;
  for (const char* const host : {"second", "p", "127.0.0.1"}) {
    const Outcome& outcome = ends[transfers[host]];
    EXPECT_FALSE(outcome.error) << host << ": " << outcome.error->message;
  }
  EXPECT_EQ(ends[transfers["nowhere"]].error->code, Code::kUnavailable);
  ASSERT_EQ(d->outcomes.back().transfer, transfers["hangs"]);
  const Error error = d->outcomes.back().error.value_or(Error{});
  EXPECT_EQ(error.code, Code::kTimeout);
  EXPECT_NE(error.message.find("no address within 2 s"), std::string::npos) << error.message;
  names.inside->may_end.release();
  names.inside->ended.acquire();
}

}  // namespace
}  // namespace baton::transfer::tcp
