#include "router/progress.h"

#include <gtest/gtest.h>

namespace baton::router {
namespace {

using std::chrono::seconds;
constexpr auto kPull = api::HandoverOrder::kPull;
constexpr auto kLayerwise = api::HandoverOrder::kLayerwise;
constexpr ProgressLimits kLimits{
    .queue_timeout = seconds(30), .prefill_timeout = seconds(300), .first_byte_timeout = seconds(200)};

constexpr Time at(int second) { return {seconds(second)}; }

struct Row {
  api::HandoverOrder order;
  FlowTimes times;
  std::optional<Time> begun;
  std::string_view phase;
  Time since;
  Time until;
};

TEST(Progress, SaysWhatIsAwaitedSinceWhenAndUntilWhen) {
  const std::optional<Time> none;
  const Row rows[] = {
      {kPull, {}, none, "route", at(1), at(31)},
      {kPull, {.prefill_asked = at(2)}, none, "prefill", at(2), at(302)},
      {kPull, {.prefill_asked = at(2), .prefill_answered = at(5)}, none, "route", at(5), at(35)},
      {kPull,
       {.prefill_asked = at(2), .prefill_answered = at(5), .decode_asked = at(6)},
       none,
       "decode",
       at(6),
       at(206)},
      {kPull,
       {.prefill_asked = at(2), .prefill_answered = at(5), .decode_asked = at(6)},
       at(9),
       "stream",
       at(9),
       kNever},
      {kPull, {.decode_asked = at(6)}, none, "decode", at(6), at(206)},  // without a P
      {kLayerwise, {}, none, "route", at(1), at(31)},
      {kLayerwise, {.decode_asked = at(2)}, none, "reserve", at(2), at(202)},
      {kLayerwise, {.prefill_asked = at(3), .decode_asked = at(2)}, none, "prefill", at(3), at(303)},
      {kLayerwise,
       {.prefill_asked = at(3), .prefill_answered = at(4), .decode_asked = at(2)},
       none,
       "decode",
       at(2),
       at(202)},
      {kLayerwise, {.prefill_asked = at(3), .decode_asked = at(2)}, at(4), "stream", at(4), kNever},
  };
  for (const Row& row : rows) {
    const Progress progress = progress_of(row.order, row.times, at(1), row.begun, kLimits);
    EXPECT_EQ(phase_of(progress.awaited), row.phase);
    EXPECT_EQ(progress.since, row.since) << row.phase;
    EXPECT_EQ(progress.until, row.until) << row.phase;
  }
}

}  // namespace
}  // namespace baton::router
