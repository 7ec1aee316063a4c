#include "tests/simulation/cluster.h"

#include <fmt/format.h>

#include <boost/json/serialize.hpp>

#include <algorithm>
#include <iterator>
#include <utility>

#include "api/json.h"
#include "api/kv_transfer_params.h"
#include "api/request.h"
#include "api/response.h"
#include "base/check.h"

namespace baton::simulation {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(1);

serve::ServedModel served_model(const InstanceOptions& options, const model::ModelInfo& info,
                                const std::string& tokenizer_dir) {
  auto tokenizer = text::Tokenizer::load(tokenizer_dir);
  CHECK(tokenizer.has_value(), "{}", tokenizer.error().message);
  serve::ServedModel served(std::move(*tokenizer));
  served.names = {"m"};
  served.vocab_size = static_cast<int32_t>(info.vocab_size);
  served.max_model_len = static_cast<int32_t>(info.max_position);
  served.eos_token_ids = {static_cast<TokenId>(info.vocab_size / 2)};
  served.identity = {.protocol = api::kHandoverProtocol,
                     .version = "test",
                     .role = options.role.value_or(api::Role::kBoth),
                     .hands_over = options.role.has_value(),
                     .incarnation = options.engine.handover.incarnation,
                     .engine_id = options.name,
                     .fingerprint = info.fingerprint,
                     .kv_dtype = std::string(dtype_name(info.kv_layout.dtype)),
                     .block_size = static_cast<int32_t>(info.kv_layout.block_tokens),
                     .max_model_len = served.max_model_len,
                     .tensor_parallel_size = 1,
                     .kv_port = 0,
                     .order = options.order};
  return served;
}

// Adds what one event of a stream, or a whole answer, says to its choices.
void read_choices(std::string_view json, std::vector<Said>& said) {
  const auto object = api::parse_json_object(json);
  CHECK(object.has_value(), "{}: {}", json, object.error().message);
  for (const api::json::value& value : object->at("choices").as_array()) {
    const api::json::object& choice = value.as_object();
    Said& one = said.at(choice.at("index").to_number<size_t>());
    CHECK(one.end.empty(), "a choice goes on behind its end: {}", json);
    one.text += choice.at("text").as_string();
    if (choice.at("finish_reason").is_null()) continue;
    one.end = api::json::serialize(choice.at("finish_reason")) + " " +
              api::json::serialize(choice.at("stop_reason"));
  }
}

void read_events(std::string_view events, std::vector<Said>& said) {
  constexpr std::string_view kData = "data: ";
  while (!events.empty()) {
    const size_t end = events.find("\n\n");
    CHECK(events.starts_with(kData) && end != std::string_view::npos, "not an event: {}", events);
    const std::string_view data = events.substr(kData.size(), end - kData.size());
    if (data != "[DONE]") read_choices(data, said);
    events.remove_prefix(end + 2);
  }
}

// Puts another prompt's outcome behind those before it.
void join(Outcome& next, Outcome& whole) {
  std::ranges::move(next.choices, std::back_inserter(whole.choices));
  std::ranges::move(next.said, std::back_inserter(whole.said));
  std::ranges::move(next.prompt_logprobs, std::back_inserter(whole.prompt_logprobs));
  if (!whole.error) whole.error = next.error;
  whole.recomputed = whole.recomputed || next.recomputed;
}

}  // namespace

uint16_t Instance::next_port_ = 1000;

Instance::Instance(InstanceOptions options, std::unique_ptr<model::LanguageModel> model,
                   const std::string& tokenizer_dir, transfer::fake::FakeNetwork& network)
    : options_(std::move(options)),
      port_(next_port_++),
      served_(served_model(options_, model->info(), tokenizer_dir)),
      model_(std::move(model)) {
  const model::ModelInfo& info = model_->info();
  auto arena =
      kv::KvArena::create(info.kv_layout, options_.arena_blocks, options_.engine.handover.incarnation);
  CHECK(arena.has_value(), "{}", arena.error().message);
  arena_ = std::move(*arena);
  const transfer::Identity identity{.engine_id = options_.name,
                                    .incarnation = options_.engine.handover.incarnation,
                                    .fingerprint = info.fingerprint,
                                    .layout = info.kv_layout,
                                    .boot_id = "test",
                                    .max_model_len = info.max_position};
  mover_ = network.join("sim", port_, identity, *arena_);
  engine_ = std::make_unique<engine::Engine>(options_.engine, *model_, *arena_);
  served_.max_model_len = static_cast<int32_t>(engine_->model_tokens_max());
  served_.identity.max_model_len = served_.max_model_len;
}

void Instance::submit(const std::string& body, Done done, Reserved reserved) {
  const auto refuse = [&](const Error& error) {
    done(Outcome{.choices = {}, .prompt_logprobs = {}, .error = error}, {});
  };
  const auto parsed = api::parse_completion_request(body, {.vocab_size = served_.vocab_size});
  if (!parsed) return refuse(parsed.error());
  struct Joined {
    std::vector<Outcome> outcomes;
    size_t left = 0;
    Done done;
  };
  const auto joined = std::make_shared<Joined>();
  joined->outcomes.resize(parsed->prompts.size());
  joined->left = parsed->prompts.size();
  joined->done = std::move(done);
  for (size_t i = 0; i < parsed->prompts.size(); ++i) {
    submit_prompt(
        *parsed, parsed->prompts[i],
        [joined, i](Outcome outcome, const std::string& params) {
          joined->outcomes[i] = std::move(outcome);
          if (--joined->left > 0) return;
          Outcome whole = std::move(joined->outcomes.front());
          for (size_t k = 1; k < joined->outcomes.size(); ++k) join(joined->outcomes[k], whole);
          joined->done(std::move(whole), params);
        },
        reserved);
  }
}

void Instance::submit_prompt(const api::CompletionRequest& parsed, const api::Prompt& text, Done done,
                             Reserved reserved) {
  const auto refuse = [&](const Error& error) {
    done(Outcome{.choices = {}, .prompt_logprobs = {}, .error = error}, {});
  };
  const auto handover = serve::handover_part(parsed, served_.identity);
  if (!handover) return refuse(handover.error());
  const auto prompt = serve::tokenize_prompt(served_, text, true);
  if (!prompt) return refuse(prompt.error());
  serve::DoorDraws draws;
  draws.seed = draws_++;
  draws.handover = random_id<HandoverId>();
  draws.transfer = random_id<TransferId>();
  std::string why;
  auto request = serve::build_request(served_, parsed, *handover, prompt->tokens,
                                      api::kCompletionTokensDefault, draws, why);
  if (!request) return refuse(request.error());
  CHECK(why.empty(), "{}", why);
  const uint64_t id = next_request_++;
  request->id = RequestId{id};
  auto asked = std::make_unique<const api::CompletionRequest>(parsed);
  auto answer = std::make_unique<serve::Answer>(api::ChunkWriter::Kind::kCompletion, *asked,
                                                api::ResponseHead{.model = "m"}, served_.tokenizer);
  if (const auto added = answer->add_prompt(*prompt); !added) return refuse(added.error());
  Open open{.done = std::move(done),
            .reserved = std::move(reserved),
            .request = std::move(asked),
            .answer = std::move(answer),
            .outcome = {},
            .params = {},
            .sampling = request->sampling,
            .prompt_tokens = static_cast<uint32_t>(request->prompt.size())};
  open.outcome.choices.resize(request->sampling.n);
  open.outcome.said.resize(request->sampling.n);
  open_.emplace(id, std::move(open));
  inbox_.push_back(engine::Submit{std::move(*request)});
}

// As a session does: the tokens that count are those before the text's end, where the engine is told to stop.
void Instance::take_tokens(Open& open, const engine::TokensEvent& event) {
  const serve::Answer::Taken taken = open.answer->take(0, event);
  open.events += open.answer->take_events();
  auto& tokens = open.outcome.choices.at(event.choice);
  tokens.insert(tokens.end(), event.tokens.begin(),
                event.tokens.begin() + static_cast<ptrdiff_t>(taken.tokens));
  for (const uint32_t choice : taken.hit_stop) inbox_.emplace_back(engine::StopChoice{event.request, choice});
}

bool Instance::turn(Time now) {
  for (auto& event : mover_->poll(Duration{0})) inbox_.push_back(std::move(event));
  if (inbox_.empty() && !engine_->has_work() && engine_->next_deadline() > now) return false;
  engine::Outbox outbox = engine_->step(std::exchange(inbox_, {}), now);
  for (auto& command : outbox.commands) mover_->execute(std::move(command));
  for (const auto& answer : outbox.answers) take(answer);
  return true;
}

void Instance::take(const engine::Answer& answer) {
  const uint64_t id = std::visit([](const auto& event) { return value(event.request); }, answer);
  const auto found = open_.find(id);
  CHECK(found != open_.end(), "an answer of a request that has ended");
  Open& open = found->second;
  if (const auto* event = std::get_if<engine::PromptEvent>(&answer)) {
    open.cached_tokens = event->cached_tokens;
    open.outcome.prompt_logprobs = event->prompt_logprobs;
    open.outcome.recomputed = event->recomputed;
    open.answer->take(0, *event);
  }
  if (const auto* event = std::get_if<engine::TokensEvent>(&answer)) take_tokens(open, *event);
  if (const auto* event = std::get_if<engine::HeldEvent>(&answer)) {
    open.params = serve::render_held(
        *event, open.sampling, {.host = "sim", .port = port_, .identity = &served_.identity},
        {.prompt_tokens = open.prompt_tokens, .cached_tokens = open.cached_tokens});
  }
  if (const auto* event = std::get_if<engine::ReservedEvent>(&answer)) open.reserved(*event);
  if (const auto* event = std::get_if<engine::FailedEvent>(&answer)) open.outcome.error = event->error;
  if (std::holds_alternative<engine::FinishedEvent>(answer) || open.outcome.error) {
    Open ended = std::move(open);
    open_.erase(found);
    if (ended.outcome.error) {
      ended.outcome.said.clear();
    } else if (ended.request->stream) {
      read_events(ended.events + ended.answer->last_events({}), ended.outcome.said);
    } else {
      read_choices(ended.answer->take_body(ended.params, {}), ended.outcome.said);
    }
    ended.done(std::move(ended.outcome), std::move(ended.params));
  }
}

Cluster::Cluster(ModelFactory models, std::string tokenizer_dir, transfer::fake::FakeNetworkConfig network)
    : models_(std::move(models)), tokenizer_dir_(std::move(tokenizer_dir)), network_(network) {}

void Cluster::add(InstanceOptions options) {
  const auto index = static_cast<uint32_t>(instances_.size());
  if (!options.engine.handover.incarnation) options.engine.handover.incarnation = random_id<Incarnation>();
  const auto role = options.role;
  auto model = models_(options.block_tokens);
  instances_.push_back(
      std::make_unique<Instance>(std::move(options), std::move(model), tokenizer_dir_, network_));
  if (!role) return;
  const auto side = *role == api::Role::kPrefill ? router::Side::kPrefill : router::Side::kDecode;
  const auto id = registry_.add(side, "sim", instances_.back()->port(), now_);
  registry_.on_probe_ok(id, instances_.back()->identity(), now_);
  by_id_[static_cast<uint32_t>(id)] = index;
}

Instance& Cluster::by_id(router::InstanceId id) { return *instances_[by_id_.at(static_cast<uint32_t>(id))]; }

void Cluster::send(std::string body, Time at) {
  waiting_.push_back({at, std::move(body), outcomes_.size()});
  outcomes_.emplace_back();
  ++unfinished_;
}

void Cluster::begin(const std::string& body, size_t index) {
  auto whole = std::make_shared<Whole>();
  whole->body = body;
  whole->index = index;
  // Parts and flow keep views into the body.
  auto client = router::read_client_body(router::Route::kCompletions, whole->body);
  CHECK(client.has_value(), "{}", client.error().message);
  whole->client = std::move(*client);
  whole->parts.emplace(*whole->client, fmt::format("r{}", index));
  begin_parts(whole);
}

void Cluster::begin_parts(const std::shared_ptr<Whole>& whole) {
  while (const auto part = whole->parts->begin_next()) {
    auto flight = std::make_shared<Flight>();
    flight->whole = whole;
    flight->part = *part;
    flight->body = whole->parts->body(*part);
    auto client = router::read_client_body(router::Route::kCompletions, flight->body);
    CHECK(client.has_value(), "{}", client.error().message);
    client->part = whole->parts->place(*part);
    const router::FlowLimits limits{.attempts = 50};
    const std::string id = whole->parts->request_id(*part);
    if (*registry_.order() == api::HandoverOrder::kPull) {
      flight->flow = std::make_unique<router::PullFlow>(registry_, limits, std::move(*client), id, 7);
      carry_out_pull(flight, flight->flow->start(now_));
    } else {
      flight->layerwise = std::make_unique<router::LayerwiseFlow>(
          registry_, limits, std::move(*client), id, 7,
          [](const router::Instance&) { return "http://sim/v1/metaserver"; });
      carry_out_layerwise(flight, flight->layerwise->start(now_));
    }
  }
}

void Cluster::carry_out_pull(const std::shared_ptr<Flight>& flight, router::Step step) {
  if (const auto* ask = std::get_if<router::AskPrefill>(&step)) {
    by_id(ask->instance).submit(ask->body, [this, flight](Outcome outcome, std::string params) {
      if (outcome.error) {
        const int status = api::http_status(outcome.error->code);
        carry_out_pull(flight, flight->flow->on_prefill(
                                   router::UpstreamAnswer{status, api::render_error(*outcome.error)}, now_));
        return;
      }
      flight->prefill = std::move(outcome);
      const std::string body = fmt::format(R"({{"choices":[],"usage":{{}},"kv_transfer_params":{}}})",
                                           params.empty() ? "null" : params);
      carry_out_pull(flight, flight->flow->on_prefill(router::UpstreamAnswer{200, body}, now_));
    });
  } else if (const auto* decode = std::get_if<router::AskDecode>(&step)) {
    by_id(decode->instance).submit(decode->body, [this, flight](Outcome outcome, const std::string&) {
      const int status = outcome.error ? api::http_status(outcome.error->code) : 200;
      const std::string body = outcome.error ? api::render_error(*outcome.error) : R"({"choices":[{}]})";
      // What only P has is merged in by the flow; here it is merged as values.
      outcome.prompt_logprobs = flight->prefill.prompt_logprobs;
      if (status == 200) flight->whole->outcomes[flight->part] = std::move(outcome);
      carry_out_pull(flight, flight->flow->on_decode_whole(router::UpstreamAnswer{status, body}, now_));
    });
  } else if (const auto* pause = std::get_if<router::Pause>(&step)) {
    timers_.emplace_back(now_ + pause->duration,
                         [this, flight] { carry_out_pull(flight, flight->flow->on_pause_done(now_)); });
  } else {
    finish(flight, std::get<router::Reply>(step));
  }
}

void Cluster::decode_layerwise(const std::shared_ptr<Flight>& flight, const router::AskDecode& ask) {
  const uint32_t round = ++flight->round;
  const router::InstanceId d = ask.instance;
  const auto reserved = [this, flight, round, d](const engine::ReservedEvent& event) {
    if (flight->round != round) return;
    flight->transfer = event.transfer;
    Instance& instance = by_id(d);
    const auto post = router::read_metaserver_post(
        serve::render_reserved(event, flight->layerwise->post_id(),
                               {.host = "sim", .port = instance.port(), .identity = &instance.identity()}));
    CHECK(post.has_value(), "{}", post.error().message);
    router::PostVerdict verdict = flight->layerwise->on_post(*post, true, now_);
    CHECK(verdict.begins.has_value(), "{} {}", verdict.status, verdict.detail);
    carry_out_prefill(flight, d, std::move(*verdict.begins));
  };
  const auto done = [this, flight](Outcome outcome, const std::string&) {
    const int status = outcome.error ? api::http_status(outcome.error->code) : 200;
    // As an answer says it: whether D knows about the prompt what the client asked.
    const std::string body = outcome.error ? api::render_error(*outcome.error)
                             : outcome.prompt_logprobs.empty()
                                 ? R"({"choices":[{}]})"
                                 : R"({"choices":[{"prompt_logprobs":[null]}]})";
    if (status == 200) flight->whole->outcomes[flight->part] = std::move(outcome);
    carry_out_layerwise(flight,
                        flight->layerwise->on_decode_whole(router::UpstreamAnswer{status, body}, now_));
  };
  by_id(d).submit(ask.body, done, reserved);
}

void Cluster::carry_out_layerwise(const std::shared_ptr<Flight>& flight, router::Step step) {
  if (const auto* ask = std::get_if<router::AskDecode>(&step)) {
    decode_layerwise(flight, *ask);
  } else if (const auto* pause = std::get_if<router::Pause>(&step)) {
    ++flight->round;  // what still runs at P is of no interest
    timers_.emplace_back(now_ + pause->duration, [this, flight] {
      carry_out_layerwise(flight, flight->layerwise->on_pause_done(now_));
    });
  } else if (std::holds_alternative<router::AwaitPrefill>(step)) {
    await_prefill(flight, *flight->layerwise->decode_instance());
  } else {
    Outcome& outcome = flight->whole->outcomes[flight->part];
    if (!flight->prefill.prompt_logprobs.empty()) outcome.prompt_logprobs = flight->prefill.prompt_logprobs;
    finish(flight, std::get<router::Reply>(step));
  }
}

void Cluster::carry_out_prefill(const std::shared_ptr<Flight>& flight, router::InstanceId d,
                                router::PrefillStep step) {
  const uint32_t round = flight->round;
  if (const auto* ask = std::get_if<router::AskPrefill>(&step)) {
    by_id(ask->instance).submit(ask->body, [this, flight, round, d](Outcome outcome, const std::string&) {
      if (flight->round != round) return;
      router::UpstreamAnswer answer{200, R"({"choices":[{}],"usage":{}})"};
      if (outcome.error) answer = {api::http_status(outcome.error->code), api::render_error(*outcome.error)};
      if (!outcome.error) flight->prefill = std::move(outcome);
      carry_out_prefill(flight, d, flight->layerwise->on_prefill(std::move(answer), now_));
    });
  } else if (const auto* pause = std::get_if<router::Pause>(&step)) {
    timers_.emplace_back(now_ + pause->duration, [this, flight, round, d] {
      if (flight->round == round)
        carry_out_prefill(flight, d, flight->layerwise->on_prefill_pause_done(now_));
    });
  } else {
    const auto& over = std::get<router::PrefillOver>(step);
    if (!over.ok) by_id(d).refuse(flight->transfer, {Code::kUnavailable, over.detail});
    if (std::exchange(flight->awaits_prefill, false))
      carry_out_layerwise(flight, flight->layerwise->on_prefill_over(now_));
  }
}

void Cluster::await_prefill(const std::shared_ptr<Flight>& flight, router::InstanceId d) {
  flight->awaits_prefill = true;
  if (const auto wait = flight->layerwise->prefill_wait()) {
    timers_.emplace_back(now_ + *wait, [this, flight, round = flight->round] {
      if (flight->round != round || !std::exchange(flight->awaits_prefill, false)) return;
      flight->layerwise->on_prefill_late();
      carry_out_layerwise(flight, flight->layerwise->on_prefill_over(now_));
    });
  }
  if (auto step = flight->layerwise->prefill_for_prompt(now_)) carry_out_prefill(flight, d, std::move(*step));
}

void Cluster::finish(const std::shared_ptr<Flight>& flight, const router::Reply& reply) {
  Whole& whole = *flight->whole;
  Outcome& outcome = whole.outcomes[flight->part];
  if (reply.status != 200) {
    outcome = {.choices = {}, .prompt_logprobs = {}, .error = Error{Code::kUnavailable, reply.body}};
  } else if (outcome.choices.empty()) {
    outcome = std::move(flight->prefill);  // the answer ended with its first token
  }
  std::string no_events;
  whole.parts->on_reply(flight->part, reply, {}, no_events);
  begin_parts(flight->whole);
  if (!whole.parts->is_over() || whole.outcomes.empty()) return;
  Outcome joined = std::move(whole.outcomes.begin()->second);
  whole.outcomes.erase(whole.outcomes.begin());
  for (auto& [part, next] : whole.outcomes) {
    CHECK(joined.error ||
          whole.parts->place(part).first_choice == static_cast<int32_t>(joined.choices.size()));
    join(next, joined);
  }
  whole.outcomes.clear();
  outcomes_[whole.index] = std::move(joined);
  --unfinished_;
}

void Cluster::run() {
  const Time limit = now_ + std::chrono::hours(1);
  for (uint64_t round = 0;; ++round) {
    network_.set_now(now_);
    for (Waiting& waiting : waiting_) {
      if (waiting.at <= now_) begin(waiting.body, waiting.index);
    }
    std::erase_if(waiting_, [&](const Waiting& w) { return w.at <= now_; });
    auto timers = std::exchange(timers_, {});
    for (auto& [at, task] : timers) {
      if (at <= now_) {
        task();
      } else {
        timers_.emplace_back(at, std::move(task));
      }
    }
    bool idle = unfinished_ == 0;
    for (auto& instance : instances_) {
      instance->turn(now_);
      idle = idle && instance->engine().is_idle();
    }
    if (on_round) on_round(round);
    if (idle && waiting_.empty()) return;
    now_ = now_ + kTick;
    CHECK(now_ < limit, "{} requests hang, {} instances", unfinished_, instances_.size());
  }
}

Outcome answer_alone(Instance& instance, const std::string& body, Time& now) {
  std::optional<Outcome> outcome;
  instance.submit(body, [&](Outcome result, const std::string&) { outcome = std::move(result); });
  for (int i = 0; !outcome && i < 100000; ++i) {
    instance.turn(now);
    now = now + kTick;
  }
  CHECK(outcome.has_value(), "alone and no answer");
  return *outcome;
}

}  // namespace baton::simulation
