// What a request that has ended adds to the metrics. Called by the io thread.
#pragma once

#include <cstdint>

#include "api/metrics.h"
#include "base/timeline.h"

namespace baton::serve {

struct MeasuredRequest {
  const Timeline* engine = nullptr;  // its parts within the engine
  const Timeline* whole = nullptr;   // from its arrival to its end
  bool remote = false;               // its KV came from a peer
  uint32_t choices = 1;
  uint32_t prompt_tokens = 0;
  uint32_t output_tokens = 0;   // over all choices
  uint32_t longest_choice = 0;  // tokens
};

void observe_end(api::ServeMetrics& metrics, const MeasuredRequest& request);

}  // namespace baton::serve
