// The engine's part in the hand-over: what becomes of requests and blocks when transfer::Source (P) and
// transfer::Target (D) have decided something.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "engine/engine.h"

namespace baton::engine {
namespace {

transfer::Expected expected_of(const Request& request, Time deadline) {
  const RemotePrefill& remote = *request.remote;
  return {.transfer = request.transfer,
          .handover = remote.handover,
          .host = remote.host,
          .port = remote.port,
          .engine_id = remote.engine_id,
          .incarnation = remote.incarnation,
          .tokens = remote.tokens,
          .prompt_hash = remote.prompt_hash,
          .deadline = deadline};
}

}  // namespace

void Engine::take(transfer::MoverEvent& item) {
  source_.on_event(item, now_);
  target_.on_event(item, now_);
}

// ---- P ----

void Engine::take(ReleaseHeld& item) { source_.release(item.handover, item.reason); }

void Engine::hold(ActiveRequest& request, kv::BlockTable kept, std::vector<DrawnToken> tokens) {
  const HandoverId id = *request.request.hold;
  const std::string hash = prompt_hash(request.request.prompt);
  out_.answers.push_back(
      HeldEvent{.request = request.request.id,
                .handover = id,
                .blocks = kept.blocks,
                .tokens = request.prompt_size(),
                .prompt_hash = hash,
                .first_tokens = {.choices = std::move(tokens),
                                 .digest = sampling_digest(request.request.sampling, request.request.prompt)},
                .lease = config_.handover.lease});
  source_.hold(
      {.id = id, .blocks = std::move(kept.blocks), .tokens = request.prompt_size(), .prompt_hash = hash},
      after_);
  held_.insert(id);
}

// ---- D ----

void Engine::expect_landing(ActiveRequest& request) {
  const Time deadline = std::min(request.request.deadline, now_ + config_.landing_max);
  target_.expect(expected_of(request.request, deadline), now_);
  landings_.emplace(request.request.transfer, request.request.id);
  request.wants_landing = true;
}

// The peer keeps blocks for a request that never gets in here: it is told that nobody will come.
void Engine::refuse_landing(const Request& request) {
  transfer::Expected expected = expected_of(request, now_ + config_.landing_max);
  expected.tokens = std::max(expected.tokens, 1U);  // nothing is asked for, so their number does not matter
  target_.expect(std::move(expected), now_);
  target_.abort(request.transfer, "request refused", now_);
  parting_.emplace(request.transfer, kv::BlockTable{});
}

void Engine::land(ActiveRequest& request) {
  const Sequence& leader = request.sequences.front();
  const auto present = static_cast<ptrdiff_t>(leader.computed / cache_.block_tokens());
  request.landing_sent = now_;
  target_.land(request.request.transfer, {leader.table.blocks.begin() + present, leader.table.blocks.end()},
               leader.computed, now_);
}

bool Engine::has_usable_first_tokens(const Request& request) const {
  const auto& first = request.remote->first_tokens;
  const SamplingParams& params = request.sampling;
  if (!first || first->choices.size() != params.n) return false;
  const bool sound = std::ranges::all_of(first->choices, [&](const DrawnToken& drawn) {
    return drawn.token >= 0 && static_cast<uint32_t>(drawn.token) < model_.info().vocab_size &&
           drawn.logprobs.has_value() == params.logprobs.has_value();
  });
  return sound && first->digest == sampling_digest(params, request.prompt);
}

void Engine::landed(ActiveRequest& request) {
  Sequence& leader = request.sequences.front();
  CHECK(request.stage == Stage::kLanding, "KV landed for a request that has no blocks for it");
  if (surroundings_.refill)
    surroundings_.refill(request.request.prompt, leader.computed, leader.table.blocks);
  request.landed = true;
  request.landed_at = after_;
  request.timings.handover = after_ - request.landing_sent.value_or(after_);
  ++stats_.handovers_landed;
  request.stage = Stage::kPrompt;
  request.since = after_;
  const bool usable = has_usable_first_tokens(request.request);
  // Without a first token the last position is computed here: its K and V get the same bits once more.
  leader.computed = request.prompt_size() - (usable ? 0 : 1);
  cache_.index_full_blocks(leader.table, request.request.cache_salt, leader.tokens, leader.computed);
  if (!usable) return;
  std::vector<DrawnToken> tokens = request.request.remote->first_tokens->choices;
  for (DrawnToken& token : tokens) {
    token.finish.reset();  // decided here, by this request's own limits
    token.stop_token.reset();
  }
  end_prompt(request);
  give_first_tokens(request, std::move(tokens));
}

void Engine::landing_failed(ActiveRequest& request, const Error& error) {
  ++stats_.handovers_failed;
  request.wants_landing = false;
  if (config_.landing_failure == LandingFailure::kFail) {
    fail_request(request, {error.code, "hand-over: " + error.message});
    return;
  }
  request.recomputed = true;
  request.since = after_;
  if (request.stage != Stage::kLanding) return;
  Sequence& leader = request.sequences.front();
  leader.computed = std::min(leader.computed, request.prompt_size() - 1);
  if (request.request.sampling.prompt_logprobs) {
    // No peer computes them now, and positions found in the prefix cache have none.
    leader.computed = 0;
    request.cached_tokens = 0;
  }
  request.stage = Stage::kPrompt;
}

// The request ends; its blocks come back when the transfer has its outcome.
void Engine::abandon_landing(ActiveRequest& request) {
  if (landings_.erase(request.request.transfer) == 0) return;
  kv::BlockTable& blocks = parting_[request.request.transfer];
  if (request.stage == Stage::kLanding) blocks = std::move(request.sequences.front().table);
  request.sequences.front().table = {};
  target_.abort(request.request.transfer, "the request ended", now_);
}

bool Engine::collect_transfers() {
  bool changed = false;
  for (transfer::ReleasedHold& released : source_.take_released()) {
    changed = true;
    kv::BlockTable table;
    table.blocks = std::move(released.blocks);
    cache_.release(table);
    CHECK(held_.erase(released.handover) == 1, "hand-over {} comes back twice", released.handover.hex());
    const bool taken = released.end == transfer::HoldEnd::kTaken;
    ++(taken ? stats_.handovers_taken : stats_.handovers_released);
  }
  for (const transfer::Outcome& outcome : target_.take_outcomes()) {
    changed = true;
    stats_.handover_bytes += outcome.bytes;
    if (const auto gone = parting_.find(outcome.transfer); gone != parting_.end()) {
      cache_.release(gone->second);
      parting_.erase(gone);
      continue;
    }
    const auto at = landings_.find(outcome.transfer);
    CHECK(at != landings_.end(), "transfer {} has two outcomes", outcome.transfer.hex());
    ActiveRequest& request = *find(at->second);
    landings_.erase(at);
    outcome.error ? landing_failed(request, *outcome.error) : landed(request);
  }
  for (transfer::Command& command : source_.take_commands()) out_.commands.push_back(std::move(command));
  for (transfer::Command& command : target_.take_commands()) out_.commands.push_back(std::move(command));
  return changed;
}

}  // namespace baton::engine
