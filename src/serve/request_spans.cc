#include "serve/request_spans.h"

#include <utility>

namespace baton::serve {
namespace attribute = traces::attribute;

std::vector<traces::Span> request_spans(const EndedRequest& request,
                                        const std::optional<traces::TraceContext>& sender) {
  if (sender && !sender->is_sampled()) return {};
  const Timeline& line = *request.timeline;
  const Duration decode = line.total(Phase::kDecodeWait) + line.total(Phase::kDecode);
  const Duration prefill = line.total(Phase::kPrefill);
  traces::Span whole{.place = traces::begin_span(sender),
                     .parent = sender ? sender->span : 0,
                     .parent_is_remote = sender.has_value(),
                     .name = "llm_request",
                     .kind = traces::SpanKind::kServer,
                     .begin = line.begin(),
                     .end = line.end(),
                     .error = request.error};
  const auto add = [&whole](std::string_view key, traces::AttributeValue value) {
    whole.attributes.push_back({std::string(key), std::move(value)});
  };
  add(attribute::kModel, std::string(request.model));
  add(attribute::kRequestId, std::string(request.name));
  add(attribute::kTemperature, static_cast<double>(request.sampling->temperature));
  add(attribute::kTopP, static_cast<double>(request.sampling->top_p));
  add(attribute::kMaxTokens, int64_t{request.sampling->max_tokens});
  add(attribute::kN, int64_t{request.sampling->n});
  add(attribute::kPromptTokens, int64_t{request.prompt_tokens});
  add(attribute::kCompletionTokens, int64_t{request.output_tokens});
  add(attribute::kE2e, seconds(line.total()));
  add("baton.at", std::string(request.at));
  if (request.first_token) add(attribute::kTimeToFirstToken, seconds(*request.first_token));
  if (!request.has_parts) return {std::move(whole)};
  add(attribute::kTimeInQueue, seconds(line.total(Phase::kQueue) + line.total(Phase::kReserve)));
  add(attribute::kTimeInPrefill, seconds(prefill));
  add(attribute::kTimeInDecode, seconds(decode));
  add(attribute::kTimeInInference, seconds(prefill + decode));
  std::vector<traces::Span> spans{std::move(whole)};
  spans.reserve(1 + line.boundaries().size());
  const traces::Span parent = spans.front();
  traces::append_phases(parent, line, spans);
  return spans;
}

}  // namespace baton::serve
