// What an engine counts, as plain numbers owned by the engine thread: only what nobody outside it can see.
// What a client sees (durations, lengths, ends of requests) is counted where clients are, in serve/.
#pragma once

#include <array>
#include <cstdint>

#include "base/clock.h"

namespace baton::engine {

// Upper edges of step_tokens, as vLLM's metric iteration_tokens_total has them (vllm/v1/metrics/loggers.py).
inline constexpr std::array<double, 13> kStepTokenEdges = {1,   8,    16,   32,   64,   128,  256,
                                                           512, 1024, 2048, 4096, 8192, 16384};

// Upper edges of durations in seconds, as vLLM has them for times to a first token.
inline constexpr std::array<double, 22> kSecondsEdges = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                                         0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                                         20,    40,    80,   160,  640,  2560};

struct DurationCounts {
  std::array<uint64_t, kSecondsEdges.size() + 1> counts{};  // by bucket, not cumulative, the last one is +Inf
  double sum_s = 0;

  void observe(Duration duration);
};

struct EngineStats {
  // Gauges, true at the end of the last step.
  uint32_t requests_running = 0;  // hold blocks and are computed
  uint32_t requests_waiting = 0;  // queued, preempted or landing
  uint32_t blocks_total = 0;
  uint32_t blocks_free = 0;     // incl. cached ones
  uint32_t blocks_held = 0;     // P: under a lease
  uint32_t blocks_landing = 0;  // D: a peer may still fill them

  // Counters.
  uint64_t steps = 0;
  uint64_t passes_interrupted = 0;
  uint64_t preemptions = 0;
  uint64_t returned = 0;     // requests given back for want of blocks
  uint64_t prefix_hits = 0;  // prompt tokens found in the prefix cache
  uint64_t handovers_taken = 0;
  uint64_t handovers_released = 0;  // aborted or expired on P
  uint64_t handovers_landed = 0;
  uint64_t handovers_failed = 0;
  uint64_t handover_bytes = 0;  // landed here

  // Of hand-overs that were whole. Exposed: what the request waited for nothing else. D, pull order: Landing
  // sent → landed. P, layer-wise order: last layer computed → taken; hidden: first layer announced → last one
  // computed.
  DurationCounts handover_exposed;
  DurationCounts handover_hidden;

  // Rows of each whole pass, by bucket: [edges + 1], not cumulative, the last one is +Inf.
  std::array<uint64_t, kStepTokenEdges.size() + 1> step_tokens{};
  uint64_t step_tokens_sum = 0;

  void observe_step(uint32_t tokens);
};

}  // namespace baton::engine
