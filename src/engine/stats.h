// What an engine counts, as plain numbers owned by the engine thread. Names and buckets are those of vLLM's
// metrics (vllm/v1/metrics/loggers.py), so that the shell copies them into its exposition one by one.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"

namespace baton::engine {

// Counts per bucket, not cumulative; the last one is +Inf.
struct StatHistogram {
  std::span<const double> bounds;  // upper edges, ascending, static storage
  std::vector<uint64_t> counts;    // [bounds + 1]
  uint64_t count = 0;
  double sum = 0.0;

  explicit StatHistogram(std::span<const double> upper_edges)
      : bounds(upper_edges), counts(upper_edges.size() + 1) {}
  void observe(double value, uint64_t times = 1);
};

std::span<const double> first_token_edges_s();
std::span<const double> inter_token_edges_s();
std::span<const double> latency_edges_s();
std::span<const double> token_edges();

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
  uint64_t prompt_tokens = 0;  // computed or landed or found in the prefix cache
  uint64_t generation_tokens = 0;
  uint64_t prefix_queries = 0;         // tokens asked of the prefix index
  uint64_t prefix_hits = 0;            // tokens found
  uint64_t requests_refused = 0;       // queue full
  std::array<uint64_t, 4> finished{};  // requests, by FinishReason of their last choice
  uint64_t handovers_taken = 0;
  uint64_t handovers_released = 0;  // aborted or expired on P
  uint64_t handovers_landed = 0;
  uint64_t handovers_failed = 0;
  uint64_t handover_bytes = 0;  // landed here

  StatHistogram first_token_s{first_token_edges_s()};
  StatHistogram inter_token_s{inter_token_edges_s()};
  StatHistogram token_s{inter_token_edges_s()};  // per request: mean over its answer
  StatHistogram whole_s{latency_edges_s()};
  StatHistogram queue_s{latency_edges_s()};
  StatHistogram prefill_s{latency_edges_s()};
  StatHistogram decode_s{latency_edges_s()};
  StatHistogram inference_s{latency_edges_s()};
  StatHistogram handover_s{first_token_edges_s()};
  StatHistogram step_tokens{token_edges()};
  StatHistogram prompt_tokens_per_request{token_edges()};
  StatHistogram generation_tokens_per_request{token_edges()};
  StatHistogram max_tokens_per_request{token_edges()};
  StatHistogram choices_per_request{token_edges()};
};

}  // namespace baton::engine
