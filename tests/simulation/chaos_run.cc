#include "tests/simulation/chaos_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <utility>

#include "api/json.h"
#include "tests/simulation/chaos_instance.h"
#include "tests/simulation/chaos_proxy.h"

namespace baton::simulation::chaos {
namespace {

constexpr size_t kInstances = 4;  // two P's, then two D's
constexpr size_t kProxies = 2;
constexpr Duration kTick = std::chrono::milliseconds(1);
constexpr Duration kQuietMax = std::chrono::minutes(3);  // from the last fault to the end of everything
constexpr Duration kProbeInterval = std::chrono::milliseconds(150);
constexpr Duration kProbeMax = std::chrono::milliseconds(300);

using std::chrono::milliseconds;

struct Client {
  const Question* question = nullptr;
  size_t proxy = 0;
  bool left = false;
  uint32_t ends = 0;
};

class Run {
 public:
  Run(const RunOptions& options, const Questions& questions,
      std::vector<std::unique_ptr<serve::ServedModel>>& doors);
  Report go();

 private:
  enum class What : uint8_t { kArrive, kLeave, kFault, kHeal, kGoOn, kLiveAgain, kProbe, kProbeLate };
  struct Event {
    What what{};
    size_t a = 0;
    size_t b = 0;
  };

  uint64_t draw(uint64_t below) { return random_() % below; }
  Duration draw_ms(uint64_t low, uint64_t high) {
    return milliseconds(static_cast<int64_t>(low + draw(high - low + 1)));
  }
  bool chance(uint64_t percent) { return draw(100) < percent; }
  void broken(const std::string& what) {
    if (report_.violation.empty()) report_.violation = what;
  }
  void note(uint64_t what) { report_.digest = (report_.digest ^ what) * 0x9E3779B97F4A7C15U + 1; }

  void build(std::vector<std::unique_ptr<serve::ServedModel>>& doors);
  InstanceOptions instance_options(size_t index, uint32_t block_tokens);
  api::Speeds some_speeds();
  router::LocalPrefill some_local_prefill();
  void at(Time when, What what, size_t a = 0, size_t b = 0) { events_.emplace(when, Event{what, a, b}); }
  void happen(const Event& event);
  void arrive();
  void fault();
  void part(bool parted, size_t a, size_t b);
  void probe(size_t proxy, size_t backend, bool is_late);
  bool may_pass(const Call& call, Wire::End to) const;
  bool is_parted(size_t proxy, size_t instance) const {
    return parted_.contains({kInstances + proxy, instance});
  }
  void receive(size_t client, const Received& received);
  void check_answer(size_t client, const Received& received);
  void turn_all();
  Time next_time() const;
  bool is_over() const;
  void check_end();

  RunOptions options_;
  const Questions& questions_;
  std::mt19937_64 random_;
  Weather weather_;
  Report report_;
  Time now_{std::chrono::seconds(1)};
  std::optional<transfer::fake::FakeNetwork> network_;
  std::optional<Wire> wire_;
  std::vector<std::unique_ptr<Instance>> instances_;
  std::vector<std::unique_ptr<Proxy>> proxies_;
  std::vector<Client> clients_;
  std::multimap<Time, Event> events_;
  std::set<std::pair<size_t, size_t>> parted_;  // (instance or kInstances + proxy, instance)
  size_t open_ = 0;                             // clients that wait
  Time last_fault_{};
};

Run::Run(const RunOptions& options, const Questions& questions,
         std::vector<std::unique_ptr<serve::ServedModel>>& doors)
    : options_(options), questions_(questions), random_(options.seed), weather_(weather_of(options.seed)) {
  build(doors);
}

// So that prompts of a few dozen tokens are computed here and there.
api::Speeds Run::some_speeds() {
  return {.prefill_step = draw_ms(0, 5),
          .prefill_tokens_per_s = static_cast<double>(500 + draw(2000)),
          .handover = draw_ms(0, 60),
          .handover_bytes_per_s = 1e6,
          .kv_bytes_per_token = 32};
}

router::LocalPrefill Run::some_local_prefill() {
  if (chance(50)) return router::LocalPrefill::kNever;
  return chance(60) ? router::LocalPrefill::kAuto : router::LocalPrefill::kAlways;
}

InstanceOptions Run::instance_options(size_t index, uint32_t block_tokens) {
  InstanceOptions options{.index = index,
                          .role = index < 2 ? api::Role::kPrefill : api::Role::kDecode,
                          .order = order_of(options_.seed),
                          .emits_layers = chance(50),
                          .block_tokens = block_tokens,
                          .arena_blocks = static_cast<uint32_t>(16 + draw(32)) * 16 / block_tokens,
                          .interrupt_percent = static_cast<uint32_t>(draw(8)),
                          .speeds = some_speeds(),
                          .engine = {}};
  engine::EngineConfig& engine = options.engine;
  engine.limits.seqs_max = static_cast<uint32_t>(3 + draw(8));
  engine.limits.batch_tokens_max = static_cast<uint32_t>(16 + draw(100));
  engine.prefix_cache = chance(80);
  engine.handover.lease = draw_ms(200, 2000);
  engine.handover.stop_retry = draw_ms(50, 500);
  engine.handover.idle_close = draw_ms(100, 5000);
  engine.landing_max = draw_ms(500, 3000);
  engine.limits.returns = index >= 2 && chance(50);
  return options;
}

void Run::build(std::vector<std::unique_ptr<serve::ServedModel>>& doors) {
  network_.emplace(transfer::fake::FakeNetworkConfig{.seed = random_(),
                                                     .delay_max = draw_ms(0, 6),
                                                     .repeat_percent = static_cast<uint32_t>(draw(20)),
                                                     .blocks_per_poll = static_cast<uint32_t>(1 + draw(8))});
  network_->set_now(now_);
  wire_.emplace(random_(), draw_ms(0, 4));
  static constexpr std::array<std::array<uint32_t, 2>, 3> kSizes = {{{16, 16}, {16, 32}, {32, 16}}};
  const auto& sizes = kSizes[draw(kSizes.size())];
  for (size_t i = 0; i < kInstances; ++i)
    instances_.push_back(std::make_unique<Instance>(instance_options(i, sizes[i < 2 ? 0 : 1]), *network_,
                                                    *wire_, *doors[i], random_()));
  const ProxyOptions proxy{.order = order_of(options_.seed),
                           .registry = {.policy = static_cast<router::Policy>(draw(3)),
                                        .in_flight_max = static_cast<uint32_t>(chance(30) ? 4 + draw(8) : 0),
                                        .waiting_max = 64,
                                        .local_prefill = some_local_prefill()},
                           .limits = {.queue_timeout = std::chrono::seconds(3)}};
  std::vector<Backend> backends;
  for (const auto& instance : instances_)
    backends.push_back(
        {instance->role() == api::Role::kPrefill ? router::Side::kPrefill : router::Side::kDecode,
         instance->port()});
  for (size_t i = 0; i < kProxies; ++i) {
    proxies_.push_back(std::make_unique<Proxy>(
        i, proxy, backends, *wire_, [this](size_t client, const Received& got) { receive(client, got); }));
    proxies_[i]->start(now_);
    for (size_t k = 0; k < kInstances; ++k) probe(i, k, false);
  }
  at(now_, What::kArrive);
  if (weather_ != Weather::kCalm) at(now_ + draw_ms(1, 100), What::kFault);
}

void Run::happen(const Event& event) {
  note(static_cast<uint64_t>(event.what) * 64 + event.a * 8 + event.b);
  switch (event.what) {
    case What::kArrive:
      return arrive();
    case What::kLeave:
      if (Client& client = clients_[event.a]; client.ends == 0) {
        client.left = true;
        proxies_[client.proxy]->client_left(event.a, now_);
      }
      return;
    case What::kFault:
      return fault();
    case What::kHeal:
      return part(false, event.a, event.b);
    case What::kGoOn:
      if (instances_[event.a]->is_stopped()) instances_[event.a]->stop(false);
      return;
    case What::kLiveAgain:
      if (!instances_[event.a]->is_alive()) instances_[event.a]->start();
      return;
    case What::kProbe:
      return probe(event.a, event.b, false);
    case What::kProbeLate:
      return probe(event.a, event.b, true);
  }
}

void Run::arrive() {
  const size_t id = clients_.size();
  const auto& all = questions_.all();
  clients_.push_back({.question = &all[draw(all.size())], .proxy = draw(kProxies)});
  ++open_;
  if (clients_.size() < options_.requests)
    at(now_ + (chance(10) ? draw_ms(0, 40) : draw_ms(0, 3)), What::kArrive);
  if (chance(6)) at(now_ + draw_ms(0, 40), What::kLeave, id);
  proxies_[clients_[id].proxy]->request(id, clients_[id].question->body, fmt::format("r{}", id), now_);
}

void Run::part(bool parted, size_t a, size_t b) {
  if (parted) parted_.insert({a, b});
  if (!parted) parted_.erase({a, b});
  if (a < kInstances) network_->part(instances_[a]->port(), instances_[b]->port(), parted);
}

void Run::fault() {
  if (clients_.size() >= options_.requests && open_ == 0) return;
  const uint64_t pause = weather_ == Weather::kStormy ? 60 : 300;
  at(now_ + draw_ms(1, 2 * pause), What::kFault);
  const bool is_long = chance(25);
  const Duration lasts = is_long ? draw_ms(300, 2500) : draw_ms(1, 200);
  const size_t instance = draw(kInstances);
  ++report_.faults;
  last_fault_ = now_ + lasts;
  switch (draw(12)) {
    case 0:
    case 1:
    case 2:
      network_->cut_any();
      return;
    case 3:
    case 4:
      wire_->break_any(now_);
      return;
    case 5:
    case 6: {  // between P and D, or a proxy and an instance
      const size_t a = chance(60) ? draw(2) : kInstances + draw(kProxies);
      const size_t b = a < kInstances ? 2 + draw(2) : instance;
      part(true, a, b);
      return at(now_ + lasts, What::kHeal, a, b);
    }
    case 7:
    case 8:
      if (!instances_[instance]->is_alive()) return;
      instances_[instance]->kill(now_);
      return at(now_ + lasts, What::kLiveAgain, instance);
    case 9:
    case 10:
      if (!instances_[instance]->is_alive() || instances_[instance]->is_stopped()) return;
      instances_[instance]->stop(true);
      return at(now_ + lasts, What::kGoOn, instance);
    default: {
      if (!chance(30)) return;
      const size_t proxy = draw(kProxies);
      proxies_[proxy]->kill(now_);
      return proxies_[proxy]->start(now_);
    }
  }
}

void Run::probe(size_t proxy, size_t backend, bool is_late) {
  const Instance& instance = *instances_[backend];
  const bool is_silent = instance.is_alive() && (instance.is_stopped() || is_parted(proxy, backend));
  if (is_silent && !is_late) return at(now_ + kProbeMax, What::kProbeLate, proxy, backend);
  const bool is_up = instance.is_alive() && !is_silent;
  proxies_[proxy]->on_probe(backend, is_up ? std::optional(instance.identity()) : std::nullopt, now_);
  at(now_ + (is_up ? kProbeInterval : kProbeInterval / 3), What::kProbe, proxy, backend);
}

bool Run::may_pass(const Call& call, Wire::End to) const {
  if (is_parted(call.proxy, call.instance)) return false;
  return to == Wire::End::kProxy || !instances_[call.instance]->is_stopped();
}

// ---- what clients get ----

void Run::receive(size_t id, const Received& received) {
  Client& client = clients_[id];
  if (++client.ends > 1) return broken(fmt::format("client {} has two ends", id));
  --open_;
  note(id * 1000 + static_cast<uint64_t>(received.status));
  if (client.left) {
    ++report_.left;
  } else if (received.status == 200) {
    check_answer(id, received);
  } else if (received.status == 429) {
    ++report_.refused;
  } else if (received.status == 502 || received.status == 503 || received.status == 504) {
    ++report_.failed;
    if (weather_ == Weather::kCalm)
      broken(fmt::format("client {} gets {} although nothing went wrong: {}", id, received.status,
                         received.bytes));
  } else {
    broken(fmt::format("client {} gets {}: {}", id, received.status, received.bytes));
  }
}

// The choices of one object of an answer are put behind what is known of them.
struct Heard {
  std::vector<std::string> texts;
  std::vector<std::string> reasons;
  bool failed = false;

  bool take(std::string_view data) {
    const auto object = api::parse_json_object(data);
    if (!object) return false;
    if (object->contains("error")) return failed = true;
    for (const auto& one : object->at("choices").as_array()) {
      const auto& choice = one.as_object();
      const auto index = static_cast<size_t>(choice.at("index").as_int64());
      if (index >= texts.size()) return false;
      texts[index] += choice.at("text").as_string();
      if (choice.at("finish_reason").is_string()) reasons[index] = choice.at("finish_reason").as_string();
    }
    return true;
  }
};

void Run::check_answer(size_t id, const Received& received) {
  const Question& question = *clients_[id].question;
  Heard heard{.texts = std::vector<std::string>(question.texts.size()),
              .reasons = std::vector<std::string>(question.texts.size())};
  bool is_read = true;
  if (question.stream) {
    std::string_view left = received.bytes;
    bool done = false;
    while (!left.empty() && is_read) {
      const size_t end = left.find("\n\n");
      is_read = !done && left.starts_with("data: ") && end != std::string_view::npos;
      if (!is_read) break;
      const std::string_view data = left.substr(6, end - 6);
      left.remove_prefix(end + 2);
      done = data == "[DONE]";
      if (!done) is_read = heard.take(data);
    }
    is_read = is_read && (done || heard.failed);
  } else {
    is_read = heard.take(received.bytes);
  }
  if (!is_read) return broken(fmt::format("client {} cannot read: {}", id, received.bytes));
  for (size_t i = 0; i < question.texts.size(); ++i) {
    const bool is_same = heard.failed
                             ? question.texts[i].starts_with(heard.texts[i])
                             : question.texts[i] == heard.texts[i] && question.reasons[i] == heard.reasons[i];
    if (!is_same)
      return broken(fmt::format("client {}, choice {}: got \"{}\" ({}), expected \"{}\" ({}) of {}", id, i,
                                heard.texts[i], heard.reasons[i], question.texts[i], question.reasons[i],
                                question.body));
  }
  ++(heard.failed ? report_.failed : report_.answered);
  if (heard.failed && weather_ == Weather::kCalm)
    broken(fmt::format("client {}: its stream ends in an error although nothing went wrong", id));
}

// ---- time ----

void Run::turn_all() {
  std::array<size_t, kInstances> order = {0, 1, 2, 3};
  std::ranges::shuffle(order, random_);
  for (const size_t i : order) {
    Instance& instance = *instances_[i];
    if (!instance.is_alive() || instance.is_stopped() || draw(8) == 0) continue;  // a step takes its time
    instance.turn(now_);
    if (!instance.violation.empty()) broken(instance.violation);
  }
}

Time Run::next_time() const {
  Time next = events_.empty() ? kNever : events_.begin()->first;
  next = std::min(next, network_->next_due());
  next =
      std::min(next, wire_->next_due([this](const Call& call, Wire::End to) { return may_pass(call, to); }));
  for (const auto& proxy : proxies_) next = std::min(next, proxy->next_time());
  for (const auto& instance : instances_) next = std::min(next, instance->next_turn(now_));
  return std::max(next, now_ + kTick);
}

bool Run::is_over() const {
  if (clients_.size() < options_.requests || open_ > 0 || !wire_->empty()) return false;
  return std::ranges::all_of(instances_, [](const auto& instance) {
    return instance->is_alive() && !instance->is_stopped() && instance->is_idle();
  });
}

Report Run::go() {
  const Time begun = now_;
  const auto passes = [this](const Call& call, Wire::End to) { return may_pass(call, to); };
  const auto take = [this](const Call& call, Wire::End to, Piece piece) {
    note(call.id * 16 + static_cast<uint64_t>(piece.kind));
    if (to == Wire::End::kProxy) return proxies_[call.proxy]->take(call, std::move(piece), now_);
    instances_[call.instance]->take(call, std::move(piece), now_);
  };
  while (!is_over() && report_.violation.empty()) {
    network_->set_now(now_);
    while (!events_.empty() && events_.begin()->first <= now_) {
      const Event event = events_.begin()->second;
      events_.erase(events_.begin());
      happen(event);
    }
    wire_->deliver(now_, passes, take);
    for (auto& proxy : proxies_) proxy->on_time(now_);
    turn_all();
    now_ = next_time();
    if (clients_.size() == options_.requests && now_ - std::max(last_fault_, begun) > kQuietMax) break;
  }
  if (report_.violation.empty()) check_end();
  for (const auto& proxy : proxies_) report_.alone += proxy->alone;
  report_.requests = clients_.size();
  report_.simulated = now_ - begun;
  for (const auto& proxy : proxies_) report_.resumed += proxy->resumed;
  for (const auto& instance : instances_) {
    report_.landed += instance->landed;
    report_.recomputed += instance->recomputed;
    report_.returned += instance->returned;
    report_.steps += instance->steps;
    note(instance->digest);
  }
  return std::move(report_);
}

void Run::check_end() {
  for (size_t i = 0; i < clients_.size(); ++i) {
    if (clients_[i].ends == 0) broken(fmt::format("client {} has no end", i));
  }
  for (const auto& proxy : proxies_) {
    if (const std::string leak = proxy->find_leak(); !leak.empty()) broken(leak);
  }
  for (const auto& instance : instances_) {
    if (const std::string leak = instance->find_leak(); !leak.empty()) broken(leak);
  }
}

}  // namespace

Weather weather_of(uint64_t seed) {
  static constexpr std::array kWeathers = {Weather::kCalm, Weather::kGusty, Weather::kGusty,
                                           Weather::kStormy};
  return kWeathers[seed % kWeathers.size()];
}

api::HandoverOrder order_of(uint64_t seed) {
  return seed / 4 % 2 == 0 ? api::HandoverOrder::kPull : api::HandoverOrder::kLayerwise;
}

void Report::add(const Report& other) {
  requests += other.requests;
  answered += other.answered;
  refused += other.refused;
  failed += other.failed;
  left += other.left;
  landed += other.landed;
  recomputed += other.recomputed;
  alone += other.alone;
  resumed += other.resumed;
  returned += other.returned;
  faults += other.faults;
  steps += other.steps;
  digest = (digest ^ other.digest) * 31;
  simulated += other.simulated;
  if (violation.empty()) violation = other.violation;
}

Stage::Stage(const Questions& questions) : questions_(questions) {
  for (size_t i = 0; i < kInstances; ++i) doors_.push_back(make_served());
}

Report Stage::run(const RunOptions& options) { return Run(options, questions_, doors_).go(); }

}  // namespace baton::simulation::chaos
