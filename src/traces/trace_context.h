// W3C Trace Context (https://www.w3.org/TR/trace-context/, level 1 and 2): which trace a request belongs to,
// as its headers `traceparent` and `tracestate` say, and the headers that say it to the next host.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "http/message.h"

namespace baton::traces {

using TraceId = Id128<struct TraceIdTag>;  // never all zero in a context

inline constexpr uint8_t kSampled = 1;               // of the trace flags: its spans are recorded
inline constexpr size_t kTraceStateBytesMax = 4096;  // longer ones are dropped; 512 must be passed on
inline constexpr size_t kTraceStateMembersMax = 32;

// The place of one span: what its children name as their parent.
struct TraceContext {
  TraceId trace;
  uint64_t span = 0;  // never 0
  uint8_t flags = kSampled;
  std::string state = {};  // tracestate, as it came

  bool is_sampled() const { return (flags & kSampled) != 0; }
  bool operator==(const TraceContext&) const = default;
};

// "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01". Nothing for anything else: another length,
// capital digits, version ff, ids of zeros. What follows the four fields of a later version is left out; of
// its flags only the sampled one is known.
std::optional<TraceContext> parse_traceparent(std::string_view value);
std::string traceparent_text(const TraceContext& context);

// Whether a tracestate is a list of at most kTraceStateMembersMax members key=value (section 3.3.1).
bool is_tracestate(std::string_view value);

// The sender's place. Nothing without exactly one good traceparent: the trace begins here. A bad tracestate
// alone is dropped.
std::optional<TraceContext> context_of(const http::Headers& headers);
// Replaces both headers.
void put(const TraceContext& context, http::Headers& headers);

// A new span's place: below `parent`, or at the top of a new trace, which is sampled.
TraceContext begin_span(const std::optional<TraceContext>& parent);

uint64_t random_span_id();  // not 0

}  // namespace baton::traces
