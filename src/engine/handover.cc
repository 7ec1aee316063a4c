// The engine's part in the hand-over: what becomes of requests and blocks when transfer::Source (P) and
// transfer::Target (D) have decided something.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "engine/archive.h"
#include "engine/engine.h"

namespace baton::engine {
namespace {

transfer::Expected expected_of(const Request& request, Time deadline) {
  const RemotePrefill& remote = *request.remote;
  return {.flow = remote.is_layerwise ? transfer::Flow::kFromCaller : transfer::Flow::kToCaller,
          .transfer = request.transfer,
          .handover = remote.handover,
          .host = remote.host,
          .port = remote.port,
          .engine_id = remote.engine_id,
          .incarnation = remote.incarnation,
          .tokens = remote.tokens,
          .prompt_hash = remote.prompt_hash,
          .deadline = deadline};
}

// What P's engine tells D's at the end of a prefill. An empty one, or one that does not read, tells nothing:
// D then draws the first token itself.
std::vector<std::byte> encode_note(const FirstTokens& first) {
  std::vector<std::byte> note;
  Writer out(note);
  field(out, first);
  return note;
}

std::optional<FirstTokens> decode_note(std::span<const std::byte> note) {
  Reader in(note);
  FirstTokens first;
  field(in, first);
  if (!in.ok() || in.left() != 0 || first.choices.empty()) return std::nullopt;
  return first;
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

// ---- P, layer-wise order ----

void Engine::promise(ActiveRequest& request) {
  const RemoteLanding& landing = *request.request.remote_landing;
  const HandoverId id = *request.request.hold;
  fillings_.emplace(id, request.request.id);
  request.waits_for_landing = true;
  source_.promise({.id = id,
                   .transfer = landing.transfer,
                   .host = landing.host,
                   .port = landing.port,
                   .engine_id = landing.engine_id,
                   .incarnation = landing.incarnation,
                   .tokens = request.prompt_size(),
                   .prompt_hash = prompt_hash(request.request.prompt),
                   .deadline = std::min(request.request.deadline, now_ + config_.landing_max)},
                  now_);
}

// The pass has computed `layer`: who has a peer that waits for it is told.
void Engine::announce_layer(const Plan& plan, uint32_t layer) {
  for (const PlannedRows& row : plan.rows) {
    if (!row.request->request.remote_landing || row.request->stage != Stage::kPrompt) continue;
    source_.on_layer(*row.request->request.hold, row.sequence->table.blocks, layer,
                     row.sequence->computed + row.rows);
    // Only where layers leave at once; a replay answers no other question of the time than a pass's.
    const bool leaves = surroundings_.emit && surroundings_.clock != nullptr;
    if (leaves && !row.request->first_announced) row.request->first_announced = surroundings_.clock->now();
  }
  emit();
}

// The first tokens are drawn: they go to D, and the blocks stay until it has everything.
void Engine::finish_filling(ActiveRequest& request, kv::BlockTable& kept,
                            const std::vector<DrawnToken>& tokens) {
  const HandoverId id = *request.request.hold;
  const FirstTokens first{.choices = tokens,
                          .digest = sampling_digest(request.request.sampling, request.request.prompt)};
  std::vector<std::byte> note = encode_note(first);
  if (note.size() > transfer::kNoteBytesMax) note = encode_note({});
  CHECK(source_.finish(id, kept.blocks, std::move(note), after_), "hand-over {} is not being filled",
        id.hex());
  kept = {};
  CHECK(fillings_.erase(id) == 1);
  held_.insert(id);
  filled_.emplace(id, after_);
  if (!request.first_announced) return;
  request.handover_hidden = std::max(after_ - *request.first_announced, Duration{0});
  stats_.handover_hidden.observe(request.handover_hidden);
}

void Engine::abandon_filling(const ActiveRequest& request, const std::string& reason) {
  if (fillings_.erase(*request.request.hold) > 0) source_.release(*request.request.hold, reason);
}

// D, or the way to it, has gone: what is being computed for it is not wanted any longer.
void Engine::filling_ended(const transfer::ReleasedHold& released) {
  const auto at = fillings_.find(released.handover);
  if (at == fillings_.end()) return;  // its request ended first
  ActiveRequest& request = *find(at->second);
  fillings_.erase(at);
  const bool is_unwanted = released.end == transfer::HoldEnd::kReleasedByPeer;
  fail_request(request,
               {is_unwanted ? Code::kCancelled : Code::kUnavailable, "hand-over: " + released.reason});
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
  Sequence& leader = request.sequences.front();
  const bool is_layerwise = request.request.remote->is_layerwise;
  if (is_layerwise && leader.computed == request.prompt_size() && !request.request.sampling.prompt_logprobs) {
    // The prefix cache has it all, and nobody has been sent for yet: the last position is computed once more.
    const TransferId transfer = request.request.transfer;
    landings_.erase(transfer);
    parting_.emplace(transfer, kv::BlockTable{});
    target_.abort(transfer, "the prefix cache has the whole prompt", now_);
    leader.computed = request.prompt_size() - 1;
    request.stage = Stage::kPrompt;
    return;
  }
  const auto present = static_cast<ptrdiff_t>(leader.computed / cache_.block_tokens());
  request.timeline.enter(Phase::kHandover, now_);
  if (is_layerwise) {
    out_.answers.push_back(ReservedEvent{.request = request.request.id,
                                         .transfer = request.request.transfer,
                                         .blocks = leader.table.blocks,
                                         .tokens = request.prompt_size(),
                                         .tokens_present = leader.computed,
                                         .prompt_hash = prompt_hash(request.request.prompt)});
  }
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

void Engine::take(ReservationRefused& item) {
  if (landings_.contains(item.transfer)) target_.refuse(item.transfer, item.error, now_);
}

void Engine::landed(ActiveRequest& request) {
  Sequence& leader = request.sequences.front();
  CHECK(request.stage == Stage::kLanding, "KV landed for a request that has no blocks for it");
  if (surroundings_.refill)
    surroundings_.refill(request.request.prompt, leader.computed, leader.table.blocks);
  request.landed = true;
  // In the layer-wise order the wait is P's prefill too; P knows what came after it.
  if (!request.request.remote->is_layerwise) {
    stats_.handover_exposed.observe(
        std::max(after_ - request.timeline.boundaries().back().since, Duration{0}));
  }
  request.timeline.enter(Phase::kPrefill, after_);
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
    // Whatever it was between the instances, the client is not to blame.
    const Code code = error.code == Code::kTimeout ? Code::kTimeout : Code::kUnavailable;
    fail_request(request, {code, "hand-over: " + error.message});
    return;
  }
  request.recomputed = true;
  request.since = after_;
  request.timeline.enter(request.stage == Stage::kLanding ? Phase::kPrefill : Phase::kQueue, after_);
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
    if (!held_.contains(released.handover)) {
      filling_ended(released);
      continue;
    }
    kv::BlockTable table;
    table.blocks = std::move(released.blocks);
    cache_.release(table);
    CHECK(held_.erase(released.handover) == 1, "hand-over {} comes back twice", released.handover.hex());
    const bool taken = released.end == transfer::HoldEnd::kTaken;
    const auto filled = filled_.extract(released.handover);
    if (taken && filled) stats_.handover_exposed.observe(std::max(after_ - filled.mapped(), Duration{0}));
    ++(taken ? stats_.handovers_taken : stats_.handovers_released);
  }
  for (const HandoverId id : source_.take_ready()) {
    changed = true;
    const auto at = fillings_.find(id);
    if (at == fillings_.end()) continue;
    ActiveRequest& request = *find(at->second);
    request.waits_for_landing = false;
    request.timeline.enter(Phase::kQueue, after_);
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
    if (!outcome.error && request.request.remote->is_layerwise)
      request.request.remote->first_tokens = decode_note(outcome.note);
    outcome.error ? landing_failed(request, *outcome.error) : landed(request);
  }
  collect_commands();
  return changed;
}

void Engine::collect_commands() {
  for (transfer::Command& command : source_.take_commands()) out_.commands.push_back(std::move(command));
  for (transfer::Command& command : target_.take_commands()) out_.commands.push_back(std::move(command));
}

}  // namespace baton::engine
