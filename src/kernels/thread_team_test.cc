#include "kernels/thread_team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "kernels/float_mode.h"

namespace baton::kernels {
namespace {

TEST(ThreadTeam, RunsEveryTaskOnceForAllSizesAndTeams) {
  for (unsigned threads = 1; threads <= 4; ++threads) {
    ThreadTeam team(threads);
    for (const size_t count : {0UL, 1UL, 2UL, 3UL, 7UL, 64UL, 1000UL}) {
      std::vector<std::atomic<int>> runs(count);
      team.run(count, [&](size_t i) { runs[i].fetch_add(1); });
      for (size_t i = 0; i < count; ++i) EXPECT_EQ(runs[i].load(), 1) << threads << " threads, task " << i;
    }
  }
}

TEST(ThreadTeam, SeesWhatEarlierJobsWroteOverThousandsOfJobs) {
  ThreadTeam team(3);
  std::vector<uint64_t> values(16, 0);
  constexpr uint64_t kJobs = 5000;
  for (uint64_t job = 0; job < kJobs; ++job) {
    team.run(values.size(), [&](size_t i) { values[i] = values[i] + job; });
  }
  for (const uint64_t value : values) EXPECT_EQ(value, kJobs * (kJobs - 1) / 2);
}

TEST(ThreadTeam, WakesWorkersThatWentToSleep) {
  ThreadTeam team(2);
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(4 * kSpin);
    std::atomic<int> runs{0};
    team.run(8, [&](size_t) { runs.fetch_add(1); });
    EXPECT_EQ(runs.load(), 8);
  }
}

TEST(ThreadTeam, WaitsForATaskThatTakesLongerThanTheSpin) {
  ThreadTeam team(2);
  std::atomic<int> slow{0};
  team.run(2, [&](size_t) {
    std::this_thread::sleep_for(10 * kSpin);
    slow.fetch_add(1);
  });
  EXPECT_EQ(slow.load(), 2);
}

TEST(ThreadTeam, FlushesDenormalsInEveryTaskAndLeavesTheCallersModeAlone) {
  volatile float tiny = 0x1p-100F;
  ThreadTeam team(3);
  std::atomic<int> kept{0};
  team.run(64, [&](size_t) { kept.fetch_add(tiny * 0x1p-40F != 0.0F ? 1 : 0); });
  EXPECT_EQ(kept.load(), 0);
  EXPECT_NE(tiny * 0x1p-40F, 0.0F);
}

TEST(ThreadTeamDeathTest, DiesWhenATaskRunsTheTeamAgain) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ThreadTeam team(1);
        team.run(2, [&](size_t) { team.run(1, [](size_t) {}); });
      },
      "one caller");
}

}  // namespace
}  // namespace baton::kernels
