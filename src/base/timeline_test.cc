#include "base/timeline.h"

#include <gtest/gtest.h>

#include <random>

namespace baton {
namespace {

using std::chrono::nanoseconds;

Time at(int64_t ns) { return {nanoseconds(ns)}; }

Duration sum(const std::vector<Timeline::Part>& parts) {
  Duration all{0};
  for (const auto& part : parts) all += part.took;
  return all;
}

TEST(Timeline, APartEndsWhereTheNextBegins) {
  Timeline line(Phase::kTokenise, at(10));
  line.enter(Phase::kQueue, at(13));
  line.enter(Phase::kPrefill, at(20));
  line.end(at(50));
  const std::vector<Timeline::Part> expected = {{Phase::kTokenise, nanoseconds(3)},
                                                {Phase::kQueue, nanoseconds(7)},
                                                {Phase::kPrefill, nanoseconds(30)}};
  EXPECT_EQ(line.parts(), expected);
  EXPECT_EQ(line.total(), nanoseconds(40));
}

TEST(Timeline, WhatTookNoTimeLeavesNoTraceAndEqualNeighboursAreOne) {
  Timeline line(Phase::kQueue, at(0));
  line.enter(Phase::kReserve, at(5));
  line.enter(Phase::kQueue, at(5));
  line.enter(Phase::kQueue, at(7));
  line.enter(Phase::kDecode, at(9));
  line.end(at(9));
  const std::vector<Timeline::Part> expected = {{Phase::kQueue, nanoseconds(9)}};
  EXPECT_EQ(line.parts(), expected);
}

TEST(Timeline, AMomentBeforeThePresentPartCountsAsItsBeginning) {
  Timeline line(Phase::kQueue, at(100));
  line.enter(Phase::kPrefill, at(110));
  line.enter(Phase::kDecode, at(90));
  line.end(at(80));
  const std::vector<Timeline::Part> expected = {{Phase::kQueue, nanoseconds(10)}};
  EXPECT_EQ(line.parts(), expected);
  EXPECT_EQ(line.end(), at(110));
}

TEST(Timeline, OneThatHasNotBegunHasNoParts) {
  EXPECT_TRUE(Timeline().parts().empty());
  EXPECT_EQ(Timeline().total(), Duration{0});
}

TEST(Timeline, AnotherOwnersPartsBecomeTheNextOnes) {
  Timeline engine(Phase::kReserve, at(18));
  engine.enter(Phase::kHandover, at(30));
  engine.end(at(33));
  Timeline door(Phase::kTokenise, at(10));
  door.enter(Phase::kQueue, at(15));
  door.append(engine, Phase::kDeliver);
  door.end(at(40));
  const std::vector<Timeline::Part> expected = {{Phase::kTokenise, nanoseconds(5)},
                                                {Phase::kQueue, nanoseconds(3)},
                                                {Phase::kReserve, nanoseconds(12)},
                                                {Phase::kHandover, nanoseconds(3)},
                                                {Phase::kDeliver, nanoseconds(7)}};
  EXPECT_EQ(door.parts(), expected);
}

TEST(Timeline, ATimeSinceAPhaseGoesToTheEnd) {
  Timeline line(Phase::kPrefill, at(0));
  line.enter(Phase::kDecodeWait, at(10));
  line.enter(Phase::kDecode, at(12));
  line.enter(Phase::kPreempted, at(20));
  line.enter(Phase::kDecode, at(30));
  line.end(at(50));
  EXPECT_EQ(line.since_first({Phase::kDecodeWait, Phase::kDecode}), nanoseconds(40));
  EXPECT_EQ(line.since_first({Phase::kDecode}), nanoseconds(38));
  EXPECT_EQ(line.since_first({Phase::kReserve}), nanoseconds(0));
  EXPECT_EQ(line.total(Phase::kDecode), nanoseconds(28));
}

// Whatever comes, in whatever order, with clocks that stand still or seem to go back.
TEST(Timeline, PartsAlwaysAddUpExactly) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    std::mt19937_64 random(seed);
    const auto draw = [&](int64_t least, int64_t most) {
      return std::uniform_int_distribution<int64_t>(least, most)(random);
    };
    const auto some_phase = [&] { return static_cast<Phase>(draw(0, static_cast<int64_t>(kPhaseLast))); };
    int64_t now = draw(-1000, 1000);
    const auto tick = [&] { return at(now += draw(0, 3) == 0 ? draw(-5, 0) : draw(0, 1'000'000)); };
    const auto build = [&](Timeline line) {
      const int64_t steps = draw(0, 200);
      for (int64_t i = 0; i < steps; ++i) line.enter(some_phase(), tick());
      return line;
    };
    const int64_t begun = now;
    Timeline line = build(Timeline(some_phase(), at(begun)));
    if (draw(0, 1) == 0) {
      Timeline inner = build(Timeline(some_phase(), tick()));
      inner.end(tick());
      line.append(inner, some_phase());
    }
    line.end(tick());
    const auto parts = line.parts();
    ASSERT_EQ(sum(parts), line.total()) << seed;
    ASSERT_EQ(line.begin(), at(begun)) << seed;
    Duration by_phase{0};
    for (size_t phase = 0; phase < kPhases; ++phase) by_phase += line.total(static_cast<Phase>(phase));
    ASSERT_EQ(by_phase, line.total()) << seed;
    ASSERT_LE(parts.size(), kTimelinePartsMax) << seed;
    for (size_t i = 0; i < parts.size(); ++i) {
      ASSERT_GE(parts[i].took, Duration{0}) << seed;
      if (i > 0) ASSERT_NE(parts[i].phase, parts[i - 1].phase) << seed;
      if (i > 0) ASSERT_EQ(line.boundaries()[i - 1].since + parts[i - 1].took, line.boundaries()[i].since);
    }
  }
}

}  // namespace
}  // namespace baton
