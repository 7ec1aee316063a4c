// `timings` of an answer: where the time of its request went, as a partition. Every part ends where the next
// one begins, so "total_ns" is exactly their sum. Given to who asks ("timings": true); an instance speaks of
// itself, a proxy puts what the instances say into its own.
//
//   {"total_ns":1234567,"parts":[{"at":"prefill","phase":"queue","ns":1200}, ...],"handover_hidden_ns":5000}
//
// handover_hidden_ns is no part: it lies within P's prefill (layer-wise order only). A proxy also says where
// it had the prompt computed and why (docs/choice.md):
//
//   "prefill_on":"decode","prefill_reason":"local_costs_less","prefill_estimate":{"prompt_tokens":12,
//   "cached_tokens":0,"delayed":1,"local_ns":900000,"handover_ns":1500000}
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

// Whether a proxy let D compute a prompt or had it handed over from a P, and what it knew then.
struct Placement {
  struct Estimate {
    double prompt_tokens = 0;
    double cached_tokens = 0;  // of them, in D's prefix cache
    uint32_t delayed = 0;      // answers that D's own prefill would hold up
    Duration local{0};         // what they and this request lose by a prefill on D ...
    Duration handover{0};      // ... and this request by P's and the hand-over
    bool operator==(const Estimate&) const = default;
  };
  std::string_view on;      // kAtPrefill or kAtDecode
  std::string_view reason;  // of [a-z_], static storage
  std::optional<Estimate> estimate = {};
  bool operator==(const Placement&) const = default;
};

struct Timings {
  std::vector<TimedPart> parts;
  std::optional<Duration> handover_hidden = {};
  std::optional<Placement> placement = {};  // a proxy's word; not read

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
