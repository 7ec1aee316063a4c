#include "traces/otlp.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>

#include "api/json.h"

namespace baton::traces {
namespace {

constexpr uint32_t kHasIsRemote = 0x100;  // of a span's flags, beside the trace's own
constexpr uint32_t kIsRemote = 0x200;
constexpr int kStatusError = 2;

void append_key(std::string& out, std::string_view key) {
  if (out.back() != '{') out += ',';
  api::append_json_string(out, key);
  out += ':';
}

void append_text(std::string& out, std::string_view key, std::string_view value) {
  append_key(out, key);
  api::append_json_string(out, value);
}

// A 64-bit integer is a string in this encoding.
void append_wide(std::string& out, std::string_view key, int64_t value) {
  append_text(out, key, std::to_string(value));
}

void append_value(std::string& out, const AttributeValue& value) {
  out += '{';
  if (const auto* text = std::get_if<std::string>(&value)) append_text(out, "stringValue", *text);
  if (const auto* integer = std::get_if<int64_t>(&value)) append_wide(out, "intValue", *integer);
  if (const auto* number = std::get_if<double>(&value)) {
    append_key(out, "doubleValue");
    api::append_json_number(out, *number);
  }
  if (const auto* flag = std::get_if<bool>(&value)) {
    append_key(out, "boolValue");
    out += *flag ? "true" : "false";
  }
  out += '}';
}

void append_attributes(std::string& out, const std::vector<Attribute>& attributes) {
  append_key(out, "attributes");
  out += '[';
  for (const Attribute& attribute : attributes) {
    if (out.back() != '[') out += ',';
    out += '{';
    append_text(out, "key", attribute.key);
    append_key(out, "value");
    append_value(out, attribute.value);
    out += '}';
  }
  out += ']';
}

void append_span(std::string& out, const Span& span, const WallClock& clock) {
  out += '{';
  append_text(out, "traceId", span.place.trace.hex());
  append_text(out, "spanId", fmt::format("{:016x}", span.place.span));
  if (span.parent != 0) append_text(out, "parentSpanId", fmt::format("{:016x}", span.parent));
  if (!span.place.state.empty()) append_text(out, "traceState", span.place.state);
  append_key(out, "flags");
  api::append_json_integer(out, span.place.flags | kHasIsRemote | (span.parent_is_remote ? kIsRemote : 0U));
  append_text(out, "name", span.name);
  append_key(out, "kind");
  api::append_json_integer(out, static_cast<int>(span.kind));
  append_wide(out, "startTimeUnixNano", clock.unix_ns(span.begin));
  append_wide(out, "endTimeUnixNano", clock.unix_ns(span.end));
  append_attributes(out, span.attributes);
  append_key(out, "status");
  out += '{';
  if (span.error) {
    append_key(out, "code");
    api::append_json_integer(out, kStatusError);
    append_text(out, "message", *span.error);
  }
  out += "}}";
}

}  // namespace

WallClock WallClock::read() {
  constexpr int kTries = 4;
  constexpr Duration kClose = std::chrono::microseconds(1);
  const SteadyClock clock;
  WallClock best({}, 0);
  Duration least = Duration::max();
  for (int i = 0; i < kTries && least > kClose; ++i) {
    const Time before = clock.now();
    const auto wall = std::chrono::system_clock::now().time_since_epoch();
    const Duration apart = clock.now() - before;
    if (apart >= least) continue;
    least = apart;
    best = {before + apart / 2, std::chrono::duration_cast<std::chrono::nanoseconds>(wall).count()};
  }
  return best;
}

std::string render_spans(std::span<const DatedSpan> spans, const std::vector<Attribute>& resource) {
  std::string out = "{\"resourceSpans\":[{\"resource\":{";
  append_attributes(out, resource);
  out += "},\"scopeSpans\":[{\"scope\":{\"name\":\"baton\",\"version\":\"" BATON_VERSION "\"},\"spans\":[";
  for (const DatedSpan& dated : spans) {
    if (&dated != spans.data()) out += ',';
    append_span(out, dated.span, dated.clock);
  }
  out += "]}]}]}";
  return out;
}

uint64_t rejected_spans(std::string_view answer) {
  const auto body = api::parse_json_object(answer);
  if (!body) return 0;
  const api::json::value* partial = body->if_contains("partialSuccess");
  if (partial == nullptr || !partial->is_object()) return 0;
  const api::json::value* rejected = partial->get_object().if_contains("rejectedSpans");
  if (rejected == nullptr) return 0;
  if (rejected->is_int64()) return static_cast<uint64_t>(std::max<int64_t>(rejected->get_int64(), 0));
  uint64_t count = 0;
  if (rejected->is_string()) {
    const std::string_view text = rejected->get_string();
    std::from_chars(text.data(), text.data() + text.size(), count);
  }
  return count;
}

}  // namespace baton::traces
