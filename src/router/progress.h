// What a request that runs waits for, as an operator is told: derived from when its flow asked whom
// (router/timings.h). Sans-I/O.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "api/identity.h"
#include "base/clock.h"
#include "router/timings.h"

namespace baton::router {

enum class Awaited : uint8_t {
  kRoom,      // an instance with room
  kPrefill,   // P's answer
  kReserved,  // D's post that its blocks are there (layer-wise order)
  kAnswer,    // D's first byte, or its whole answer
  kEvents,    // D's next event
};
// "route", "prefill", "reserve", "decode", "stream".
std::string_view phase_of(Awaited awaited);

struct ProgressLimits {
  Duration queue_timeout;
  Duration prefill_timeout;
  Duration first_byte_timeout;
};

struct Progress {
  Awaited awaited = Awaited::kRoom;
  Time since;
  Time until = kNever;  // when the proxy gives up; kNever: no such moment is known

  bool operator==(const Progress&) const = default;
};

// `begun`: when the client got the first byte; nothing before that.
Progress progress_of(api::HandoverOrder order, const FlowTimes& times, Time arrived,
                     std::optional<Time> begun, const ProgressLimits& limits);

}  // namespace baton::router
