#include "api/timings.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

namespace baton::api {
namespace {

using std::chrono::nanoseconds;

Timings example() {
  return {.parts = {{"proxy", "route", nanoseconds(5)},
                    {"prefill", "prefill", nanoseconds(7'000'000'001)},
                    {"decode", "decode_wait", nanoseconds(0)}},
          .handover_hidden = nanoseconds(12)};
}

TEST(Timings, SayWhoSpentWhatAndTheTotalIsTheSum) {
  EXPECT_EQ(render_timings(example()),
            R"({"total_ns":7000000006,"parts":[{"at":"proxy","phase":"route","ns":5},)"
            R"({"at":"prefill","phase":"prefill","ns":7000000001},)"
            R"({"at":"decode","phase":"decode_wait","ns":0}],"handover_hidden_ns":12})");
}

TEST(Timings, ReadBackAreTheSame) {
  EXPECT_EQ(parse_timings(render_timings(example())), example());
  EXPECT_EQ(parse_timings(render_timings({})), Timings());
}

TEST(Timings, AProxySaysWhereThePromptWasComputedAndWhy) {
  EXPECT_EQ(render_timings({.parts = {}, .placement = Placement{.on = kAtPrefill, .reason = "asked"}}),
            R"({"total_ns":0,"parts":[],"prefill_on":"prefill","prefill_reason":"asked"})");
  const Placement::Estimate estimate{.prompt_tokens = 12.4,
                                     .cached_tokens = 3,
                                     .delayed = 2,
                                     .local = nanoseconds(70),
                                     .handover = nanoseconds(80)};
  const std::string text = render_timings(
      {.parts = {},
       .placement = Placement{.on = kAtDecode, .reason = "local_costs_less", .estimate = estimate}});
  EXPECT_EQ(text, R"({"total_ns":0,"parts":[],"prefill_on":"decode","prefill_reason":"local_costs_less",)"
                  R"("prefill_estimate":{"prompt_tokens":12,"cached_tokens":3,"delayed":2,"local_ns":70,)"
                  R"("handover_ns":80}})");
  EXPECT_EQ(parse_timings(text), Timings());  // nobody's word but the proxy's own
}

TEST(Timings, AnInstancesTimelineIsItsParts) {
  Timeline line(Phase::kTokenise, {nanoseconds(100)});
  line.enter(Phase::kReserve, {nanoseconds(130)});
  line.end({nanoseconds(200)});
  const Timings own = timings_of(kAtDecode, line, Duration{0});
  EXPECT_EQ(
      own,
      (Timings{.parts = {{"decode", "tokenise", nanoseconds(30)}, {"decode", "reserve", nanoseconds(70)}}}));
  EXPECT_EQ(timings_of(kAtPrefill, line, nanoseconds(9)).handover_hidden, nanoseconds(9));
}

TEST(Timings, WhatIsNoneIsRefused) {
  std::string many = R"({"parts":[)";
  for (size_t i = 0; i <= kTimingPartsMax; ++i) {
    many += i == 0 ? "" : ",";
    many += R"({"at":"a","phase":"b","ns":1})";
  }
  many += "]}";
  const std::string cases[] = {"",
                               "[]",
                               "{}",
                               R"({"parts":{}})",
                               R"({"parts":[1]})",
                               R"({"parts":[{"at":"a","ns":1}]})",
                               R"({"parts":[{"at":"a","phase":"B","ns":1}]})",
                               R"({"parts":[{"at":"a","phase":"b","ns":-1}]})",
                               R"({"parts":[{"at":"a","phase":"b","ns":40000000000000000}]})",
                               R"({"parts":[{"at":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","phase":"b","ns":1}]})",
                               R"({"parts":[],"handover_hidden_ns":-5})",
                               many};
  for (const std::string& text : cases) EXPECT_FALSE(parse_timings(text).has_value()) << text.substr(0, 100);
}

}  // namespace
}  // namespace baton::api
