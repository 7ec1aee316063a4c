#include "router/timings.h"

#include <gtest/gtest.h>

#include <random>

namespace baton::router {
namespace {

using std::chrono::nanoseconds;

Time at(int64_t ns) { return {nanoseconds(ns)}; }
Duration ns(int64_t count) { return nanoseconds(count); }

const api::Timings kP{.parts = {{"prefill", "tokenise", ns(3)}, {"prefill", "prefill", ns(20)}}};
const api::Timings kD{
    .parts = {{"decode", "reserve", ns(4)}, {"decode", "handover", ns(10)}, {"decode", "decode", ns(50)}}};

TEST(WholeTimings, PullOrderPutsEachInstanceWhereItWasAsked) {
  const FlowTimes times{.prefill_asked = at(105),
                        .prefill_answered = at(135),
                        .decode_asked = at(137),
                        .prefill_timings = api::render_timings(kP)};
  const std::vector<api::TimedPart> expected = {
      {"proxy", "route", ns(5)},      {"prefill", "tokenise", ns(3)}, {"prefill", "prefill", ns(20)},
      {"proxy", "gap", ns(7)},        {"proxy", "route", ns(2)},      {"decode", "reserve", ns(4)},
      {"decode", "handover", ns(10)}, {"decode", "decode", ns(50)},   {"proxy", "gap", ns(9)}};
  EXPECT_EQ(whole_timings(at(100), times, kD, at(210)).parts, expected);
}

TEST(WholeTimings, LayerWiseOrderPutsPIntoDsWait) {
  api::Timings d = kD;
  d.parts[1].took = ns(40);
  api::Timings p = kP;
  p.handover_hidden = ns(15);
  const FlowTimes times{.prefill_asked = at(110),
                        .prefill_answered = at(138),
                        .decode_asked = at(101),
                        .prefill_timings = api::render_timings(p)};
  const std::vector<api::TimedPart> expected = {
      {"proxy", "route", ns(1)},      {"decode", "reserve", ns(4)}, {"prefill", "tokenise", ns(3)},
      {"prefill", "prefill", ns(20)}, {"proxy", "gap", ns(5)},      {"decode", "handover", ns(12)},
      {"decode", "decode", ns(50)},   {"proxy", "gap", ns(5)}};
  const api::Timings whole = whole_timings(at(100), times, d, at(200));
  EXPECT_EQ(whole.parts, expected);
  EXPECT_EQ(whole.handover_hidden, ns(15));
}

TEST(WholeTimings, WhoSaysNothingOrTooMuchIsAnExchange) {
  const FlowTimes silent{
      .prefill_asked = at(105), .prefill_answered = at(135), .decode_asked = at(137), .prefill_timings = {}};
  const std::vector<api::TimedPart> expected = {{"proxy", "route", ns(5)},
                                                {"prefill", "exchange", ns(30)},
                                                {"proxy", "route", ns(2)},
                                                {"decode", "exchange", ns(43)}};
  EXPECT_EQ(whole_timings(at(100), silent, kD, at(180)).parts, expected);
}

TEST(WholeTimings, AnAnswerThatEndsOnPNeedsNoD) {
  const FlowTimes times{.prefill_asked = at(100),
                        .prefill_answered = at(125),
                        .decode_asked = {},
                        .prefill_timings = api::render_timings(kP)};
  const std::vector<api::TimedPart> expected = {{"prefill", "tokenise", ns(3)},
                                                {"prefill", "prefill", ns(20)},
                                                {"proxy", "gap", ns(2)},
                                                {"proxy", "route", ns(1)}};
  EXPECT_EQ(whole_timings(at(100), times, std::nullopt, at(126)).parts, expected);
}

TEST(WholeTimings, ReplaceThoseOfTheInstanceAndNothingElse) {
  const FlowTimes times{
      .prefill_asked = {}, .prefill_answered = {}, .decode_asked = at(2), .prefill_timings = {}};
  const std::string event = R"({"id":"a","choices":[],"x":1.50,"timings":)" +
                            api::render_timings({.parts = {{"decode", "decode", ns(5)}}}) + "}";
  EXPECT_EQ(with_whole_timings(event, at(1), times, at(10)),
            R"({"id":"a","choices":[],"x":1.50,"timings":{"total_ns":9,"parts":[)"
            R"({"at":"proxy","phase":"route","ns":1},{"at":"decode","phase":"decode","ns":5},)"
            R"({"at":"proxy","phase":"gap","ns":3}]}})");
  EXPECT_EQ(with_whole_timings(R"({"choices":[]})", at(1), times, at(10)), std::nullopt);
  EXPECT_EQ(with_whole_timings(R"({"timings":null})", at(1), times, at(10)), std::nullopt);
  EXPECT_EQ(with_whole_timings("[DONE]", at(1), times, at(10)), std::nullopt);
}

// Whatever the instances say and whenever things happened.
TEST(WholeTimings, AlwaysAddUpToTheTimeOfTheRequest) {
  for (uint64_t seed = 0; seed < 5000; ++seed) {
    std::mt19937_64 random(seed);
    const auto draw = [&](int64_t least, int64_t most) {
      return std::uniform_int_distribution<int64_t>(least, most)(random);
    };
    const auto moment = [&]() -> std::optional<Time> {
      if (draw(0, 4) == 0) return std::nullopt;
      return at(draw(-10, 1200));
    };
    const auto some_timings = [&]() -> std::optional<api::Timings> {
      if (draw(0, 5) == 0) return std::nullopt;
      api::Timings timings;
      for (int64_t i = draw(0, 5); i > 0; --i) {
        const auto phase = static_cast<Phase>(draw(0, static_cast<int64_t>(kPhaseLast)));
        timings.parts.push_back({"x", std::string(phase_name(phase)), ns(draw(0, 300))});
      }
      return timings;
    };
    const Time arrived = at(draw(0, 10));
    const Time end = at(draw(10, 1000));
    const auto p = some_timings();
    const FlowTimes times{.prefill_asked = moment(),
                          .prefill_answered = moment(),
                          .decode_asked = moment(),
                          .prefill_timings = p ? api::render_timings(*p) : ""};
    const api::Timings whole = whole_timings(arrived, times, some_timings(), end);
    ASSERT_EQ(whole.total(), end - arrived) << seed;
    for (const api::TimedPart& part : whole.parts) ASSERT_GT(part.took, ns(0)) << seed;
  }
}

}  // namespace
}  // namespace baton::router
