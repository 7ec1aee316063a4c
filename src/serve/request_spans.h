// What a request that has ended looks like to a collector of spans: one for the whole, under vLLM's name, and
// one below it for each part of its timeline.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/timeline.h"
#include "engine/request.h"
#include "traces/span.h"

namespace baton::serve {

struct EndedRequest {
  std::string_view name;   // external
  std::string_view model;  // as answers name it
  std::string_view at;     // api/timings.h: what this instance did for it
  const Timeline* timeline = nullptr;
  const engine::SamplingParams* sampling = nullptr;
  uint32_t prompt_tokens = 0;
  uint32_t output_tokens = 0;
  std::optional<Duration> first_token;  // from its beginning
  std::optional<std::string> error =
      {};  // it ended by this; its parts are not known if the engine did not say
  bool has_parts = true;
};

// Below the sender's span, or at the top of a new trace. None if the sender does not record its trace.
std::vector<traces::Span> request_spans(const EndedRequest& request,
                                        const std::optional<traces::TraceContext>& sender);

}  // namespace baton::serve
