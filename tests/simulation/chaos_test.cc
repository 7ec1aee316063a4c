// A small share of what baton_chaos runs by the hundred thousand (`./dev test chaos`).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/simulation/chaos_run.h"

namespace baton::simulation::chaos {
namespace {

const Questions& questions() {
  static const Questions all;
  return all;
}

std::string replay_of(uint64_t seed) { return fmt::format("baton_chaos --seed {} --seeds 1", seed); }

TEST(Chaos, KeepsEveryPromiseWhateverHappens) {
  Stage stage(questions());
  Report all;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const Report report = stage.run({.seed = seed});
    ASSERT_EQ(report.violation, "") << replay_of(seed);
    all.add(report);
  }
  EXPECT_GT(all.answered, all.requests / 2) << "hardly anything is answered: the runs show nothing";
  EXPECT_GT(all.landed, all.requests / 4);
  EXPECT_GT(all.recomputed, 0U);
  EXPECT_GT(all.alone, all.requests / 10);
  EXPECT_GT(all.resumed, 0U);
  EXPECT_GT(all.faults, 50U);
}

TEST(Chaos, ASeedIsTheSameRunEachTime) {
  Stage stage(questions());
  Stage other(questions());
  const Report first = stage.run({.seed = 3, .requests = 100});
  stage.run({.seed = 5, .requests = 20});
  EXPECT_EQ(first.digest, stage.run({.seed = 3, .requests = 100}).digest);
  EXPECT_EQ(first.digest, other.run({.seed = 3, .requests = 100}).digest);
  EXPECT_NE(first.digest, stage.run({.seed = 7, .requests = 100}).digest);
}

}  // namespace
}  // namespace baton::simulation::chaos
