// Which rows the next forward pass computes. One budget of tokens is shared by decodes, which go first, and
// chunks of prefill; a second bound, in milliseconds, cuts the chunks by what a prefill token has cost so
// far. Neither changes any bit of an answer. Called by the engine thread only.
//
// Progress: requests are served in the order of Rank; a sequence that lacks blocks takes them from the last
// one in that order (preemption by recompute), never from an earlier one. A sequence gets a seat only if the
// blocks for all its known tokens are there beside those that seated sequences and landings still need, so
// waiting requests, local or remote, never hold blocks that keep each other from running.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/active_request.h"
#include "kv/paged_cache.h"

namespace baton::engine {

enum class SchedulingPolicy : uint8_t { kFcfs, kPriority };

struct ScheduleLimits {
  uint32_t seqs_max = 256;                             // --max-num-seqs: seats, and sequences of one pass
  uint32_t batch_tokens_max = 2048;                    // --max-num-batched-tokens; >= seqs_max
  Duration step_max = std::chrono::milliseconds(100);  // --step-ms-max; 0: no bound
  SchedulingPolicy policy = SchedulingPolicy::kFcfs;
  // recompute_scheduler_enable: who would be preempted in the middle of its answer is given back instead, if
  // it is returnable and has drawn a token here, so that an answer that wanders gets longer at each place.
  bool returns = false;

  bool operator==(const ScheduleLimits&) const = default;
};

// Prefill tokens of a step until the cost of one is known, and at least, however slow they are.
inline constexpr uint32_t kFirstChunkTokens = 128;
inline constexpr uint32_t kChunkTokensMin = 16;

// Learns what a row of a pass costs, from passes that are mostly prefill.
class ChunkEstimate {
 public:
  explicit ChunkEstimate(Duration step_max) : step_max_(step_max) {}
  void learn(uint32_t decode_rows, uint32_t prefill_rows, Duration took);
  // Prefill rows that fit into a step beside `decode_rows`.
  uint32_t prefill_rows_max(uint32_t decode_rows) const;
  void reset() { row_ns_ = 0; }

 private:
  Duration step_max_;
  int64_t row_ns_ = 0;  // 0: not known yet
};

// Active requests in the order they are served.
using ActiveRequests = std::map<Rank, std::unique_ptr<ActiveRequest>>;

struct PlannedRows {
  ActiveRequest* request = nullptr;
  Sequence* sequence = nullptr;
  uint32_t rows = 0;  // from sequence->computed on
};

struct Plan {
  std::vector<PlannedRows> rows;
  std::vector<ActiveRequest*> landings;  // got a seat and blocks for what a peer is to send
  uint32_t decode_rows = 0;
  uint32_t prefill_rows = 0;
  uint32_t preempted = 0;                // sequences that lost their blocks and wait for others
  std::vector<ActiveRequest*> returned;  // lost all their blocks and are given back
  uint32_t prefix_hits = 0;              // prompt positions of newly seated requests that the cache had
};

class Scheduler {
 public:
  Scheduler(ScheduleLimits limits, kv::PagedCache& cache, uint32_t batch_rows_max);

  // Seats, preempts and chooses rows. Planned sequences cover their rows, writable.
  Plan plan(ActiveRequests& requests, Time now);

  ChunkEstimate& estimate() { return estimate_; }

 private:
  struct Step;  // of one plan()

  bool secure(Step& step, ActiveRequest& request, Sequence& sequence, uint32_t rows);
  void give_way(Step& step, ActiveRequest& request, Sequence& sequence);
  void preempt(Step& step, ActiveRequest& request, Sequence& sequence);
  void strip(Step& step, ActiveRequest& request, Sequence& sequence);
  void plan_rows(Step& step, ActiveRequest& request, Sequence& sequence, uint32_t rows);
  void plan_seated(Step& step, bool decodes);
  void seat_waiting(Step& step);
  bool seat(Step& step, ActiveRequest& request, Sequence& sequence);

  ScheduleLimits limits_;
  kv::PagedCache& cache_;
  uint32_t batch_tokens_;
  ChunkEstimate estimate_;
};

}  // namespace baton::engine
