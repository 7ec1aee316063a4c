// `timings` of an answer: where the time of its request went, as a partition. Every part ends where the next
// one begins, so "total_ns" is exactly their sum. Given to who asks ("timings": true); an instance speaks of
// itself, a proxy puts what the instances say into its own.
//
//   {"total_ns":1234567,"parts":[{"at":"prefill","phase":"queue","ns":1200}, ...],"handover_hidden_ns":5000}
//
// handover_hidden_ns is no part: it lies within P's prefill (layer-wise order only).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/timeline.h"

namespace baton::api {

inline constexpr size_t kTimingPartsMax = 256;
inline constexpr size_t kTimingNameBytesMax = 32;
inline constexpr Duration kTimingMax = std::chrono::hours(24 * 365);  // of one part

// Who spent it: an instance by what it did for the request, or the proxy.
inline constexpr std::string_view kAtPrefill = "prefill";
inline constexpr std::string_view kAtDecode = "decode";
inline constexpr std::string_view kAtInstance = "instance";  // without any hand-over
inline constexpr std::string_view kAtProxy = "proxy";

struct TimedPart {
  std::string at;
  std::string phase;  // base/timeline.h phase_name, or the proxy's "route", "gap" and "exchange"
  Duration took{0};
  bool operator==(const TimedPart&) const = default;
};

struct Timings {
  std::vector<TimedPart> parts;
  std::optional<Duration> handover_hidden = {};

  Duration total() const;
  bool operator==(const Timings&) const = default;
};

// What one instance says of a request that has ended.
Timings timings_of(std::string_view at, const Timeline& timeline, Duration handover_hidden);

std::string render_timings(const Timings& timings);
// kInvalid names what is no timings object: more parts, longer names or more time than the bounds above,
// names that are not [a-z_]. total_ns is not read.
Result<Timings> parse_timings(std::string_view text);

}  // namespace baton::api
