// What only one-sided writes need: who may use them, and blocks that stay shut until P has let go of them.
#include "transfer/ucx/fabric.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "transfer/tcp/testing_pair.h"

// UCX keeps a few bytes of its tables to the end of the process.
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libuct.so";
}  // NOLINT(bugprone-reserved-identifier)

namespace baton::transfer::tcp {
namespace {

const Options kShared{.choice = TransportChoice::kUcx, .ucx_transports = "posix"};

TEST(Fabric, IsChosenOnlyWhereAPortIsUp) {
  const std::filesystem::path root = std::filesystem::temp_directory_path() / random_id<TransferId>().hex();
  EXPECT_FALSE(ucx::has_active_device(root));
  std::filesystem::create_directories(root / "mlx5_0/ports/1");
  EXPECT_FALSE(ucx::has_active_device(root));
  std::ofstream(root / "mlx5_0/ports/1/state") << "1: DOWN\n";
  EXPECT_FALSE(ucx::has_active_device(root));
  std::filesystem::create_directories(root / "mlx5_1/ports/1");
  std::ofstream(root / "mlx5_1/ports/1/state") << "4: ACTIVE\n";
  EXPECT_TRUE(ucx::has_active_device(root));
  std::filesystem::remove_all(root);
  EXPECT_EQ(ucx::choose_transports(true), "rc");
}

TEST(Fabric, IsRefusedByNameIfThePeerHasNone) {
  for (const auto& [source, target] : {std::pair{kShared, Options{.choice = TransportChoice::kTcp}},
                                       {Options{.choice = TransportChoice::kTcp}, kShared}}) {
    const Pair pair(source, target);
    pair.d->target->expect(pair.expect(random_id<HandoverId>(), 64), pair.d->clock.now());
    pair.run_until([&] { return !pair.d->outcomes.empty(); });
    ASSERT_EQ(pair.d->outcomes.size(), 1U);
    EXPECT_NE(pair.d->outcomes[0].error->message.find("--kv-transport ucx"), std::string::npos)
        << pair.d->outcomes[0].error->message;
  }
}

// By writes, and by messages.
class FabricMoves : public testing::TestWithParam<const char*> {};

// D has granted blocks, P is about to fill them.
struct Moving {
  Pair pair;
  Expected expected;
  std::vector<BlockId> target = shuffled_blocks(4, 2);

  explicit Moving(const char* ucx_transports)
      : pair({.choice = TransportChoice::kUcx, .ucx_transports = ucx_transports},
             {.choice = TransportChoice::kUcx, .ucx_transports = ucx_transports}) {
    const auto handover = random_id<HandoverId>();
    pair.p->source->hold({handover, shuffled_blocks(4, 1), 64, "hash"}, pair.p->clock.now());
    expected = pair.expect(handover, 64);
    pair.d->target->expect(expected, pair.d->clock.now());
    pair.d->target->land(expected.transfer, target, 0, pair.d->clock.now());
    while (pair.d->target->snapshot()[0].state != TransferState::kMoving) {
      pair.p->step();
      pair.d->step();
    }
  }
  size_t stops() const {
    return static_cast<size_t>(std::ranges::count_if(pair.d->events, [](const MoverEvent& event) {
      return std::holds_alternative<StoresStopped>(event);
    }));
  }
};

TEST_P(FabricMoves, KeepsBlocksUntilPHasWithdrawn) {
  const Moving moving(GetParam());
  moving.pair.d->target->abort(moving.expected.transfer, "test", moving.pair.d->clock.now());
  for (int i = 0; i < 20; ++i) moving.pair.d->step();
  EXPECT_EQ(moving.stops(), 0U) << "P may still write";
  EXPECT_TRUE(moving.pair.d->outcomes.empty());
  moving.pair.run_until([&] { return !moving.pair.d->outcomes.empty(); });
  EXPECT_EQ(moving.stops(), 1U);
  EXPECT_EQ(moving.pair.d->outcomes[0].error->code, Code::kCancelled);
}

TEST_P(FabricMoves, GivesBlocksBackWhenTheWayOfASilentPeerIsClosed) {
  const Moving moving(GetParam());
  moving.pair.d->target->abort(moving.expected.transfer, "test", moving.pair.d->clock.now());
  const Time end = moving.pair.d->clock.now() + kPatience;
  while (moving.pair.d->outcomes.empty() && moving.pair.d->clock.now() < end) moving.pair.d->step();
  ASSERT_EQ(moving.pair.d->outcomes.size(), 1U);
  const auto lost = std::ranges::find_if(
      moving.pair.d->events, [](const MoverEvent& event) { return std::holds_alternative<PeerLost>(event); });
  const auto stopped = std::ranges::find_if(moving.pair.d->events, [](const MoverEvent& event) {
    return std::holds_alternative<StoresStopped>(event);
  });
  ASSERT_NE(lost, moving.pair.d->events.end());
  EXPECT_LT(lost, stopped);
  // What P writes now reaches nobody.
  const std::vector<std::byte> before(moving.pair.d->arena->data(),
                                      moving.pair.d->arena->data() + kBlocks * kLayout.block_bytes());
  for (int i = 0; i < 200; ++i) {
    moving.pair.p->step();
    moving.pair.d->step();
  }
  EXPECT_EQ(0, std::memcmp(before.data(), moving.pair.d->arena->data(), before.size()));
}

INSTANTIATE_TEST_SUITE_P(Ucx, FabricMoves, testing::Values("posix", "tcp"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Fabric, SendsMessagesWhereverUcxMayUseItsTcp) {
  for (const char* written : {"rc", "posix", "posix,sysv", "rc,dc", "self"})
    EXPECT_FALSE(ucx::needs_messages(written)) << written;
  for (const char* sent : {"tcp", "posix,sysv,tcp", "all", "^tcp", "ud"})
    EXPECT_TRUE(ucx::needs_messages(sent)) << sent;
}

}  // namespace
}  // namespace baton::transfer::tcp
