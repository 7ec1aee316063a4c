#include "transfer/target.h"

#include <gtest/gtest.h>

namespace baton::transfer {
namespace {

constexpr kv::KvLayout kLayout{.layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 16};

// A block whose transfer was stopped may still be stored into until the mover says otherwise.
TEST(Target, KeepsTheBlocksOfAnAbortedTransferUntilNoStoreCanCome) {
  const auto arena = *kv::KvArena::create(kLayout, 4, Incarnation{});
  Target target({}, *arena);
  ManualClock clock;
  const auto id = random_id<TransferId>();
  target.expect({.transfer = id,
                 .handover = random_id<HandoverId>(),
                 .host = "p",
                 .port = 1,
                 .engine_id = {},
                 .incarnation = {},
                 .tokens = 16,
                 .prompt_hash = "h",
                 .deadline = clock.now() + std::chrono::seconds(9)},
                clock.now());
  target.land(id, {BlockId{2}}, 0, clock.now());
  target.on_event(PeerUp{.peer = PeerId{1}, .identity = {}, .transport = Transport::kFake}, clock.now());
  ASSERT_EQ(target.snapshot()[0].state, TransferState::kMoving);
  target.abort(id, "the client left", clock.now());
  EXPECT_TRUE(target.take_outcomes().empty());
  target.on_event(Landed{id, 1}, clock.now());
  EXPECT_TRUE(target.take_outcomes().empty());
  target.on_event(StoresStopped{id}, clock.now());
  const auto outcomes = target.take_outcomes();
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(outcomes[0].error->code, Code::kCancelled);
}

}  // namespace
}  // namespace baton::transfer
