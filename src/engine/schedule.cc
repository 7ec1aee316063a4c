#include "engine/schedule.h"

#include <algorithm>

#include "base/check.h"

namespace baton::engine {

void ChunkEstimate::learn(uint32_t decode_rows, uint32_t prefill_rows, Duration took) {
  const uint32_t rows = decode_rows + prefill_rows;
  if (prefill_rows < kChunkTokensMin || prefill_rows < decode_rows || took.count() <= 0) return;
  const int64_t row_ns = std::max<int64_t>(1, took.count() / rows);
  row_ns_ = row_ns_ == 0 ? row_ns : (row_ns_ + row_ns) / 2;
}

uint32_t ChunkEstimate::prefill_rows_max(uint32_t decode_rows) const {
  if (step_max_.count() <= 0) return UINT32_MAX;
  if (row_ns_ == 0) return kFirstChunkTokens;
  const int64_t rows = step_max_.count() / row_ns_ - decode_rows;
  return static_cast<uint32_t>(std::clamp<int64_t>(rows, kChunkTokensMin, UINT32_MAX));
}

struct Scheduler::Step {
  ActiveRequests& requests;
  Time now;
  Plan plan;
  uint32_t tokens_left = 0;   // of the budget
  uint32_t prefill_left = 0;  // of the bound in milliseconds
};

Scheduler::Scheduler(ScheduleLimits limits, kv::PagedCache& cache, uint32_t batch_rows_max)
    : limits_(limits),
      cache_(cache),
      batch_tokens_(std::min(limits.batch_tokens_max, batch_rows_max)),
      estimate_(limits.step_max) {}

Plan Scheduler::plan(ActiveRequests& requests, Time now) {
  Step step{.requests = requests, .now = now, .plan = {}, .tokens_left = batch_tokens_};
  plan_seated(step, true);
  step.prefill_left = estimate_.prefill_rows_max(step.plan.decode_rows);
  plan_seated(step, false);
  // Who lost blocks in this step must not lose its turn to somebody who waited behind it.
  if (step.plan.preempted == 0 && step.plan.returned.empty()) seat_waiting(step);
  return std::move(step.plan);
}

void Scheduler::plan_seated(Step& step, bool decodes) {
  for (auto& [rank, request] : step.requests) {
    if (request->stage != Stage::kPrompt && request->stage != Stage::kAnswer) continue;
    for (Sequence& sequence : request->sequences) {
      if (!sequence.admitted || sequence.done) continue;
      const bool is_decode = request->stage == Stage::kAnswer && sequence.missing() == 1;
      if (is_decode != decodes) continue;
      plan_rows(step, *request, sequence, is_decode ? 1 : sequence.missing());
    }
  }
}

void Scheduler::plan_rows(Step& step, ActiveRequest& request, Sequence& sequence, uint32_t rows) {
  const bool is_decode = request.stage == Stage::kAnswer && sequence.missing() == 1;
  rows = std::min(rows, step.tokens_left);
  if (!is_decode) rows = std::min(rows, step.prefill_left);
  if (rows == 0 || step.plan.rows.size() >= limits_.seqs_max) {
    request.waits_for = WaitsFor::kTurn;
    return;
  }
  if (!secure(step, request, sequence, rows)) return;
  request.waits_for = WaitsFor::kNothing;
  step.plan.rows.push_back({&request, &sequence, rows});
  step.tokens_left -= rows;
  if (is_decode) {
    step.plan.decode_rows += rows;
  } else {
    step.plan.prefill_rows += rows;
    step.prefill_left -= rows;
  }
}

bool Scheduler::secure(Step& step, ActiveRequest& request, Sequence& sequence, uint32_t rows) {
  while (!cache_.grow(sequence.table, sequence.computed, sequence.computed + rows)) {
    ActiveRequest* last = nullptr;
    Sequence* victim = nullptr;
    for (auto it = step.requests.rbegin(); it != step.requests.rend() && victim == nullptr; ++it) {
      if (it->second->stage == Stage::kLanding) continue;
      for (Sequence& other : it->second->sequences) {
        if (other.admitted && !other.done) victim = &other;
      }
      last = it->second.get();
    }
    CHECK(victim != nullptr, "a sequence lacks blocks and has no seat");
    give_way(step, *last, *victim);
    if (!sequence.admitted) {
      request.waits_for = WaitsFor::kBlocks;
      return false;
    }
  }
  return true;
}

void Scheduler::give_way(Step& step, ActiveRequest& request, Sequence& sequence) {
  const bool has_drawn = request.output_tokens > request.tokens_before;
  if (!limits_.returns || !request.request.is_returnable || request.stage != Stage::kAnswer || !has_drawn)
    return preempt(step, request, sequence);
  for (Sequence& one : request.sequences) strip(step, request, one);
  request.returned = true;
  step.plan.returned.push_back(&request);
}

// Takes everything off a sequence that it has in this step and before.
void Scheduler::strip(Step& step, ActiveRequest& request, Sequence& sequence) {
  auto& rows = step.plan.rows;
  const auto planned =
      std::ranges::find_if(rows, [&](const PlannedRows& row) { return row.sequence == &sequence; });
  if (planned != rows.end()) {
    const bool is_decode = request.stage == Stage::kAnswer && sequence.missing() == 1;
    step.tokens_left += planned->rows;
    (is_decode ? step.plan.decode_rows : step.plan.prefill_rows) -= planned->rows;
    rows.erase(planned);
  }
  cache_.release(sequence.table);
  sequence.computed = 0;
  sequence.admitted = false;
}

void Scheduler::preempt(Step& step, ActiveRequest& request, Sequence& sequence) {
  strip(step, request, sequence);
  request.preempted = true;
  request.waits_for = WaitsFor::kBlocks;
  if (request.stage == Stage::kPrompt) {
    request.stage = Stage::kQueued;
    request.since = step.now;
  }
  ++step.plan.preempted;
}

void Scheduler::seat_waiting(Step& step) {
  for (auto& [rank, request] : step.requests) {
    if (request->waits_for_landing) {
      request->waits_for = WaitsFor::kPeer;
      continue;  // needs nothing yet, and must not keep others from running
    }
    for (Sequence& sequence : request->sequences) {
      if (sequence.admitted || sequence.done) continue;
      if (!seat(step, *request, sequence)) return;
    }
  }
}

bool Scheduler::seat(Step& step, ActiveRequest& request, Sequence& sequence) {
  uint32_t seated = 0;
  uint32_t reserved = 0;  // blocks that those with a seat still need for the tokens they have
  for (const auto& [rank, other] : step.requests) {
    for (const Sequence& s : other->sequences) {
      if (!s.admitted || s.done) continue;
      ++seated;
      if (other->stage != Stage::kLanding) reserved += cache_.growth(s.table, s.computed, s.size());
    }
  }
  request.waits_for = WaitsFor::kSeat;
  if (seated >= limits_.seqs_max) return false;
  const bool landing = request.wants_landing;
  request.waits_for = WaitsFor::kTurn;
  if (!landing && (step.tokens_left == 0 || step.prefill_left == 0)) return false;

  const std::span<const TokenId> tokens(sequence.tokens);
  const bool all_rows =
      request.request.sampling.prompt_logprobs && request.stage != Stage::kAnswer && !landing;
  kv::PagedCache::PrefixHit hit;
  // At least one row must be computed to draw from, unless a peer drew already.
  if (!all_rows)
    hit = cache_.find_prefix(request.request.cache_salt, tokens.first(tokens.size() - (landing ? 0 : 1)));
  const auto hit_blocks = static_cast<uint32_t>(hit.blocks.size());
  const uint32_t need = cache_.arena().layout().blocks_for(tokens.size()) - hit_blocks + hit.cached;
  request.waits_for = WaitsFor::kBlocks;
  if (need + reserved + (seated > 0 ? 1 : 0) > cache_.available()) return false;

  cache_.adopt(sequence.table, hit, request.request.cache_salt, tokens);
  sequence.computed = hit_blocks * cache_.block_tokens();
  sequence.admitted = true;
  if (!request.first_scheduled) {
    request.first_scheduled = step.now;
    request.cached_tokens = sequence.computed;
    step.plan.prefix_hits += sequence.computed;
  }
  if (landing) {
    CHECK(cache_.grow(sequence.table, sequence.computed, sequence.size()), "the blocks were there");
    request.wants_landing = false;
    request.stage = Stage::kLanding;
    request.waits_for = WaitsFor::kPeer;
    request.since = step.now;
    step.plan.landings.push_back(&request);
    return true;
  }
  if (request.stage == Stage::kQueued) {
    request.stage = Stage::kPrompt;
    request.since = step.now;
  }
  plan_rows(step, request, sequence, sequence.missing());
  return true;
}

}  // namespace baton::engine
