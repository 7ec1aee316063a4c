#include "serve/session.h"

#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "api/kv_transfer_params.h"
#include "api/receipt.h"
#include "api/request.h"
#include "api/response.h"
#include "api/timings.h"
#include "base/log.h"
#include "http/sse.h"
#include "serve/answer.h"
#include "serve/request_builder.h"
#include "serve/request_metrics.h"
#include "serve/request_spans.h"
#include "serve/resume_part.h"
#include "traces/trace_context.h"

namespace baton::serve {
namespace {

constexpr std::string_view kJson = "application/json";

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// The name under which a request appears in ids, logs and /debug/requests: the client's, where it is fit for
// a header, else random.
std::string request_name(const http::Request& http, const std::string& in_body) {
  if (!in_body.empty()) return in_body;
  const auto header = http.headers.get("X-Request-Id");
  if (header && !header->empty() && header->size() <= api::kNameBytesMax) return std::string(*header);
  return random_id<HandoverId>().hex();
}

// The content of the last message if it is the assistant's own, else nothing.
std::string begun_message(const api::json::array& messages) {
  const api::json::object& last = messages.back().as_object();
  const api::json::value* role = last.if_contains("role");
  const api::json::value* content = last.if_contains("content");
  const bool is_own = role != nullptr && role->is_string() && role->get_string() == "assistant";
  return is_own && content != nullptr && content->is_string() ? std::string(content->get_string()) : "";
}

// One prompt's request at the engine, as the door follows it.
struct PromptState {
  RecentRequest record;
  std::string kv_transfer_params;
  Timeline timeline;
  Duration handover_hidden{0};
  std::optional<Time> first_token;
  Time last_token;
  engine::SamplingParams sampling;
  std::unique_ptr<MetaserverPost> metaserver;  // D, layer-wise order: while the request runs
};

class Session {
 public:
  Session(Desk& desk, http::Request& http, http::ResponseWriter& writer, api::ChunkWriter::Kind kind)
      : desk_(desk),
        http_(http),
        writer_(writer),
        kind_(kind),
        arrived_(desk.loop->now()),
        submission_(*desk.engine) {}

  http::Awaitable<void> run();

 private:
  bool is_chat() const { return kind_ == api::ChunkWriter::Kind::kChat; }
  Result<void> prepare();
  Result<void> prepare_chat();
  Result<void> prepare_completion();
  Result<void> add_prompt(TokenizedPrompt prompt, std::optional<int32_t> fallback_max_tokens);
  http::Awaitable<Result<void>> relay();
  Result<void> take(const Submission::Tagged& tagged);
  void take_prompt(PromptState& prompt, const engine::PromptEvent& event);
  void take_tokens(uint32_t tag, const engine::TokensEvent& event);
  void take_end(PromptState& prompt, const engine::FinishedEvent& event);
  void take_reserved(uint32_t tag, const engine::ReservedEvent& event);
  void end_timeline(PromptState& prompt, const Timeline& engine, std::optional<std::string> error);
  void abandon_timelines(const std::string& reason);
  std::string_view place() const;
  std::string timings() const;
  std::string receipt() const;
  Result<void> prepare_notes(PromptState& prompt, engine::Request& request);
  void observe_tokens(PromptState& prompt, size_t tokens);
  bool left_peers_kv() const;
  void begin_stream();
  void send_whole();
  void send_failure(Error error);

  Desk& desk_;
  http::Request& http_;
  http::ResponseWriter& writer_;
  api::ChunkWriter::Kind kind_;
  Time arrived_;

  api::CompletionRequest completion_;
  api::ChatRequest chat_;
  api::CommonRequest* common_ = nullptr;
  HandoverPart handover_;
  ResumePart resume_;
  bool returned_ = false;  // the engine gave the request back
  std::optional<Answer> answer_;
  std::vector<PromptState> prompts_;
  size_t last_ended_ = 0;  // of prompts_; its timeline is that of the whole request
  Submission submission_;
};

Result<void> Session::prepare() {
  const api::RequestLimits limits{.max_logprobs = desk_.model->max_logprobs,
                                  .vocab_size = desk_.model->vocab_size,
                                  .trust_chat_template = desk_.model->trust_request_chat_template};
  if (is_chat()) {
    TRY(chat_, api::parse_chat_request(http_.body, limits));
    common_ = &chat_;
  } else {
    TRY(completion_, api::parse_completion_request(http_.body, limits));
    common_ = &completion_;
  }
  TRY_DO(check_name(*desk_.model, common_->model));
  TRY(handover_, handover_part(*common_, desk_.model->identity));
  // What a proxy hides behind its own limit: an echo that asks for the prompt alone.
  if (handover_.client && handover_.client->max_tokens == 0) common_->sampling.max_tokens = 0;
  if (handover_.hold && common_->stream) {
    return fail(
        Code::kInvalid,
        "kv_transfer_params: do_remote_decode with stream true; expected stream false, because the answer "
        "carries the hand-over",
        "kv_transfer_params");
  }
  if (!is_chat() && common_->echo && common_->sampling.logprobs && !common_->sampling.prompt_logprobs) {
    common_->sampling.prompt_logprobs = common_->sampling.logprobs;
  }
  const std::string name = request_name(http_, common_->request_id);
  const bool echoes_name = desk_.model->accept_any_name && !common_->model.empty();
  api::ResponseHead head{
      .id = is_chat() ? api::chat_id(name) : api::completion_id(name),
      .created_s = unix_seconds(),
      .model = echoes_name ? common_->model : desk_.model->names.front(),
      .tokens_as_ids = common_->return_tokens_as_token_ids || desk_.options->return_tokens_as_token_ids};
  TRY(resume_, resume_part(http_.headers, *common_, handover_, is_chat() ? 1 : completion_.prompts.size(),
                           desk_.model->vocab_size));
  if (resume_.before) {
    head.id = resume_.before->head.id;
    head.created_s = resume_.before->head.created;
  }
  answer_.emplace(kind_, *common_, std::move(head), desk_.model->tokenizer);
  common_->request_id = name;
  return is_chat() ? prepare_chat() : prepare_completion();
}

Result<void> Session::prepare_chat() {
  api::normalise_messages(chat_.messages);
  TRY(TokenizedPrompt prompt, tokenize_chat(*desk_.model, chat_));
  // A chat echoes, as in vLLM, only the message that its answer goes on with.
  if (chat_.echo) prompt.text = begun_message(chat_.messages);
  return add_prompt(std::move(prompt), std::nullopt);
}

Result<void> Session::prepare_completion() {
  if (completion_.prompts.size() > 1 && (handover_.hold || handover_.remote)) {
    return fail(
        Code::kInvalid,
        fmt::format("prompt: a list of {} prompts with kv_transfer_params, expected one prompt per hand-over",
                    completion_.prompts.size()),
        "prompt");
  }
  for (const api::Prompt& prompt : completion_.prompts) {
    TRY(TokenizedPrompt tokenized, tokenize_prompt(*desk_.model, prompt, completion_.add_special_tokens));
    if (tokenized.text.empty() && common_->echo) {
      tokenized.text = desk_.model->tokenizer.decode(tokenized.tokens, common_->sampling.skip_special_tokens);
    }
    TRY_DO(add_prompt(std::move(tokenized), api::kCompletionTokensDefault));
  }
  return {};
}

Result<void> Session::add_prompt(TokenizedPrompt prompt, std::optional<int32_t> fallback_max_tokens) {
  const auto tag = static_cast<uint32_t>(prompts_.size());
  const DoorDraws draws{.seed = resume_.before ? resume_.before->head.seed : desk_.seeds(),
                        .handover = random_id<HandoverId>(),
                        .transfer = random_id<TransferId>()};
  std::string why_computed;
  TRY(engine::Request request, build_request(*desk_.model, *common_, handover_, prompt.tokens,
                                             fallback_max_tokens, draws, why_computed));
  if (desk_.options->request_timeout) request.deadline = desk_.loop->now() + *desk_.options->request_timeout;
  if (!why_computed.empty()) {
    log_warning("serve",
                fmt::format("{}: the prompt is computed here: {}", common_->request_id, why_computed));
  }
  PromptState state;
  state.sampling = request.sampling;
  state.timeline = Timeline(Phase::kTokenise, arrived_);
  state.timeline.enter(Phase::kQueue, desk_.loop->now());
  state.record.request_id = common_->request_id;
  state.record.prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  state.record.held = handover_.hold;
  prompts_.push_back(std::move(state));
  TRY_DO(answer_->add_prompt(std::move(prompt)));
  desk_.metrics.prompt_tokens += request.prompt.size();
  desk_.metrics.request_prompt_tokens.observe(static_cast<double>(request.prompt.size()));
  desk_.metrics.request_params_max_tokens.observe(request.sampling.max_tokens);
  desk_.metrics.request_params_n.observe(request.sampling.n);
  if (!resume_.writes_notes) return submission_.add(std::move(request), tag);
  TRY_DO(prepare_notes(prompts_.back(), request));
  return answer_->is_whole() ? Result<void>{} : submission_.add(std::move(request), tag);
}

Result<void> Session::prepare_notes(PromptState& prompt, engine::Request& request) {
  request.is_returnable = true;
  if (!resume_.before) {
    api::ResumeHead head;
    head.seed = request.sampling.seed;
    head.digest = engine::answer_digest(request.sampling, request.prompt);
    answer_->write_notes(head);
    return {};
  }
  TRY_DO(go_on_with(*resume_.before, request));
  TRY_DO(answer_->go_on(*resume_.before));
  ++desk_.metrics.resumed;
  if (!answer_->is_whole()) return {};
  prompt.record.outcome = "finished";
  end_timeline(prompt, {}, std::nullopt);
  return {};
}

void Session::take_prompt(PromptState& prompt, const engine::PromptEvent& event) {
  prompt.record.cached_tokens = event.cached_tokens;
  prompt.record.remote = event.remote;
  prompt.record.recomputed = event.recomputed;
  desk_.metrics.prefix_cache_queries += prompt.record.prompt_tokens;
  desk_.metrics.prefix_cache_hits += event.cached_tokens;
}

void Session::observe_tokens(PromptState& prompt, size_t tokens) {
  const Time now = desk_.loop->now();
  if (!prompt.first_token) {
    prompt.first_token = now;
    desk_.metrics.time_to_first_token_s.observe(seconds(now - arrived_));
  } else if (tokens > 0) {
    desk_.metrics.inter_token_latency_s.observe(
        seconds(now - prompt.last_token) / static_cast<double>(tokens), tokens);
  }
  prompt.last_token = now;
  desk_.metrics.generation_tokens += tokens;
}

void Session::take_tokens(uint32_t tag, const engine::TokensEvent& event) {
  const Answer::Taken taken = answer_->take(tag, event);
  if (taken.tokens > 0) observe_tokens(prompts_[tag], taken.tokens);
  for (const uint32_t choice : taken.hit_stop) submission_.stop_choice(tag, choice);
}

void Session::take_end(PromptState& prompt, const engine::FinishedEvent& event) {
  prompt.record.output_tokens = event.output_tokens;
  prompt.record.outcome = "finished";
  prompt.handover_hidden = event.handover_hidden;
  last_ended_ = static_cast<size_t>(&prompt - prompts_.data());
  end_timeline(prompt, event.timeline, std::nullopt);
  observe_end(desk_.metrics, {.engine = &event.timeline,
                              .whole = &prompt.timeline,
                              .remote = prompt.record.remote,
                              .choices = prompt.sampling.n,
                              .prompt_tokens = prompt.record.prompt_tokens,
                              .output_tokens = event.output_tokens,
                              .longest_choice = answer_->longest_choice(static_cast<uint32_t>(last_ended_))});
}

// What this instance is for the request.
std::string_view Session::place() const {
  if (handover_.hold) return api::kAtPrefill;
  return handover_.remote ? api::kAtDecode : api::kAtInstance;
}

void Session::end_timeline(PromptState& prompt, const Timeline& engine, std::optional<std::string> error) {
  if (engine.has_ended()) prompt.timeline.append(engine, Phase::kDeliver);
  prompt.timeline.end(desk_.loop->now());
  prompt.record.timeline = prompt.timeline;
  desk_.recent.add(prompt.record);
  if (desk_.spans == nullptr) return;
  EndedRequest ended{.name = prompt.record.request_id,
                     .model = desk_.model->names.front(),
                     .at = place(),
                     .timeline = &prompt.timeline,
                     .sampling = &prompt.sampling,
                     .prompt_tokens = prompt.record.prompt_tokens,
                     .output_tokens = prompt.record.output_tokens,
                     .first_token = std::nullopt,
                     .error = std::move(error),
                     .has_parts = engine.has_ended()};
  if (prompt.first_token) ended.first_token = *prompt.first_token - arrived_;
  desk_.spans->add(request_spans(ended, traces::context_of(http_.headers)));
}

// Of those that the engine has not ended: it is not waited for.
void Session::abandon_timelines(const std::string& reason) {
  for (PromptState& prompt : prompts_) {
    if (prompt.timeline.has_ended()) continue;
    prompt.record.outcome = reason;
    end_timeline(prompt, {}, reason);
  }
}

std::string Session::timings() const {
  if (!common_->timings) return {};
  const PromptState& prompt = prompts_[last_ended_];
  return api::render_timings(api::timings_of(place(), prompt.timeline, prompt.handover_hidden));
}

std::string Session::receipt() const {
  if (!common_->receipt || !answer_->can_give_receipt()) return {};
  api::Receipt receipt{.baton = BATON_VERSION,
                       .fingerprint = desk_.model->identity.fingerprint,
                       .dtype = desk_.model->identity.kv_dtype,
                       .prompts = {}};
  for (uint32_t i = 0; i < prompts_.size(); ++i)
    receipt.prompts.push_back(answer_->receipt(i, prompts_[i].sampling));
  return api::render_receipt(receipt);
}

// Nobody waits for the metaserver; if it sends no prefill instance, the engine decides what follows.
void Session::take_reserved(uint32_t tag, const engine::ReservedEvent& event) {
  std::string id = is_chat() ? api::chat_id(common_->request_id)
                             : fmt::format("{}-{}", api::completion_id(common_->request_id), tag);
  std::string body = render_reserved(
      event, std::move(id),
      {.host = desk_.advertised_host, .port = desk_.side_channel_port, .identity = &desk_.model->identity});
  auto refused = [engine = desk_.engine, transfer = event.transfer](Error error) {
    static_cast<void>(engine->post(engine::ReservationRefused{transfer, std::move(error)}));
  };
  prompts_[tag].metaserver = std::make_unique<MetaserverPost>(
      *desk_.loop, *desk_.client, *handover_.metaserver, std::move(body), std::move(refused));
}

Result<void> Session::take(const Submission::Tagged& tagged) {
  PromptState& prompt = prompts_[tagged.tag];
  if (const auto* event = std::get_if<engine::PromptEvent>(&tagged.answer)) {
    take_prompt(prompt, *event);
    answer_->take(tagged.tag, *event);
  }
  if (const auto* event = std::get_if<engine::TokensEvent>(&tagged.answer)) take_tokens(tagged.tag, *event);
  if (const auto* event = std::get_if<engine::HeldEvent>(&tagged.answer)) {
    prompt.kv_transfer_params = render_held(
        *event, prompt.sampling,
        {.host = desk_.advertised_host, .port = desk_.side_channel_port, .identity = &desk_.model->identity},
        answer_->usage());
  }
  if (const auto* event = std::get_if<engine::ReservedEvent>(&tagged.answer))
    take_reserved(tagged.tag, *event);
  if (const auto* event = std::get_if<engine::FinishedEvent>(&tagged.answer)) take_end(prompt, *event);
  if (const auto* event = std::get_if<engine::FailedEvent>(&tagged.answer)) {
    prompt.record.outcome = event->error.message;
    end_timeline(prompt, event->timeline, event->error.message);
    return Failure(event->error);
  }
  if (const auto* event = std::get_if<engine::ReturnedEvent>(&tagged.answer)) {
    returned_ = true;
    prompt.record.outcome = "returned";
    end_timeline(prompt, event->timeline, "returned: short of KV blocks");
  }
  return {};
}

// P keeps the KV that it offered until somebody tells it that nobody comes.
bool Session::left_peers_kv() const {
  return handover_.remote && !handover_.metaserver && !prompts_.empty() && !prompts_.front().record.remote;
}

void Session::begin_stream() {
  http::Headers headers;
  if (left_peers_kv()) headers.add(api::kKvUnusedHeader, "1");
  headers.add("Content-Type", "text/event-stream; charset=utf-8");
  headers.add("Cache-Control", "no-cache");
  if (http::is_field_value(common_->request_id)) headers.add("X-Request-Id", common_->request_id);
  writer_.start_stream(200, headers);
}

void Session::send_whole() {
  http::Response response;
  response.headers.add("Content-Type", kJson);
  if (left_peers_kv()) response.headers.add(api::kKvUnusedHeader, "1");
  if (http::is_field_value(common_->request_id)) response.headers.add("X-Request-Id", common_->request_id);
  response.body = answer_->take_body(prompts_.front().kv_transfer_params, timings(), receipt());
  writer_.send(response);
}

void Session::send_failure(Error error) {
  // 502 is for a gateway's peers; what is not as it should be here is this instance's own.
  if (error.code == Code::kCorrupt) error.code = Code::kIo;
  if (!writer_.started()) {
    http::Response response;
    response.status = api::http_status(error.code);
    response.headers.add("Content-Type", kJson);
    if (error.code == Code::kExhausted) response.headers.add("Retry-After", "1");
    response.body = api::render_error(error);
    writer_.send(response);
    return;
  }
  std::string events = answer_->take_events();
  api::append_error_event(events, error);
  api::append_done(events);
  writer_.append(events);
}

http::Awaitable<Result<void>> Session::relay() {
  while (true) {
    auto arrived = co_await submission_.next();
    if (!arrived) co_return Failure(arrived.error());
    if (arrived->empty()) break;
    for (const Submission::Tagged& tagged : *arrived) {
      const bool failed = std::holds_alternative<engine::FailedEvent>(tagged.answer);
      // What became of the prompt is known before the head of the answer goes out.
      const bool is_prompt = std::holds_alternative<engine::PromptEvent>(tagged.answer) ||
                             std::holds_alternative<engine::ReservedEvent>(tagged.answer);
      if (common_->stream && !writer_.started() && !failed && !is_prompt) begin_stream();
      CO_TRY_DO(take(tagged));
    }
    const std::string piece = answer_->take_events();
    if (piece.empty()) continue;
    const Result<void> written = co_await writer_.write(piece);
    if (!written) co_return Failure(written.error());
  }
  if (returned_) {
    std::string note;
    api::append_resume_note(note, {.head = {}, .choices = {}, .returned = true});
    writer_.append(note + "\n");
  } else if (common_->stream) {
    if (!writer_.started()) begin_stream();  // all was said elsewhere
    writer_.append(answer_->last_events(timings(), receipt()));
  } else {
    send_whole();
  }
  co_return Result<void>{};
}

http::Awaitable<void> Session::run() {
  const Result<void> prepared = prepare();
  if (!prepared) {
    if (prepared.error().code == Code::kExhausted) ++desk_.metrics.requests_refused;
    send_failure(prepared.error());
    co_return;
  }
  const Result<void> answered = co_await relay();
  if (answered) {
    if (!writer_.hung_up()) submission_.keep_held();
    if (returned_) co_return;
    for (const api::FinishReason reason : answer_->finish_reasons())
      ++desk_.metrics.finished[std::string(api::finish_reason_name(reason))];
    co_return;
  }
  const Error& error = answered.error();
  submission_.abort(error.message);
  abandon_timelines(error.message);
  if (writer_.hung_up()) {
    ++desk_.metrics.clients_gone;
    ++desk_.metrics.finished["abort"];
    co_return;
  }
  if (error.code == Code::kExhausted) ++desk_.metrics.requests_refused;
  ++desk_.metrics.finished["error"];
  send_failure(error);
}

http::Awaitable<void> answer(Desk& desk, http::Request& request, http::ResponseWriter& writer,
                             api::ChunkWriter::Kind kind) {
  Session session(desk, request, writer, kind);
  co_await session.run();
}

}  // namespace

http::Awaitable<void> answer_completion(Desk& desk, http::Request& request, http::ResponseWriter& writer) {
  co_await answer(desk, request, writer, api::ChunkWriter::Kind::kCompletion);
}

http::Awaitable<void> answer_chat(Desk& desk, http::Request& request, http::ResponseWriter& writer) {
  co_await answer(desk, request, writer, api::ChunkWriter::Kind::kChat);
}

}  // namespace baton::serve
