#include "tests/simulation/chaos_instance.h"

#include <fmt/format.h>

#include <utility>

#include "api/kv_transfer_params.h"
#include "api/response.h"
#include "base/check.h"
#include "http/message.h"
#include "serve/resume_part.h"

namespace baton::simulation::chaos {
namespace {

const char* reason_name(engine::FinishReason reason) {
  return reason == engine::FinishReason::kStop ? "stop" : "length";
}

}  // namespace

Instance::Instance(InstanceOptions options, transfer::fake::FakeNetwork& network, Wire& wire,
                   serve::ServedModel& served, uint64_t seed)
    : options_(std::move(options)),
      network_(network),
      wire_(wire),
      random_(seed),
      served_(&served),
      model_(std::make_unique<model::FakeModel>(fake_options(options_.block_tokens))) {
  start();
}

void Instance::start() {
  const model::ModelInfo& info = model_->info();
  options_.engine.handover.incarnation = draw_id<Incarnation>();
  const Incarnation incarnation = options_.engine.handover.incarnation;
  const std::string name = fmt::format("i{}", options_.index);
  auto arena = kv::KvArena::create(info.kv_layout, options_.arena_blocks, incarnation);
  CHECK(arena.has_value(), "{}", arena.error().message);
  arena_ = std::move(*arena);
  mover_ = network_.join("sim", port(),
                         {.engine_id = name,
                          .incarnation = incarnation,
                          .fingerprint = info.fingerprint,
                          .layout = info.kv_layout,
                          .boot_id = "sim",
                          .max_model_len = kMaxModelLen},
                         *arena_);
  engine::Surroundings surroundings;
  surroundings.poll_interrupt = [this](uint32_t) { return random_() % 100 < options_.interrupt_percent; };
  if (options_.emits_layers) {
    surroundings.emit = [this](engine::Outbox out) { deliver(std::move(out)); };
  }
  engine_.emplace(options_.engine, *model_, *arena_, std::move(surroundings));
  served_->identity = {.protocol = api::kHandoverProtocol,
                       .version = "sim",
                       .role = options_.role,
                       .hands_over = true,
                       .incarnation = incarnation,
                       .engine_id = name,
                       .fingerprint = info.fingerprint,
                       .kv_dtype = std::string(dtype_name(info.kv_layout.dtype)),
                       .block_size = static_cast<int32_t>(info.kv_layout.block_tokens),
                       .max_model_len = kMaxModelLen,
                       .tensor_parallel_size = 1,
                       .kv_port = port(),
                       .order = options_.order,
                       .speeds = options_.speeds,
                       .resume = api::kResumeProtocol};
}

void Instance::kill(Time now) {
  stopped_ = false;
  mover_.reset();
  engine_.reset();
  arena_.reset();
  inbox_.clear();
  open_.clear();
  left_.clear();
  wire_.leave_all(options_.index, Wire::End::kInstance, now);
}

void Instance::stop(bool stopped) {
  stopped_ = stopped;
  network_.freeze(*mover_, stopped);
}

// ---- the door ----

void Instance::take(const Call& call, Piece piece, Time now) {
  switch (piece.kind) {
    case Piece::Kind::kBegin:
      return is_alive() ? begin(call, piece, now) : wire_.leave(call.id, Wire::End::kInstance, now);
    case Piece::Kind::kAbort:
      if (is_alive()) abort(piece.bytes);
      return wire_.leave(call.id, Wire::End::kInstance, now);
    case Piece::Kind::kPostOver:
      return nobody_comes(call.id, piece.bytes);
    default:
      return hang_up(call.id);
  }
}

void Instance::begin(const Call& call, const Piece& piece, Time now) {
  Open open;
  open.call = call.id;
  open.external_id = call.request_id;
  open.notes = piece.notes;
  auto request = build(piece.bytes, open);
  if (!request) return fail(open, request.error(), now);
  request->id = RequestId{next_request_++};
  request->external_id = open.external_id;
  open_.emplace(value(request->id), std::move(open));
  inbox_.emplace_back(engine::Submit{std::move(*request)});
}

Result<engine::Request> Instance::build(const std::string& body, Open& open) {
  TRY(const auto parsed, api::parse_completion_request(body, {.vocab_size = served_->vocab_size}));
  TRY(const auto handover, serve::handover_part(parsed, served_->identity));
  TRY(const auto prompt, serve::tokenize_prompt(*served_, parsed.prompts.front(), true));
  http::Headers headers;
  if (open.notes) headers.add(api::kResumeHeader, "1");
  TRY(const auto resume, serve::resume_part(headers, parsed, handover, 1, served_->vocab_size));
  serve::DoorDraws draws;
  draws.seed = resume.before ? resume.before->head.seed : random_();
  draws.handover = draw_id<HandoverId>();
  draws.transfer = draw_id<TransferId>();
  std::string why;
  TRY(auto request, serve::build_request(*served_, parsed, handover, prompt.tokens,
                                         api::kCompletionTokensDefault, draws, why));
  if (resume.before) {
    TRY_DO(serve::go_on_with(*resume.before, request));
  } else if (open.notes) {
    open.head = api::ResumeHead{.id = "cmpl-" + open.external_id,
                                .seed = request.sampling.seed,
                                .digest = engine::answer_digest(request.sampling, request.prompt)};
  }
  request.is_returnable = open.notes;
  open.hold = request.hold;
  open.has_remote = handover.remote && !handover.metaserver;
  open.reserved = request.transfer;
  open.stream = parsed.stream;
  open.sampling = request.sampling;
  open.prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  open.tokens.resize(request.sampling.n);
  open.reasons.resize(request.sampling.n);
  return request;
}

// As serve::Submission: what has not ended is aborted, and nobody was told of what is held.
void Instance::hang_up(uint64_t call) {
  for (auto at = open_.begin(); at != open_.end();) {
    if (at->second.call != call) {
      ++at;
      continue;
    }
    inbox_.emplace_back(engine::Abort{RequestId{at->first}, "the client is gone"});
    if (at->second.hold) inbox_.emplace_back(engine::ReleaseHeld{*at->second.hold, "the client is gone"});
    left_.insert(at->first);
    at = open_.erase(at);
  }
}

void Instance::nobody_comes(uint64_t call, const std::string& why) {
  for (const auto& [id, open] : open_) {
    if (open.call == call)
      inbox_.emplace_back(engine::ReservationRefused{open.reserved, {Code::kUnavailable, why}});
  }
}

void Instance::abort(const std::string& id) {
  for (const auto& [request, open] : open_) {
    if (open.external_id == id) inbox_.emplace_back(engine::Abort{RequestId{request}, "/abort_request"});
  }
  if (const auto handover = HandoverId::parse(id))
    inbox_.emplace_back(engine::ReleaseHeld{*handover, "/abort_request"});
}

// ---- the engine ----

void Instance::turn(Time now) {
  for (auto& event : mover_->poll(Duration{0})) inbox_.emplace_back(std::move(event));
  if (inbox_.empty() && !engine_->has_work() && engine_->next_deadline() > now) return;
  ++steps;
  turn_time_ = now;
  deliver(engine_->step(std::exchange(inbox_, {}), now));
}

void Instance::deliver(engine::Outbox outbox) {
  for (auto& command : outbox.commands) mover_->execute(std::move(command));
  for (const auto& one : outbox.answers) answer(one, turn_time_);
}

Time Instance::next_turn(Time now) const {
  if (!is_alive() || stopped_) return kNever;
  return !inbox_.empty() || engine_->has_work() || mover_->is_sending() ? now : engine_->next_deadline();
}

void Instance::answer(const engine::Answer& one, Time now) {
  const uint64_t id = std::visit([](const auto& event) { return value(event.request); }, one);
  digest = (digest ^ (id * 31 + one.index())) * 0x9E3779B97F4A7C15U;
  const auto found = open_.find(id);
  const bool is_end = std::holds_alternative<engine::FinishedEvent>(one) ||
                      std::holds_alternative<engine::FailedEvent>(one) ||
                      std::holds_alternative<engine::ReturnedEvent>(one);
  if (found == open_.end()) {
    if (!left_.contains(id))
      violation = fmt::format("instance {}: an answer of request {}, which has ended", options_.index, id);
    if (is_end) left_.erase(id);
    return;
  }
  Open& open = found->second;
  if (const auto* event = std::get_if<engine::PromptEvent>(&one)) {
    open.cached_tokens = event->cached_tokens;
    open.kv_unused = open.has_remote && !event->remote;
    landed += event->remote ? 1 : 0;
    recomputed += event->recomputed ? 1 : 0;
  } else if (const auto* drawn = std::get_if<engine::TokensEvent>(&one)) {
    take_tokens(open, *drawn, now);
  } else if (const auto* held = std::get_if<engine::HeldEvent>(&one)) {
    open.params =
        serve::render_held(*held, open.sampling, {.host = "sim", .port = port(), .identity = &identity()},
                           {.prompt_tokens = open.prompt_tokens, .cached_tokens = open.cached_tokens});
  } else if (const auto* reserved = std::get_if<engine::ReservedEvent>(&one)) {
    std::string post = serve::render_reserved(*reserved, fmt::format("cmpl-{}-0", open.external_id),
                                              {.host = "sim", .port = port(), .identity = &identity()});
    wire_.send(open.call, Wire::End::kProxy, {.kind = Piece::Kind::kPost, .bytes = std::move(post)}, now);
  } else if (std::holds_alternative<engine::FinishedEvent>(one)) {
    finish(open, now);
    open_.erase(found);
  } else if (const auto* failed = std::get_if<engine::FailedEvent>(&one)) {
    fail(open, failed->error, now);
    open_.erase(found);
  } else if (std::holds_alternative<engine::ReturnedEvent>(one)) {
    give_back(open, now);
    open_.erase(found);
  }
}

void Instance::give_back(const Open& open, Time now) {
  ++returned;
  std::string note;
  api::append_resume_note(note, {.head = {}, .choices = {}, .returned = true});
  wire_.send(open.call, Wire::End::kProxy,
             {.kind = Piece::Kind::kEvent, .bytes = {}, .note = std::move(note)}, now);
  wire_.send(open.call, Wire::End::kProxy, {.kind = Piece::Kind::kEnd, .bytes = {}}, now);
  wire_.leave(open.call, Wire::End::kInstance, now);
}

void Instance::take_tokens(Open& open, const engine::TokensEvent& event, Time now) {
  std::vector<TokenId> tokens;
  std::string reason;
  for (const engine::DrawnToken& token : event.tokens) {
    tokens.push_back(token.token);
    if (token.finish) reason = reason_name(*token.finish);
  }
  open.reasons[event.choice] = reason;
  if (!open.stream) {
    auto& all = open.tokens[event.choice];
    all.insert(all.end(), tokens.begin(), tokens.end());
    return;
  }
  if (!std::exchange(open.begun, true))
    wire_.send(open.call, Wire::End::kProxy,
               {.kind = Piece::Kind::kHead, .status = 200, .bytes = {}, .kv_unused = open.kv_unused}, now);
  std::string note;
  if (open.notes) {
    api::append_resume_note(note, {.head = std::exchange(open.head, std::nullopt),
                                   .choices = {{.index = static_cast<int32_t>(event.choice),
                                                .ids = tokens,
                                                .finished = !reason.empty()}}});
  }
  wire_.send(
      open.call, Wire::End::kProxy,
      {.kind = Piece::Kind::kEvent,
       .bytes = fmt::format(R"({{"choices":[{{"index":{},"text":"{}","finish_reason":{}}}]}})", event.choice,
                            text_of(tokens), reason.empty() ? "null" : "\"" + reason + "\""),
       .note = std::move(note)},
      now);
}

std::string Instance::whole_body(const Open& open) const {
  std::string choices;
  for (size_t i = 0; i < open.tokens.size(); ++i) {
    choices += fmt::format(R"({}{{"index":{},"text":"{}","finish_reason":"{}"}})", i == 0 ? "" : ",", i,
                           text_of(open.tokens[i]), open.reasons[i]);
  }
  return fmt::format(
      R"({{"choices":[{}],"usage":{{"prompt_tokens":{},"prompt_tokens_details":{{"cached_tokens":{}}}}},)"
      R"("kv_transfer_params":{}}})",
      choices, open.prompt_tokens, open.cached_tokens, open.params.empty() ? "null" : open.params);
}

void Instance::finish(Open& open, Time now) {
  if (open.stream) {
    wire_.send(open.call, Wire::End::kProxy, {.kind = Piece::Kind::kEvent, .bytes = "[DONE]"}, now);
    wire_.send(open.call, Wire::End::kProxy, {.kind = Piece::Kind::kEnd, .bytes = {}}, now);
  } else {
    wire_.send(
        open.call, Wire::End::kProxy,
        {.kind = Piece::Kind::kWhole, .status = 200, .bytes = whole_body(open), .kv_unused = open.kv_unused},
        now);
  }
  wire_.leave(open.call, Wire::End::kInstance, now);
}

void Instance::fail(Open& open, const Error& error, Time now) {
  if (open.begun) {
    wire_.send(open.call, Wire::End::kProxy, {.kind = Piece::Kind::kEvent, .bytes = api::render_error(error)},
               now);
    wire_.send(open.call, Wire::End::kProxy, {.kind = Piece::Kind::kEvent, .bytes = "[DONE]"}, now);
    wire_.send(open.call, Wire::End::kProxy, {.kind = Piece::Kind::kEnd, .bytes = {}}, now);
  } else {
    wire_.send(open.call, Wire::End::kProxy,
               {.kind = Piece::Kind::kWhole,
                .status = api::http_status(error.code),
                .bytes = api::render_error(error)},
               now);
  }
  wire_.leave(open.call, Wire::End::kInstance, now);
}

std::string Instance::find_leak() const {
  const auto& stats = engine_->stats();
  if (!left_.empty())
    return fmt::format("instance {}: {} requests have no end", options_.index, left_.size());
  if (!is_idle()) return fmt::format("instance {} is not idle", options_.index);
  if (stats.blocks_free != stats.blocks_total)
    return fmt::format("instance {}: {} of {} blocks are free", options_.index, stats.blocks_free,
                       stats.blocks_total);
  const std::string inconsistency = engine_->find_inconsistency();
  return inconsistency.empty() ? inconsistency
                               : fmt::format("instance {}: {}", options_.index, inconsistency);
}

}  // namespace baton::simulation::chaos
