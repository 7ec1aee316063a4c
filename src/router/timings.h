// One request's time as its client's proxy sees it: a partition of what lies between the request's arrival
// and the end of its answer, made of the proxy's own moments and of what the instances say of themselves
// (api/timings.h). Only durations come from other hosts, so what lies between the proxy's and theirs (both
// ways on the network, their sockets) is a part of its own, "gap".
//
//   pull order:  route | P's parts | gap | route | D's parts | gap
//   layer-wise:  route | D's parts up to its wait | P's parts | gap | handover | D's other parts | gap
//
// "route": for an instance with room, and what was tried in vain. "exchange": an instance that says nothing
// of itself, or more than the time that it was asked for. In the layer-wise order P's parts count as long as
// D waits.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "api/timings.h"
#include "base/clock.h"

namespace baton::router {

// The moments of one flow that count in the end, and what P said of its part (JSON text; empty: nothing).
struct FlowTimes {
  std::optional<Time> prefill_asked = {};
  std::optional<Time> prefill_answered = {};
  std::optional<Time> decode_asked = {};
  std::string prefill_timings = {};
  std::optional<api::Placement> placement = {};  // of the prompt
};

// `d`: what D says; nothing if it says nothing. The parts add up to end - arrived.
api::Timings whole_timings(Time arrived, const FlowTimes& times, const std::optional<api::Timings>& d,
                           Time end);

// `answer`: the data of an event, or a whole body, with the `timings` of the instance that made it, which the
// whole timings replace. Nothing if it has none.
std::optional<std::string> with_whole_timings(std::string_view answer, Time arrived, const FlowTimes& times,
                                              Time end);

}  // namespace baton::router
