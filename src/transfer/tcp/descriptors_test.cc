// Prompts of 10,000 scattered blocks: one Landing and one Announce name them all, whatever carries the bytes.
#include <gtest/gtest.h>

#include <cstring>

#include "transfer/tcp/testing_pair.h"

namespace baton::transfer::tcp {
namespace {

constexpr uint32_t kMany = 10'000;
constexpr kv::KvLayout kSmall{.layers = 1, .kv_heads = 1, .head_dim = 16, .block_tokens = 16};
constexpr uint32_t kTokens = kMany * kSmall.block_tokens;

// P holds kMany blocks, D has reserved as many; neither has two neighbours in order.
struct ManyBlocks {
  explicit ManyBlocks(const Way& way) : pair(side(way), side(way)) {
    const auto handover = random_id<HandoverId>();
    pair.p->source->hold({handover, source, kTokens, "hash"}, pair.p->clock.now());
    expected = pair.expect(handover, kTokens);
    pair.d->target->expect(expected, pair.d->clock.now());
    pair.d->target->land(expected.transfer, target, 0, pair.d->clock.now());
  }
  static Options side(const Way& way) {
    return options_of(way, {.layout = kSmall, .blocks = kMany, .adjust = [](SocketMoverConfig& config) {
                              config.heartbeat = std::chrono::milliseconds(1);
                            }});
  }
  size_t blocks_equal() const {
    size_t equal = 0;
    for (uint32_t i = 0; i < kMany; ++i) {
      const auto at = [&](const kv::KvArena& arena, BlockId block) {
        return std::as_const(arena).data() + kSmall.offset(0, block);
      };
      equal += std::memcmp(at(*pair.p->arena, source[i]), at(*pair.d->arena, target[i]),
                           kSmall.block_bytes()) == 0;
    }
    return equal;
  }

  std::vector<BlockId> source = shuffled_blocks(kMany, 1, kMany);
  std::vector<BlockId> target = shuffled_blocks(kMany, 2, kMany);
  Pair pair;
  Expected expected;
};

class Descriptors : public testing::TestWithParam<Way> {};
class Pushes : public testing::TestWithParam<Way> {};

TEST_P(Descriptors, TenThousandLandInOneCall) {
  const ManyBlocks many(GetParam());
  many.pair.run_until([&] { return !many.pair.d->outcomes.empty(); });
  ASSERT_EQ(many.pair.d->outcomes.size(), 1U);
  EXPECT_FALSE(many.pair.d->outcomes[0].error) << many.pair.d->outcomes[0].error->message;
  EXPECT_EQ(many.pair.d->outcomes[0].bytes, kMany * kSmall.block_bytes());
  EXPECT_EQ(many.blocks_equal(), kMany);
  many.pair.run_until([&] { return !many.pair.p->released.empty(); });
  EXPECT_EQ(many.pair.p->released[0].blocks.size(), kMany);
}

TEST_P(Descriptors, AfterAFailureTheMemoryIsQuiet) {
  const ManyBlocks many(GetParam());
  const Pair& pair = many.pair;
  while (pair.d->target->snapshot()[0].state != TransferState::kMoving) {
    pair.p->step();
    pair.d->step();
  }
  pair.p->step();  // P is sending
  pair.d->target->abort(many.expected.transfer, "test", pair.d->clock.now());
  pair.run_until([&] { return !pair.d->outcomes.empty(); });
  ASSERT_EQ(pair.d->outcomes.size(), 1U);
  EXPECT_EQ(pair.d->outcomes[0].error->code, Code::kCancelled);
  const size_t bytes = kMany * kSmall.block_bytes();
  const std::vector<std::byte> before(pair.d->arena->data(), pair.d->arena->data() + bytes);
  for (int i = 0; i < 100; ++i) {
    pair.p->step();
    pair.d->step();
  }
  EXPECT_EQ(0, std::memcmp(before.data(), pair.d->arena->data(), bytes));
}

// Over a slow link it may take longer than the lease of what is pushed.
TEST_P(Pushes, AreHeardOfBeforeTheyAreWhole) {
  const ManyBlocks many(GetParam());
  many.pair.run_until([&] { return !many.pair.d->outcomes.empty(); });
  const auto told = std::ranges::count_if(many.pair.p->events, [&](const MoverEvent& event) {
    const auto* const progress = std::get_if<PushProgress>(&event);
    return progress != nullptr && progress->transfer == many.expected.transfer &&
           progress->bytes < kMany * kSmall.block_bytes();
  });
  EXPECT_GT(told, 0);
}

INSTANTIATE_TEST_SUITE_P(OverEveryWay, Descriptors, testing::ValuesIn(kWays),
                         [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(WhereDDoesNotCopy, Pushes, testing::ValuesIn(std::begin(kWays) + 1, std::end(kWays)),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace baton::transfer::tcp
