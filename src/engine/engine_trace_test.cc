// Runs tests/traces/*.trace: the engine's specification as text (tests/traces/README.md is its language).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "engine/engine.h"
#include "engine/recorder.h"
#include "engine/testing.h"
#include "model/testing.h"
#include "transfer/fake/fake_network.h"

namespace baton::engine {
namespace {

using std::chrono::milliseconds;

struct Words {
  std::string verb;
  std::vector<std::string> plain;
  std::map<std::string, std::string> named;

  static Words parse(const std::string& line) {
    Words words;
    std::istringstream in(line.substr(0, line.find('#')));
    in >> words.verb;
    for (std::string word; in >> word;) {
      const size_t equals = word.find('=');
      if (equals == std::string::npos) {
        words.plain.push_back(word);
      } else {
        words.named[word.substr(0, equals)] = word.substr(equals + 1);
      }
    }
    return words;
  }
  uint32_t number(const std::string& name, uint32_t fallback) const {
    const auto at = named.find(name);
    return at == named.end() ? fallback : static_cast<uint32_t>(std::stoul(at->second));
  }
  float real(const std::string& name, float fallback) const {
    const auto at = named.find(name);
    return at == named.end() ? fallback : std::stof(at->second);
  }
  // "3,5": token ids.
  std::vector<TokenId> list(const std::string& name) const {
    std::vector<TokenId> tokens;
    const auto at = named.find(name);
    std::istringstream in(at == named.end() ? "" : at->second);
    for (std::string one; std::getline(in, one, ',');) tokens.push_back(std::stoi(one));
    return tokens;
  }
};

// "40@3": 40 tokens of pattern 3. Patterns share nothing, not even their first token.
std::vector<TokenId> tokens_of(const std::string& text) {
  const size_t at = text.find('@');
  const auto count = std::stoul(text.substr(0, at));
  const auto pattern = at == std::string::npos ? 0 : std::stoul(text.substr(at + 1));
  std::vector<TokenId> tokens;
  for (size_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<TokenId>((i * i * 5 + i + pattern * 7) % 60));
  return tokens;
}

struct Seen {
  Request request;
  std::map<uint32_t, std::vector<DrawnToken>> choices;  // what another instance had drawn included
  std::optional<PromptEvent> prompt;
  std::optional<HeldEvent> held;
  std::optional<ReservedEvent> reserved;
  bool finished = false;
  bool returned = false;
  std::optional<Error> error;
  Timeline timeline;

  bool ended() const { return finished || returned || error; }
  size_t tokens() const {
    size_t count = 0;
    for (const auto& [choice, tokens] : choices) count += tokens.size();
    return count;
  }
};

// One instance: an engine and its end of the fake network.
struct Instance {
  model::FakeModelOptions options;
  std::unique_ptr<model::FakeModel> model;
  std::unique_ptr<kv::KvArena> arena;
  ManualClock clock;  // of its passes
  Duration row_cost{0};
  uint64_t rows_before = 0;
  Recorder recorder{::testing::TempDir()};
  std::unique_ptr<transfer::fake::FakeMover> mover;
  std::unique_ptr<Engine> engine;
  std::vector<Inbox> inbox;
};

class Trace {
 public:
  void run(const std::filesystem::path& file) {
    std::ifstream in(file);
    std::string line;
    for (int number = 1; std::getline(in, line); ++number) {
      const Words words = Words::parse(line);
      if (words.verb.empty()) continue;
      SCOPED_TRACE(fmt::format("{}:{}: {}", file.filename().string(), number, line));
      const size_t failures = count_failures();
      execute(words);
      if (count_failures() > failures) return;
    }
    for (auto& [name, instance] : instances_) {
      EXPECT_EQ(instance.engine->find_inconsistency(), "") << name;
      replay_record(file.stem().string(), name, instance);
    }
  }

 private:
  // What was recorded of each instance gives the same answers and messages once more.
  static void replay_record(const std::string& trace, const std::string& name, const Instance& instance) {
    const std::vector<std::byte> bytes = instance.recorder.bytes();
    if (const char* folder = std::getenv("BATON_WRITE_RECORDS")) {
      std::ofstream(fmt::format("{}/{}-{}", folder, trace, name), std::ios::binary)
          .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    }
    const auto record = parse_record(bytes);
    ASSERT_TRUE(record) << name << ": " << record.error().message;
    model::FakeModel model(instance.options);
    const auto arena =
        std::move(*kv::KvArena::create(model.info().kv_layout, instance.arena->blocks(), Incarnation{{9}}));
    const auto report = replay(*record, model, *arena);
    ASSERT_TRUE(report) << name << ": " << report.error().message;
    EXPECT_TRUE(report->is_same()) << name << " differs in step " << report->first_difference.value_or(0);
  }

  static size_t count_failures() { return static_cast<size_t>(::testing::Test::HasFailure()); }

  void execute(const Words& words) {
    if (words.verb == "engine") return make(words);
    if (words.verb == "submit") return submit(words);
    if (words.verb == "step") {
      for (uint32_t i = words.plain.empty() ? 1 : static_cast<uint32_t>(std::stoul(words.plain[0])); i > 0;
           --i)
        step();
      return;
    }
    if (words.verb == "run") {
      // Until all requests have ended, or nothing moves for a simulated second.
      for (int i = 0; i < 1000 && !all_ended(); ++i) step();
      return;
    }
    if (words.verb == "wait") {
      for (uint32_t ms = words.number("ms", 0); ms > 0; ms -= std::min(ms, 50U)) {
        now_ = now_ + milliseconds(std::min(ms, 50U));
        step();
      }
      return;
    }
    if (words.verb == "interrupt")
      interrupts_ = words.number("passes", 1);
    else if (words.verb == "abort")
      post(words.plain.at(0), Abort{seen(words).request.id, "the client left"});
    else if (words.verb == "stop")
      post(words.plain.at(0), StopChoice{seen(words).request.id, words.number("choice", 0)});
    else if (words.verb == "release")
      post(words.plain.at(0), ReleaseHeld{seen(words).request.hold.value(), "not needed"});
    else if (words.verb == "refuse")
      post(words.plain.at(0), ReservationRefused{seen(words).request.transfer,
                                                 {Code::kUnavailable, "no prefill instance is up"}});
    else if (words.verb == "reset_prefix_cache")
      at(words.plain.at(0)).inbox.emplace_back(ResetPrefixCache{});
    else if (words.verb == "drain")
      at(words.plain.at(0)).inbox.emplace_back(Drain{});
    else if (words.verb == "kill")
      kill(words.plain.at(0));
    else if (words.verb == "expect")
      expect(words);
    else
      FAIL() << "unknown verb " << words.verb;
  }

  void make(const Words& words) {
    const std::string name = words.plain.at(0);
    Instance& one = instances_[name];
    EngineConfig config;
    config.limits.seqs_max = words.number("seqs", 8);
    config.limits.batch_tokens_max = words.number("budget", 64);
    config.limits.step_max = milliseconds(words.number("step_ms", 100));
    const auto named = [&](const char* key, const char* text) {
      return words.named.contains(key) && words.named.at(key) == text;
    };
    if (named("policy", "priority")) config.limits.policy = SchedulingPolicy::kPriority;
    if (named("landing", "fail")) config.landing_failure = LandingFailure::kFail;
    config.limits.returns = words.number("returns", 0) == 1;
    config.waiting_max = words.number("waiting", 100);
    config.prefix_cache = words.number("prefix", 1) == 1;
    config.landing_max = milliseconds(words.number("landing_ms", 5000));
    config.handover.lease = milliseconds(words.number("lease_ms", 1000));
    config.handover.incarnation = Incarnation{{static_cast<uint8_t>(instances_.size())}};
    if (words.named.contains("nan")) one.options.nan_token = static_cast<TokenId>(words.number("nan", 0));
    if (words.named.contains("inf")) one.options.inf_token = static_cast<TokenId>(words.number("inf", 0));
    one.model = std::make_unique<model::FakeModel>(one.options);
    one.arena = std::move(*kv::KvArena::create(one.model->info().kv_layout, words.number("blocks", 64),
                                               config.handover.incarnation));
    one.row_cost = std::chrono::microseconds(words.number("row_us", 0));
    Surroundings surroundings;
    surroundings.clock = &one.clock;
    surroundings.recorder = &one.recorder;
    surroundings.poll_interrupt = [this, &one](uint32_t layer) {
      if (layer == 0) one.clock.advance(one.row_cost * (one.model->rows_computed() - one.rows_before));
      one.rows_before = one.model->rows_computed();
      return interrupts_ > 0 && interrupts_-- > 0;
    };
    if (words.number("emit", 1) == 1) {
      surroundings.emit = [this, &one](Outbox outbox) { deliver(one, std::move(outbox)); };
    }
    one.engine = std::make_unique<Engine>(config, *one.model, *one.arena, std::move(surroundings));
    const transfer::Identity identity{.engine_id = name,
                                      .incarnation = config.handover.incarnation,
                                      .fingerprint = one.model->info().fingerprint,
                                      .layout = one.model->info().kv_layout,
                                      .boot_id = "here"};
    one.mover = network_.join(name, 1, identity, *one.arena);
  }

  static void read_sampling(const Words& words, SamplingParams& p) {
    p.top_k = static_cast<int32_t>(words.number("top_k", 0));
    p.top_p = words.real("top_p", 1.0F);
    p.min_p = words.real("min_p", 0.0F);
    p.repetition_penalty = words.real("repetition", 1.0F);
    p.presence_penalty = words.real("presence", 0.0F);
    p.frequency_penalty = words.real("frequency", 0.0F);
    for (const TokenId token : words.list("bias")) p.logit_bias.emplace_back(token, words.real("by", 0.0F));
    p.allowed_token_ids = words.list("allowed");
    p.min_tokens = words.number("min", 0);
    p.eos_token_ids = words.list("eos");
    p.stop_token_ids = words.list("stop");
  }

  void submit(const Words& words) {
    const std::string name = words.plain.at(0);
    Seen& one = requests_[name];
    where_[name] = words.plain.at(1);
    Request& request = one.request;
    request.id = RequestId{requests_.size()};
    names_[requests_.size()] = name;
    request.prompt = tokens_of(words.named.at("prompt"));
    SamplingParams& p = request.sampling;
    p.max_tokens = words.number("max", 4);
    p.n = words.number("n", 1);
    p.seed = words.number("seed", 1);
    p.temperature = words.number("greedy", 0) == 1 ? 0.0F : words.real("temperature", 1.0F);
    read_sampling(words, p);
    if (words.named.contains("logprobs")) p.logprobs = words.number("logprobs", 0);
    if (words.named.contains("prompt_logprobs")) p.prompt_logprobs = words.number("prompt_logprobs", 0);
    request.priority = static_cast<int32_t>(words.number("priority", 0));
    if (words.named.contains("salt")) request.cache_salt = words.named.at("salt");
    if (words.named.contains("deadline_ms"))
      request.deadline = now_ + milliseconds(words.number("deadline_ms", 0));
    if (words.number("hold", 0) == 1) request.hold = HandoverId{{static_cast<uint8_t>(requests_.size())}};
    if (words.number("layerwise", 0) == 1) {
      request.remote.emplace();
      request.remote->is_layerwise = true;
      request.remote->tokens = static_cast<uint32_t>(request.prompt.size());
      request.remote->prompt_hash = prompt_hash(request.prompt);
      request.transfer = TransferId{{static_cast<uint8_t>(requests_.size())}};
    }
    if (words.named.contains("to")) {
      const Seen& target = requests_.at(words.named.at("to"));
      ASSERT_TRUE(target.reserved) << "nothing is reserved";
      request.hold = HandoverId{{static_cast<uint8_t>(requests_.size())}};
      request.remote_landing = RemoteLanding{.host = where_.at(words.named.at("to")),
                                             .port = 1,
                                             .engine_id = "",
                                             .incarnation = {},
                                             .transfer = target.reserved->transfer};
    }
    if (words.named.contains("from")) {
      const Seen& source = requests_.at(words.named.at("from"));
      ASSERT_TRUE(source.held) << "nothing is held";
      request.remote = RemotePrefill{.is_layerwise = false,
                                     .host = where_.at(words.named.at("from")),
                                     .port = 1,
                                     .engine_id = "",
                                     .incarnation = {},
                                     .handover = source.held->handover,
                                     .tokens = words.number("held_tokens", source.held->tokens),
                                     .prompt_hash = source.held->prompt_hash,
                                     .first_tokens = source.held->first_tokens};
      request.transfer = TransferId{{static_cast<uint8_t>(requests_.size())}};
    }
    request.is_returnable = words.number("returnable", 0) == 1;
    if (words.named.contains("resumes")) go_on(requests_.at(words.named.at("resumes")), one);
    post(name, Submit{request});
  }

  // The answer of `before` goes on in `one`.
  static void go_on(const Seen& before, Seen& one) {
    one.choices = before.choices;
    for (uint32_t choice = 0; choice < one.request.sampling.n; ++choice) {
      DrawnBefore& drawn = one.request.drawn_before.emplace_back();
      for (const DrawnToken& token : one.choices[choice]) {
        drawn.tokens.push_back(token.token);
        drawn.finished = token.finish.has_value();
      }
    }
  }

  Instance& at(const std::string& name) { return instances_.at(name); }
  Seen& seen(const Words& words) { return requests_.at(words.plain.at(0)); }
  void post(const std::string& request, Inbox item) {
    at(where_.at(request)).inbox.push_back(std::move(item));
  }
  void kill(const std::string& name) {
    at(name).mover.reset();
    dead_.insert(name);
  }

  void step() {
    now_ = now_ + milliseconds(1);
    network_.set_now(now_);
    for (auto& [name, one] : instances_) {
      if (dead_.contains(name)) continue;
      for (transfer::MoverEvent& event : one.mover->poll(Duration{0}))
        one.inbox.emplace_back(std::move(event));
      deliver(one, one.engine->step(std::exchange(one.inbox, {}), now_));
      EXPECT_EQ(one.engine->find_inconsistency(), "") << name;
    }
  }

  void deliver(Instance& one, Outbox outbox) {
    for (const Answer& answer : outbox.answers) take(answer);
    for (transfer::Command& command : outbox.commands) one.mover->execute(std::move(command));
  }

  void take(const Answer& answer) {
    Seen& one = requests_.at(names_.at(std::visit([](const auto& e) { return value(e.request); }, answer)));
    EXPECT_FALSE(one.ended()) << "an answer after the end";
    if (const auto* prompt = std::get_if<PromptEvent>(&answer)) one.prompt = *prompt;
    if (const auto* held = std::get_if<HeldEvent>(&answer)) one.held = *held;
    if (const auto* reserved = std::get_if<ReservedEvent>(&answer)) one.reserved = *reserved;
    if (const auto* failed = std::get_if<FailedEvent>(&answer)) {
      one.error = failed->error;
      one.timeline = failed->timeline;
    }
    if (const auto* finished = std::get_if<FinishedEvent>(&answer)) one.timeline = finished->timeline;
    if (const auto* returned = std::get_if<ReturnedEvent>(&answer)) one.timeline = returned->timeline;
    if (const auto* tokens = std::get_if<TokensEvent>(&answer)) {
      for (const DrawnToken& token : tokens->tokens) one.choices[tokens->choice].push_back(token);
    }
    one.finished = std::holds_alternative<FinishedEvent>(answer);
    one.returned = std::holds_alternative<ReturnedEvent>(answer);
  }

  bool all_ended() const {
    return std::ranges::all_of(requests_, [](const auto& r) { return r.second.ended(); });
  }

  // expect NAME key=value...: NAME is an instance or a request.
  void expect(const Words& words) {
    const std::string& name = words.plain.at(0);
    for (const auto& [key, text] : words.named) {
      const std::string found =
          instances_.contains(name) ? of_instance(at(name), key) : of_request(name, key);
      EXPECT_EQ(found, text) << key;
    }
  }

  std::string of_instance(const Instance& one, const std::string& key) const {
    const EngineStats& stats = one.engine->stats();
    if (key == "free") return fmt::format("{}", stats.blocks_free);
    if (key == "held") return fmt::format("{}", stats.blocks_held);
    if (key == "landing") return fmt::format("{}", stats.blocks_landing);
    if (key == "moved") return fmt::format("{}", stats.handover_bytes);
    if (key == "idle") return one.engine->is_idle() ? "yes" : "no";
    if (key == "rows") return fmt::format("{}", one.model->rows_computed());
    if (key == "returned") return fmt::format("{}", stats.returned);
    if (key == "preemptions") return stats.preemptions > 0 ? "some" : "none";
    if (key == "interrupted") return fmt::format("{}", stats.passes_interrupted);
    if (key == "landed") return fmt::format("{}", stats.handovers_landed);
    if (key == "taken") return fmt::format("{}", stats.handovers_taken);
    return "unknown key";
  }

  std::string of_request(const std::string& name, const std::string& key) {
    const Seen& one = requests_.at(name);
    if (key == "end" && one.returned) return "returned";
    if (key == "end") return one.error ? code_name(one.error->code) : (one.finished ? "finished" : "none");
    if (key == "tokens") return fmt::format("{}", one.tokens());
    if (key == "cached") return one.prompt ? fmt::format("{}", one.prompt->cached_tokens) : "none";
    if (key == "remote") return one.prompt && one.prompt->remote ? "yes" : "no";
    if (key == "recomputed") return one.prompt && one.prompt->recomputed ? "yes" : "no";
    if (key == "held") return one.held ? "yes" : "no";
    if (key == "reserved") return one.reserved ? "yes" : "no";
    if (key == "present") return one.reserved ? fmt::format("{}", one.reserved->tokens_present) : "none";
    if (key == "answer") return one.choices == alone(one.request).choices ? "as_alone" : "another";
    if (key == "prompt_logprobs") {
      if (!one.prompt || one.prompt->prompt_logprobs.empty()) return "none";
      return one.prompt->prompt_logprobs == alone(one.request).prompt->prompt_logprobs ? "as_alone"
                                                                                       : "another";
    }
    if (key == "drawn") return is_as_defined(one) ? "as_defined" : "otherwise";
    if (key == "finish") return finish_of(one);
    if (key == "phases") return phases_of(one);
    if (key == "error") return one.error ? contains_words(one.error->message) : "none";
    for (const RequestSnapshot& line : at(where_.at(name)).engine->snapshot()) {
      if (line.id != one.request.id) continue;
      if (key == "state") return line.state;
      if (key == "waits_for") return replace_spaces(line.waits_for);
      if (key == "computed") return fmt::format("{}", line.computed_tokens);
    }
    return "gone";
  }

  // Each choice's tokens are those of the plain loop in engine/testing.h.
  static bool is_as_defined(const Seen& one) {
    model::FakeModel model;
    for (const auto& [choice, drawn] : one.choices) {
      if (!std::ranges::equal(drawn, slow_answer(one.request, choice, model), {}, &DrawnToken::token))
        return false;
    }
    return !one.choices.empty();
  }

  // Those that its timeline has, in order; their sum is its time.
  static std::string phases_of(const Seen& one) {
    std::string names;
    Duration sum{0};
    for (const auto& [phase, took] : one.timeline.parts()) {
      names += fmt::format("{}{}", names.empty() ? "" : ",", phase_name(phase));
      sum += took;
    }
    EXPECT_EQ(sum, one.timeline.total());
    return names;
  }

  // Of the first choice.
  static std::string finish_of(const Seen& one) {
    const auto first = one.choices.find(0);
    if (first == one.choices.end() || !first->second.back().finish) return "none";
    return first->second.back().finish == FinishReason::kStop ? "stop" : "length";
  }

  static std::string replace_spaces(std::string text) {
    std::ranges::replace(text, ' ', '_');
    return text;
  }
  static std::string contains_words(const std::string& message) {
    return replace_spaces(message.substr(0, message.find(':')));
  }

  // The same request, all of it on one fresh instance.
  static Seen alone(Request request) {
    request.remote.reset();
    request.remote_landing.reset();
    request.hold.reset();
    request.drawn_before.clear();
    request.deadline = kNever;
    model::FakeModel model;
    const auto arena = std::move(*kv::KvArena::create(model.info().kv_layout, 512, Incarnation{{99}}));
    Engine engine({}, model, *arena);
    Seen seen;
    std::vector<Inbox> inbox;
    inbox.emplace_back(Submit{std::move(request)});
    Time now{milliseconds(1)};
    do {
      now = now + milliseconds(1);
      const Outbox outbox = engine.step(std::exchange(inbox, {}), now);
      for (const Answer& answer : outbox.answers) {
        if (const auto* prompt = std::get_if<PromptEvent>(&answer)) seen.prompt = *prompt;
        const auto* tokens = std::get_if<TokensEvent>(&answer);
        if (tokens == nullptr) continue;
        for (const DrawnToken& token : tokens->tokens) seen.choices[tokens->choice].push_back(token);
      }
    } while (engine.has_work());
    return seen;
  }

  transfer::fake::FakeNetwork network_{{.seed = 1}};
  std::map<std::string, Instance> instances_;
  std::set<std::string> dead_;
  std::map<std::string, Seen> requests_;
  std::map<std::string, std::string> where_;
  std::map<uint64_t, std::string> names_;
  Time now_{milliseconds(1)};
  uint32_t interrupts_ = 0;
};

std::vector<std::filesystem::path> trace_files() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(BATON_SOURCE_DIR "/tests/traces")) {
    if (entry.path().extension() == ".trace") files.push_back(entry.path());
  }
  std::ranges::sort(files);
  return files;
}

class EngineTrace : public ::testing::TestWithParam<std::filesystem::path> {};
TEST_P(EngineTrace, Holds) { Trace().run(GetParam()); }
INSTANTIATE_TEST_SUITE_P(All, EngineTrace, ::testing::ValuesIn(trace_files()),
                         [](const auto& info) { return info.param.stem().string(); });

}  // namespace
}  // namespace baton::engine
