// Spans as the body of an OTLP/HTTP request in JSON (https://opentelemetry.io/docs/specs/otlp/,
// "JSON Protobuf Encoding"): ids in hexadecimal, 64-bit integers as strings.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "traces/span.h"

namespace baton::traces {

// How a Time of this process becomes a moment that other hosts know.
class WallClock {
 public:
  // `unix_ns`: nanoseconds since 1970 at `now`.
  WallClock(Time now, int64_t unix_ns) : offset_ns_(unix_ns - now.since_start.count()) {}
  // This machine's two clocks, read as close together as a few tries get them.
  static WallClock read();

  int64_t unix_ns(Time time) const { return time.since_start.count() + offset_ns_; }

 private:
  int64_t offset_ns_;
};

// One clock for all spans of a request, so that children stay within their parents.
struct DatedSpan {
  Span span;
  WallClock clock;
};

// `resource`: who speaks ("service.name", ...).
std::string render_spans(std::span<const DatedSpan> spans, const std::vector<Attribute>& resource);

// How many spans a collector's answer says it has refused (partialSuccess); 0 where it says nothing.
uint64_t rejected_spans(std::string_view answer);

}  // namespace baton::traces
