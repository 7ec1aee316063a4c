#include "router/progress.h"

namespace baton::router {

std::string_view phase_of(Awaited awaited) {
  switch (awaited) {
    case Awaited::kRoom:
      return "route";
    case Awaited::kPrefill:
      return "prefill";
    case Awaited::kReserved:
      return "reserve";
    case Awaited::kAnswer:
      return "decode";
    case Awaited::kEvents:
      return "stream";
  }
  return "route";
}

Progress progress_of(api::HandoverOrder order, const FlowTimes& times, Time arrived,
                     std::optional<Time> begun, const ProgressLimits& limits) {
  const auto within = [](Awaited awaited, Time since, Duration limit) {
    return Progress{.awaited = awaited, .since = since, .until = since + limit};
  };
  if (begun) return {.awaited = Awaited::kEvents, .since = *begun};
  const bool p_runs = times.prefill_asked && !times.prefill_answered;
  if (p_runs) return within(Awaited::kPrefill, *times.prefill_asked, limits.prefill_timeout);
  const bool is_layerwise = order == api::HandoverOrder::kLayerwise;
  if (times.decode_asked && is_layerwise && !times.prefill_asked)
    return within(Awaited::kReserved, *times.decode_asked, limits.first_byte_timeout);
  if (times.decode_asked) return within(Awaited::kAnswer, *times.decode_asked, limits.first_byte_timeout);
  return within(Awaited::kRoom, times.prefill_answered.value_or(arrived), limits.queue_timeout);
}

}  // namespace baton::router
