#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/check.h"
#include "engine/recorder.h"

namespace baton::engine {
namespace {

bool contains(const std::vector<TokenId>& tokens, TokenId token) {
  return std::ranges::find(tokens, token) != tokens.end();
}

bool needs_history(const SamplingParams& params) {
  return params.repetition_penalty != 1.0F || params.presence_penalty != 0.0F ||
         params.frequency_penalty != 0.0F;
}

uint32_t tokens_max(const EngineConfig& config, const model::ModelInfo& info, const kv::KvArena& arena) {
  const uint64_t arena_tokens = uint64_t{arena.blocks()} * arena.layout().block_tokens;
  const uint32_t model = info.max_position;
  const uint32_t asked = config.model_tokens_max == 0 ? model : std::min(model, config.model_tokens_max);
  return static_cast<uint32_t>(std::min<uint64_t>(asked, arena_tokens));
}

}  // namespace

Result<void> check_config(const EngineConfig& config, const model::ModelInfo& info,
                          const kv::KvArena& arena) {
  const ScheduleLimits& limits = config.limits;
  if (limits.seqs_max == 0)
    return fail(Code::kInvalid, "max_num_seqs is 0, expected at least 1", "max_num_seqs");
  if (limits.batch_tokens_max < limits.seqs_max) {
    return fail(Code::kInvalid,
                fmt::format("max_num_batched_tokens is {}, expected at least max_num_seqs {}",
                            limits.batch_tokens_max, limits.seqs_max),
                "max_num_batched_tokens");
  }
  // What is recorded of this engine has to be read again.
  if (limits.batch_tokens_max > kRecordBatchTokensMax) {
    return fail(Code::kInvalid,
                fmt::format("max_num_batched_tokens is {}, expected at most {}", limits.batch_tokens_max,
                            kRecordBatchTokensMax),
                "max_num_batched_tokens");
  }
  if (arena.blocks() > kRecordBlocksMax) {
    return fail(Code::kInvalid,
                fmt::format("KV arena: {} blocks, expected at most {}", arena.blocks(), kRecordBlocksMax));
  }
  if (!(arena.layout() == info.kv_layout)) {
    return fail(Code::kInvalid, fmt::format("KV arena: its layout (block size {}) is not the model's ({})",
                                            arena.layout().block_tokens, info.kv_layout.block_tokens));
  }
  if (tokens_max(config, info, arena) < 2) {
    return fail(Code::kInvalid, "max_model_len: expected room for a prompt token and an answer token",
                "max_model_len");
  }
  return {};
}

Engine::Engine(EngineConfig config, model::LanguageModel& model, kv::KvArena& arena,
               Surroundings surroundings)
    : config_(std::move(config)),
      model_(model),
      surroundings_(std::move(surroundings)),
      model_tokens_max_(tokens_max(config_, model.info(), arena)),
      cache_(arena, config_.prefix_cache),
      scheduler_(config_.limits, cache_, model.batch_rows_max()),
      sampler_(model.info().vocab_size),
      source_(config_.handover, arena),
      target_(config_.handover, arena) {
  const auto fits = check_config(config_, model.info(), arena);
  CHECK(fits.has_value(), "{}", fits.error().message);
  stats_.blocks_total = arena.blocks();
  update_gauges();
  if (surroundings_.recorder != nullptr) surroundings_.recorder->start(config_, model.info(), arena.blocks());
}

Engine::~Engine() = default;

namespace {

template <class T>
std::vector<T> copy_from(const std::vector<T>& all, size_t first) {
  return {all.begin() + static_cast<ptrdiff_t>(first), all.end()};
}

template <class T>
void drop_first(std::vector<T>& all, size_t count) {
  all.erase(all.begin(), all.begin() + static_cast<ptrdiff_t>(count));
}

}  // namespace

// The recorder sees the whole of a step, so what leaves early is copied.
void Engine::emit() {
  if (!surroundings_.emit) return;
  collect_commands();
  if (out_.answers.size() == emitted_answers_ && out_.commands.size() == emitted_commands_) return;
  surroundings_.emit({.answers = copy_from(out_.answers, emitted_answers_),
                      .commands = copy_from(out_.commands, emitted_commands_)});
  emitted_answers_ = out_.answers.size();
  emitted_commands_ = out_.commands.size();
}

Outbox Engine::step(std::vector<Inbox> inbox, Time now) {
  CHECK(now >= now_, "time went back by {} ns", (now_ - now).count());
  now_ = after_ = now;
  out_ = {};
  emitted_answers_ = emitted_commands_ = 0;
  pass_ = {};
  if (surroundings_.recorder != nullptr) surroundings_.recorder->begin_step(inbox, now);
  for (Inbox& item : inbox) std::visit([this](auto& one) { take(one); }, item);
  source_.on_time(now);
  target_.on_time(now);
  collect_transfers();
  expire();

  Plan plan = scheduler_.plan(requests_, now);
  stats_.preemptions += plan.preempted;
  stats_.prefix_hits += plan.prefix_hits;
  note_phases(plan);
  for (ActiveRequest* request : plan.landings) land(*request);
  for (ActiveRequest* request : plan.returned) give_back(*request);
  if (!plan.rows.empty()) {
    emit();
    run(plan);
  }
  has_work_ = !plan.rows.empty() || plan.preempted > 0 || !plan.landings.empty() || !plan.returned.empty();
  if (collect_transfers()) has_work_ = true;
  update_gauges();
  ++stats_.steps;
  if (surroundings_.recorder != nullptr) surroundings_.recorder->end_step(*this, out_, pass_);
  drop_first(out_.answers, emitted_answers_);
  drop_first(out_.commands, emitted_commands_);
  return std::move(out_);
}

// ---- inbox ----

Result<void> Engine::accept(const Request& request) {
  TRY_DO(check_request(request, model_.info().vocab_size, model_tokens_max_));
  if (draining_) return fail(Code::kUnavailable, "this instance drains, expected no new request");
  const auto waiting = std::ranges::count_if(
      requests_, [](const auto& entry) { return entry.second->stage == Stage::kQueued; });
  if (static_cast<uint64_t>(waiting) < config_.waiting_max) return {};
  return fail(Code::kExhausted, fmt::format("waiting queue: {} requests wait, expected fewer than {}",
                                            waiting, config_.waiting_max));
}

void Engine::take(Submit& item) {
  CHECK(!ranks_.contains(value(item.request.id)), "request {} is submitted twice", value(item.request.id));
  if (Result<void> accepted = accept(item.request); !accepted) {
    if (item.request.remote) refuse_landing(item.request);
    out_.answers.push_back(FailedEvent{item.request.id, std::move(accepted).error()});
    return;
  }
  queue(std::move(item.request));
}

void Engine::queue(Request request) {
  auto active = std::make_unique<ActiveRequest>();
  active->request = std::move(request);
  const bool by_priority = config_.limits.policy == SchedulingPolicy::kPriority;
  active->rank = {.priority = by_priority ? active->request.priority : 0, .arrival = next_arrival_++};
  active->submitted = active->since = now_;
  const bool needs_peer = active->request.remote || active->request.remote_landing;
  active->timeline = Timeline(needs_peer ? Phase::kReserve : Phase::kQueue, now_);
  const SamplingParams& params = active->request.sampling;
  active->sequences.reserve(params.n);
  active->sequences.emplace_back().tokens = active->request.prompt;
  if (params.prompt_logprobs) active->prompt_logprobs.resize(active->request.prompt.size());
  if (params.repetition_penalty != 1.0F) {
    active->prompt_distinct = active->request.prompt;
    std::ranges::sort(active->prompt_distinct);
    const auto rest = std::ranges::unique(active->prompt_distinct);
    active->prompt_distinct.erase(rest.begin(), rest.end());
  }
  if (active->request.remote) expect_landing(*active);
  if (active->request.remote_landing) promise(*active);
  const Rank rank = active->rank;
  ranks_.emplace(value(active->request.id), rank);
  requests_.emplace(rank, std::move(active));
}

void Engine::take(Abort& item) {
  ActiveRequest* request = find(item.request);
  if (request == nullptr) return;
  fail_request(*request, {Code::kCancelled, "request: cancelled: " + item.reason});
}

void Engine::take(StopChoice& item) {
  ActiveRequest* request = find(item.request);
  if (request == nullptr || item.choice >= request->sequences.size()) return;
  Sequence& sequence = request->sequences[item.choice];
  if (request->stage != Stage::kAnswer || sequence.done) return;
  close(sequence);
  end_if_done(*request);
}

void Engine::take(ResetPrefixCache&) { cache_.reset_prefixes(); }

void Engine::take(Drain&) { draining_ = true; }

void Engine::expire() {
  std::vector<RequestId> late;
  for (const auto& [rank, request] : requests_) {
    if (request->request.deadline <= now_) late.push_back(request->request.id);
  }
  for (const RequestId id : late) {
    ActiveRequest& request = *find(id);
    fail_request(request,
                 {Code::kTimeout, fmt::format("request: deadline passed after {:.3f} s with {} tokens drawn",
                                              seconds(now_ - request.submitted), request.output_tokens)});
  }
}

// ---- the pass ----

// What one planned sequence got from the pass: one token, or each choice's first one.
struct Engine::Drawn {
  std::vector<DrawnToken> tokens;
  std::optional<Error> error;
};

// Which planned sequence a row of logits belongs to, and what it is for.
struct Engine::LogitRow {
  uint32_t planned = 0;
  uint32_t position = 0;
  bool for_prompt = false;
  bool for_draw = false;
};

// What the time of the planned and of the preempted goes to from this step on.
void Engine::note_phases(const Plan& plan) {
  for (const auto& [request, sequence, rows] : plan.rows) {
    if (request->stage == Stage::kPrompt) request->timeline.enter(Phase::kPrefill, now_);
    const bool is_decode = request->stage == Stage::kAnswer && sequence->missing() == 1;
    if (is_decode) request->timeline.enter(Phase::kDecode, now_);
  }
  if (plan.preempted == 0) return;
  for (const auto& [rank, request] : requests_) {
    const bool stands_still = std::ranges::none_of(request->sequences, &Sequence::admitted);
    const bool had_begun = request->stage == Stage::kQueued || request->stage == Stage::kAnswer;
    if (request->preempted && had_begun && stands_still) request->timeline.enter(Phase::kPreempted, now_);
  }
}

std::vector<Engine::LogitRow> Engine::fill_batch(const Plan& plan, BatchRows& batch) const {
  std::vector<LogitRow> wanted;
  for (uint32_t i = 0; i < plan.rows.size(); ++i) {
    const auto& [request, sequence, rows] = plan.rows[i];
    const uint32_t first = sequence->computed;
    batch.sequences.push_back({.rows = rows,
                               .first_position = first,
                               .blocks = sequence->table.blocks,
                               .prompt_tokens = request->prompt_size()});
    const bool wants_prompt = !request->prompt_logprobs.empty() && request->stage == Stage::kPrompt;
    for (uint32_t position = first; position < first + rows; ++position) {
      const bool for_prompt = wants_prompt && position + 1 < request->prompt_size();
      const bool for_draw = position + 1 == sequence->size();
      if (for_prompt || for_draw) {
        batch.logit_rows.push_back(static_cast<uint32_t>(batch.tokens.size()));
        wanted.push_back({i, position, for_prompt, for_draw});
      }
      batch.tokens.push_back(sequence->tokens[position]);
    }
  }
  return wanted;
}

void Engine::run(const Plan& plan) {
  BatchRows rows;
  const std::vector<LogitRow> wanted = fill_batch(plan, rows);
  const Time begun = surroundings_.clock != nullptr ? surroundings_.clock->now() : Time{};
  const model::LayerHook hook = [&](uint32_t layer) {
    announce_layer(plan, layer);
    if (!surroundings_.poll_interrupt || !surroundings_.poll_interrupt(layer)) return true;
    if (interrupts_in_row_ >= kInterruptsMax) return true;
    pass_.interrupted_after = layer;
    return false;
  };
  const bool whole =
      model_.forward({.tokens = rows.tokens, .sequences = rows.sequences, .logit_rows = rows.logit_rows},
                     cache_.arena(), hook);
  if (!whole) {
    ++stats_.passes_interrupted;
    ++interrupts_in_row_;
    return;
  }
  interrupts_in_row_ = 0;

  const size_t vocab = model_.info().vocab_size;
  const uint32_t piece = std::max(1U, model_.logit_rows_max());
  std::vector<Drawn> drawn(plan.rows.size());
  for (uint32_t first = 0; first < wanted.size(); first += piece) {
    const uint32_t count = std::min(piece, static_cast<uint32_t>(wanted.size()) - first);
    const std::span<const float> logits = model_.logits(first, count);
    for (uint32_t i = 0; i < count; ++i) {
      const LogitRow& row = wanted[first + i];
      Drawn& result = drawn[row.planned];
      if (!result.error) read_row(plan.rows[row.planned], row, logits.subspan(i * vocab, vocab), result);
    }
  }
  if (surroundings_.clock != nullptr) pass_.took = surroundings_.clock->now() - begun;
  after_ = now_ + pass_.took;
  scheduler_.estimate().learn(plan.decode_rows, plan.prefill_rows, pass_.took);
  stats_.observe_step(plan.decode_rows + plan.prefill_rows);
  commit(plan, drawn);
}

void Engine::read_row(const PlannedRows& rows, const LogitRow& row, std::span<const float> logits,
                      Drawn& result) {
  ActiveRequest& request = *rows.request;
  const SamplingParams& params = request.request.sampling;
  if (row.for_prompt) {
    if (const auto sound = check_logits(logits); !sound) {
      result.error = sound.error();
      return;
    }
    request.prompt_logprobs[row.position + 1] =
        logprobs_of(logits, request.request.prompt[row.position + 1], *params.prompt_logprobs);
  }
  if (!row.for_draw) return;
  const bool firsts = request.stage == Stage::kPrompt;
  const uint32_t choices = firsts ? params.n : 1;
  for (uint32_t i = 0; i < choices; ++i) {
    const TokenHistory history{.prompt_distinct = request.prompt_distinct,
                               .output = &rows.sequence->drawn,
                               .output_tokens = rows.sequence->size() - request.prompt_size()};
    const uint32_t choice = firsts ? i : rows.sequence->choice;
    const auto token = sampler_.draw(logits, params, history, choice, rows.sequence->size());
    if (!token) {
      result.error = token.error();
      return;
    }
    DrawnToken& one = result.tokens.emplace_back();
    one.token = *token;
    if (params.logprobs) one.logprobs = logprobs_of(logits, *token, *params.logprobs);
  }
}

void Engine::commit(const Plan& plan, std::vector<Drawn>& drawn) {
  std::vector<Rank> ranks;
  std::set<Rank> failed;
  for (size_t i = 0; i < drawn.size(); ++i) {
    ranks.push_back(plan.rows[i].request->rank);
    if (drawn[i].error) failed.insert(ranks[i]);
  }
  for (size_t i = 0; i < drawn.size(); ++i) {
    if (failed.contains(ranks[i])) continue;
    const auto& [request, sequence, rows] = plan.rows[i];
    sequence->computed += rows;
    const uint32_t as_a_prompt =
        model_.info().answer_has_own_form ? request->prompt_size() : sequence->computed;
    cache_.index_full_blocks(sequence->table, request->request.cache_salt, sequence->tokens,
                             std::min(sequence->computed, as_a_prompt));
    if (drawn[i].tokens.empty()) continue;
    if (request->stage == Stage::kPrompt) {
      end_prompt(*request);
      give_first_tokens(*request, std::move(drawn[i].tokens));
    } else {
      append(*request, *sequence, drawn[i].tokens.front());
      out_.answers.push_back(TokensEvent{request->request.id, sequence->choice, std::move(drawn[i].tokens)});
      end_if_done(*request);
    }
  }
  // Once per request, the first of its errors.
  for (size_t i = 0; i < drawn.size() && !failed.empty(); ++i) {
    if (!drawn[i].error || failed.erase(ranks[i]) == 0) continue;
    fail_request(*requests_.at(ranks[i]), *drawn[i].error, true);
  }
}

// ---- requests ----

ActiveRequest* Engine::find(RequestId id) {
  const auto rank = ranks_.find(value(id));
  return rank == ranks_.end() ? nullptr : requests_.at(rank->second).get();
}

void Engine::end_prompt(ActiveRequest& request) {
  PromptEvent event{.request = request.request.id,
                    .cached_tokens = request.cached_tokens,
                    .remote = request.landed,
                    .recomputed = request.recomputed,
                    .prompt_logprobs = {}};
  if (!request.landed) event.prompt_logprobs = std::move(request.prompt_logprobs);
  request.prompt_logprobs.clear();
  out_.answers.push_back(std::move(event));
}

void Engine::give_first_tokens(ActiveRequest& request, std::vector<DrawnToken> tokens) {
  CHECK(tokens.size() == request.request.sampling.n, "{} first tokens", tokens.size());
  request.stage = Stage::kAnswer;
  request.since = after_;
  const std::vector<DrawnBefore>& before = request.request.drawn_before;
  if (before.empty()) request.timeline.enter(Phase::kDecodeWait, after_);
  Sequence& leader = request.sequences.front();
  CHECK(leader.computed == request.prompt_size(), "{} positions computed", leader.computed);
  for (uint32_t choice = 1; choice < tokens.size(); ++choice) {
    Sequence& sequence = request.sequences.emplace_back();
    sequence.choice = choice;
    sequence.tokens = request.request.prompt;
    sequence.computed = leader.computed;
    sequence.admitted = true;
    sequence.table = cache_.fork(leader.table);
  }
  const bool hold_blocks = request.request.hold.has_value();
  kv::BlockTable kept;
  if (hold_blocks) kept = cache_.fork(leader.table);
  for (uint32_t choice = 0; choice < tokens.size(); ++choice) {
    if (!before.empty() && (before[choice].finished || !before[choice].tokens.empty())) {
      go_on(request, request.sequences[choice], before[choice]);
      continue;
    }
    append(request, request.sequences[choice], tokens[choice]);
    out_.answers.push_back(TokensEvent{request.request.id, choice, {tokens[choice]}});
  }
  const bool more = std::ranges::any_of(tokens, [](const DrawnToken& token) { return !token.finish; });
  const bool fills = request.request.remote_landing.has_value();
  if (fills) finish_filling(request, kept, tokens);
  if (hold_blocks && (more || fills)) {
    for (Sequence& sequence : request.sequences) {
      if (!sequence.done) close(sequence);
    }
    if (!fills) hold(request, std::move(kept), std::move(tokens));
  } else {
    cache_.release(kept);
  }
  end_if_done(request);
}

void Engine::append(ActiveRequest& request, Sequence& sequence, DrawnToken& drawn) {
  const SamplingParams& params = request.request.sampling;
  const TokenId token = drawn.token;
  sequence.tokens.push_back(token);
  if (needs_history(params)) ++sequence.drawn[token];
  ++request.output_tokens;
  const uint32_t answer = sequence.size() - request.prompt_size();
  if (answer < params.min_tokens) {
    drawn.finish = std::nullopt;
  } else if (!params.ignore_eos && contains(params.eos_token_ids, token)) {
    drawn.finish = FinishReason::kStop;
  } else if (contains(params.stop_token_ids, token)) {
    drawn.finish = FinishReason::kStop;
    drawn.stop_token = token;
  }
  if (!drawn.finish && (answer >= params.max_tokens || sequence.size() >= model_tokens_max_)) {
    drawn.finish = FinishReason::kLength;
  }
  if (drawn.finish) close(sequence);
}

// The choice has its tokens as after a preemption: what their positions lack is computed, then drawn from.
void Engine::go_on(ActiveRequest& request, Sequence& sequence, const DrawnBefore& before) {
  sequence.tokens.insert(sequence.tokens.end(), before.tokens.begin(), before.tokens.end());
  if (needs_history(request.request.sampling)) {
    for (const TokenId token : before.tokens) ++sequence.drawn[token];
  }
  const auto count = static_cast<uint32_t>(before.tokens.size());
  request.output_tokens += count;
  request.tokens_before += count;
  if (before.finished) close(sequence);
}

void Engine::give_back(ActiveRequest& request) {
  ++stats_.returned;
  request.timeline.end(now_);
  out_.answers.push_back(ReturnedEvent{request.request.id, std::move(request.timeline)});
  forget(request);
}

void Engine::close(Sequence& sequence) {
  cache_.release(sequence.table);
  sequence.done = true;
  sequence.admitted = false;
}

void Engine::end_if_done(ActiveRequest& request) {
  if (request.stage != Stage::kAnswer) return;
  if (!std::ranges::all_of(request.sequences, &Sequence::done)) return;
  request.timeline.end(after_);
  out_.answers.push_back(FinishedEvent{.request = request.request.id,
                                       .output_tokens = request.output_tokens,
                                       .timeline = std::move(request.timeline),
                                       .handover_hidden = request.handover_hidden});
  forget(request);
}

void Engine::fail_request(ActiveRequest& request, Error error, bool suspect_blocks) {
  if (request.request.remote) abandon_landing(request);
  if (request.request.remote_landing) abandon_filling(request, error.message);
  for (Sequence& sequence : request.sequences) {
    suspect_blocks ? cache_.discard(sequence.table) : cache_.release(sequence.table);
  }
  request.timeline.end(after_);
  out_.answers.push_back(FailedEvent{request.request.id, std::move(error), std::move(request.timeline)});
  forget(request);
}

void Engine::forget(const ActiveRequest& request) {
  const Rank rank = request.rank;
  ranks_.erase(value(request.request.id));
  requests_.erase(rank);
}

}  // namespace baton::engine
