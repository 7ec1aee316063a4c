#include "engine/stats.h"

#include <algorithm>

namespace baton::engine {

void EngineStats::observe_step(uint32_t tokens) {
  const auto bucket =
      std::ranges::lower_bound(kStepTokenEdges, static_cast<double>(tokens)) - kStepTokenEdges.begin();
  ++step_tokens[static_cast<size_t>(bucket)];
  step_tokens_sum += tokens;
}

}  // namespace baton::engine
