// A span: what one host did for a request, from when to when, as OpenTelemetry tells it. Plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/timeline.h"
#include "traces/trace_context.h"

namespace baton::traces {

// OTLP's numbers (opentelemetry/proto/trace/v1/trace.proto).
enum class SpanKind : uint8_t { kInternal = 1, kServer = 2, kClient = 3 };

using AttributeValue = std::variant<std::string, int64_t, double, bool>;
struct Attribute {
  std::string key;
  AttributeValue value;
  bool operator==(const Attribute&) const = default;
};

// vLLM's names (vllm/tracing.py), those of OpenTelemetry's conventions for generative AI among them.
namespace attribute {
inline constexpr std::string_view kPromptTokens = "gen_ai.usage.prompt_tokens";
inline constexpr std::string_view kCompletionTokens = "gen_ai.usage.completion_tokens";
inline constexpr std::string_view kMaxTokens = "gen_ai.request.max_tokens";
inline constexpr std::string_view kTopP = "gen_ai.request.top_p";
inline constexpr std::string_view kTemperature = "gen_ai.request.temperature";
inline constexpr std::string_view kModel = "gen_ai.response.model";
inline constexpr std::string_view kRequestId = "gen_ai.request.id";
inline constexpr std::string_view kN = "gen_ai.request.n";
inline constexpr std::string_view kTimeInQueue = "gen_ai.latency.time_in_queue";  // seconds, as all of these
inline constexpr std::string_view kTimeToFirstToken = "gen_ai.latency.time_to_first_token";
inline constexpr std::string_view kE2e = "gen_ai.latency.e2e";
inline constexpr std::string_view kTimeInPrefill = "gen_ai.latency.time_in_model_prefill";
inline constexpr std::string_view kTimeInDecode = "gen_ai.latency.time_in_model_decode";
inline constexpr std::string_view kTimeInInference = "gen_ai.latency.time_in_model_inference";
}  // namespace attribute

struct Span {
  TraceContext place;   // its own
  uint64_t parent = 0;  // 0: it is the top of its trace
  bool parent_is_remote = false;
  std::string name;
  SpanKind kind = SpanKind::kInternal;
  Time begin;
  Time end;
  std::vector<Attribute> attributes = {};
  std::optional<std::string> error = {};  // the status's message; nothing: it went well
};

// A child of `parent` for each of the consecutive parts: `first` begins with it, each next one where the one
// before it ends. The children's sum is what the parts add up to.
void append_parts(const Span& parent, const std::vector<std::pair<std::string, Duration>>& parts, Time first,
                  std::vector<Span>& spans);
// The same for a timeline that has ended.
void append_phases(const Span& parent, const Timeline& timeline, std::vector<Span>& spans);

}  // namespace baton::traces
