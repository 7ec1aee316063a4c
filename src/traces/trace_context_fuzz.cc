// Headers of whoever asks: a traceparent is none, or one that is written as it was read; a tracestate that is
// taken can be sent on.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "traces/trace_context.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace baton;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t line = text.find('\n');
  const std::string_view parent = text.substr(0, line);
  const std::string_view state = line == std::string_view::npos ? std::string_view() : text.substr(line + 1);
  if (const auto context = traces::parse_traceparent(parent)) {
    CHECK(context->span != 0 && context->trace);
    const auto again = traces::parse_traceparent(traces::traceparent_text(*context));
    CHECK(again == context);
    if (parent.starts_with("00")) CHECK(traces::traceparent_text(*context) == parent);
  }
  if (!http::is_field_value(parent) || !http::is_field_value(state)) return 0;
  http::Headers headers;
  headers.add("traceparent", parent);
  headers.add("tracestate", state);
  const auto context = traces::context_of(headers);
  if (!context) return 0;
  traces::put(*context, headers);
  CHECK(traces::context_of(headers) == context);
  return 0;
}
