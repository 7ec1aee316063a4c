// What an engine tells about itself: gauges, snapshot, deadlines, consistency.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/check.h"
#include "engine/engine.h"

namespace baton::engine {
namespace {

const char* state_name(const ActiveRequest& request) {
  if (request.preempted && request.waits_for == WaitsFor::kBlocks) return "preempted";
  switch (request.stage) {
    case Stage::kQueued:
      return "queued";
    case Stage::kLanding:
      return "landing";
    case Stage::kPrompt:
      return "prefill";
    case Stage::kAnswer:
      return "decode";
  }
  return "unknown";
}

std::string waits_for(const ActiveRequest& request) {
  switch (request.waits_for) {
    case WaitsFor::kNothing:
      return {};
    case WaitsFor::kTurn:
      return "a turn";
    case WaitsFor::kSeat:
      return "a seat (max_num_seqs)";
    case WaitsFor::kBlocks:
      return "KV blocks";
    case WaitsFor::kPeer:
      if (const auto& landing = request.request.remote_landing)
        return fmt::format("{}:{}", landing->host, landing->port);
      if (request.request.remote->is_layerwise) return "a prefill instance";
      return fmt::format("{}:{}", request.request.remote->host, request.request.remote->port);
  }
  return {};
}

}  // namespace

Time Engine::next_deadline() const {
  Time next = std::min(source_.next_deadline(), target_.next_deadline());
  for (const auto& [rank, request] : requests_) next = std::min(next, request->request.deadline);
  return next;
}

bool Engine::is_idle() const {
  return requests_.empty() && held_.empty() && landings_.empty() && parting_.empty();
}

void Engine::reset_idle() {
  CHECK(is_idle(), "{} requests, {} leases", requests_.size(), held_.size());
  cache_.reset();
  scheduler_.estimate().reset();
  interrupts_in_row_ = 0;
}

void Engine::update_gauges() {
  stats_.requests_running = stats_.requests_waiting = 0;
  stats_.blocks_landing = 0;
  for (const auto& [rank, request] : requests_) {
    const bool seated =
        request->stage != Stage::kLanding && std::ranges::any_of(request->sequences, &Sequence::admitted);
    ++(seated ? stats_.requests_running : stats_.requests_waiting);
    if (request->stage != Stage::kLanding) continue;
    const Sequence& leader = request->sequences.front();
    stats_.blocks_landing +=
        static_cast<uint32_t>(leader.table.blocks.size()) - leader.computed / cache_.block_tokens();
  }
  for (const auto& [transfer, table] : parting_) {
    stats_.blocks_landing += static_cast<uint32_t>(table.blocks.size());
  }
  stats_.blocks_free = cache_.available();
  stats_.blocks_held = static_cast<uint32_t>(source_.held_blocks());
}

std::vector<RequestSnapshot> Engine::snapshot() const {
  std::vector<RequestSnapshot> all;
  for (const auto& [rank, request] : requests_) {
    RequestSnapshot& one = all.emplace_back();
    one.id = request->request.id;
    one.external_id = request->request.external_id;
    one.state = state_name(*request);
    one.waits_for = waits_for(*request);
    one.since = request->since;
    one.until = request->request.deadline;
    one.priority = request->request.priority;
    one.prompt_tokens = request->prompt_size();
    one.output_tokens = request->output_tokens;
    const auto open = std::ranges::find(request->sequences, false, &Sequence::done);
    if (open != request->sequences.end()) one.computed_tokens = open->computed;
    for (const Sequence& sequence : request->sequences) {
      one.blocks += static_cast<uint32_t>(sequence.table.blocks.size());
    }
  }
  return all;
}

std::string Engine::find_inconsistency() const {
  if (std::string wrong = cache_.find_inconsistency(); !wrong.empty()) return wrong;
  // Every owner that the pool counts is a sequence, a lease or a transfer.
  uint64_t owners = source_.held_blocks();
  for (const auto& [rank, request] : requests_) {
    for (const Sequence& sequence : request->sequences) owners += sequence.table.blocks.size();
  }
  for (const auto& [transfer, table] : parting_) owners += table.blocks.size();
  uint64_t counted = 0;
  for (uint32_t block = 0; block < cache_.pool().size(); ++block)
    counted += cache_.pool().owners(BlockId{block});
  if (owners != counted) return fmt::format("{} owners are known, the pool counts {}", owners, counted);
  if (requests_.size() != ranks_.size()) return "a request is lost";
  return {};
}

}  // namespace baton::engine
