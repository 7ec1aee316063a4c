#include "engine/stats.h"

#include <algorithm>

namespace baton::engine {

void EngineStats::observe_step(uint32_t tokens) {
  const auto bucket =
      std::ranges::lower_bound(kStepTokenEdges, static_cast<double>(tokens)) - kStepTokenEdges.begin();
  ++step_tokens[static_cast<size_t>(bucket)];
  step_tokens_sum += tokens;
}

void DurationCounts::observe(Duration duration) {
  const auto bucket = std::ranges::lower_bound(kSecondsEdges, seconds(duration)) - kSecondsEdges.begin();
  ++counts[static_cast<size_t>(bucket)];
  sum_s += seconds(duration);
}

}  // namespace baton::engine
