#include "router/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <utility>

namespace baton::router {
namespace {

constexpr double kKvWeight = 0.3;
constexpr double kTransferWeight = 0.25;        // a token handed over, against one computed
constexpr double kAnswerTokensGuess = 256;      // of an answer whose limit is above, or not named
constexpr double kNews = 0.2;                   // weight of the last answer in what is learned from answers
constexpr double kCachedTokensWorthAWord = 64;  // less says nothing: caches keep whole blocks

// Whether a D computes prompts that come without KV.
bool prefills_alone(const Instance& d) { return d.identity && d.identity->role != api::Role::kPrefill; }

double priority(const Instance& instance) {
  return instance.side == Side::kPrefill ? instance.active_tokens + kKvWeight * instance.active_kv
                                         : instance.active_tokens;
}

}  // namespace

double prefill_score(size_t body_bytes) { return static_cast<double>(body_bytes) / 4.0 * 0.0345 + 120.0745; }
double decode_score(size_t body_bytes) { return static_cast<double>(body_bytes); }

std::string Instance::address() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                             : fmt::format("[{}]:{}", host, port);
}

Registry::Registry(RegistryOptions options) : options_(options), queue_(options.waiting_max) {}

Demand Registry::demand_of(const ClientBody& client) const {
  Demand demand{.body_bytes = client.bytes};
  const std::string_view prompt =
      client.members.find(client.route == Route::kChat ? "messages" : "prompt").value_or("");
  const bool are_ids = client.route == Route::kCompletions && prompt.starts_with('[');
  demand.prompt_tokens = are_ids ? static_cast<double>(std::ranges::count(prompt, ',') + 1)
                                 : static_cast<double>(prompt.size()) / bytes_per_token_;
  demand.answer_tokens =
      std::min<double>(client.max_tokens.value_or(INT32_MAX), kAnswerTokensGuess) * client.choices;
  if (options_.policy == Policy::kPrefix || weighs()) demand.chain = prefix_chain(client);
  return demand;
}

void Registry::on_prefilled(const Reservation& p, Demand& demand, int64_t prompt_tokens,
                            std::optional<int64_t> cached_tokens) {
  Instance* instance = get(p.instance());
  if (instance == nullptr || prompt_tokens <= 0) return;
  const double tokens = static_cast<double>(prompt_tokens);
  const double shown = demand.prompt_tokens * bytes_per_token_ / tokens;
  bytes_per_token_ = std::clamp((1 - kNews) * bytes_per_token_ + kNews * shown, 1.0, 16.0);
  demand.prompt_tokens = tokens;
  if (!cached_tokens || p.expected_cached_ < kCachedTokensWorthAWord) return;
  const double kept = std::clamp(static_cast<double>(*cached_tokens) / p.expected_cached_, 0.0, 1.0);
  instance->trust = (1 - kNews) * instance->trust + kNews * kept;
}

void Registry::forget_caches() {
  for (auto& instance : instances_) instance->cache = ++last_cache_;
}

InstanceId Registry::add(Side side, std::string host, uint16_t port, Time now) {
  for (auto& instance : instances_) {
    if (instance->side == side && instance->host == host && instance->port == port) {
      instance->is_draining = false;
      queue_.on_room();
      return instance->id;
    }
  }
  auto instance = std::make_unique<Instance>();
  instance->id = InstanceId{next_id_++};
  instance->side = side;
  instance->host = std::move(host);
  instance->port = port;
  instance->since = now;
  instance->cache = ++last_cache_;
  instances_.push_back(std::move(instance));
  return instances_.back()->id;
}

bool Registry::remove(Side side, std::string_view host, uint16_t port) {
  for (auto& instance : instances_) {
    if (instance->side != side || instance->host != host || instance->port != port) continue;
    instance->is_draining = true;
    drop_if_drained(instance->id);
    queue_.on_room();  // as when one goes down
    return true;
  }
  return false;
}

void Registry::drop_if_drained(InstanceId id) {
  std::erase_if(instances_,
                [&](const auto& i) { return i->id == id && i->is_draining && i->in_flight == 0; });
}

Instance* Registry::get(InstanceId id) {
  const auto found = std::ranges::find_if(instances_, [&](const auto& i) { return i->id == id; });
  return found == instances_.end() ? nullptr : found->get();
}

const Instance* Registry::find(InstanceId id) const { return const_cast<Registry*>(this)->get(id); }

size_t Registry::count(Side side) const {
  return static_cast<size_t>(
      std::ranges::count_if(instances_, [&](const auto& i) { return i->side == side; }));
}

void Registry::on_forced_tool_failed(InstanceId id) {
  if (Instance* instance = get(id)) instance->fails_forced_tools = true;
}

void Registry::on_probe_ok(InstanceId id, std::optional<api::InstanceIdentity> identity, Time now,
                           std::string notice) {
  Instance* instance = get(id);
  if (instance == nullptr) return;
  if (instance->health != Health::kUp) {
    instance->since = now;
    instance->fails_forced_tools = false;  // it may be another server by now
  }
  const bool is_other = identity && instance->identity
                            ? identity->incarnation != instance->identity->incarnation
                            : instance->health != Health::kUp;
  if (is_other) {
    instance->cache = ++last_cache_;
    instance->trust = 1;
    if (identity) instance->breaker.reset();  // another process for sure
  }
  instance->notice = std::move(notice);
  instance->health = Health::kUp;
  instance->reason.clear();
  instance->identity = std::move(identity);
  instance->is_waiting = false;
  queue_.on_room();
}

std::optional<Rendezvous> Registry::begin_rendezvous(InstanceId p, std::string_view request_id) {
  Instance* instance = get(p);
  if (instance == nullptr || instance->identity || instance->ranks.empty()) return std::nullopt;
  return Rendezvous{.transfer_id = "xfer-" + std::string(request_id),
                    .bootstrap = instance->bootstrap,
                    .p = instance->ranks[instance->rank_turn++ % instance->ranks.size()]};
}

void Registry::on_answer_failed(InstanceId id, Time now) {
  Instance* instance = get(id);
  if (instance == nullptr) return;
  ++instance->failures;
  instance->breaker.on_failure(now);
}

void Registry::on_answered(InstanceId id, Time now) {
  if (Instance* instance = get(id)) instance->breaker.on_success(now);
}

void Registry::on_probe_failed(InstanceId id, std::string reason, Time now) {
  Instance* instance = get(id);
  if (instance == nullptr) return;
  const bool was_down = instance->health == Health::kDown;
  if (!was_down) instance->since = now;
  instance->health = Health::kDown;
  instance->reason = std::move(reason);
  // Who waits for room there is told at once if nobody else is left.
  if (!was_down) queue_.on_room();
}

void Registry::on_probe_took(InstanceId id, Duration took) {
  Instance* instance = get(id);
  if (instance == nullptr) return;
  // The shortest counts, others were held up; a way that became longer is believed little by little.
  const bool is_news = instance->exchange == Duration{0} || took < instance->exchange;
  instance->exchange = is_news ? took : instance->exchange + (took - instance->exchange) / 16;
}

void Registry::on_request_failed(InstanceId id, std::string reason, Time now) {
  if (Instance* instance = get(id)) {
    ++instance->failures;
    // What was in flight together fails together: once.
    if (instance->health == Health::kUp) instance->breaker.on_failure(now);
  }
  on_probe_failed(id, std::move(reason), now);
}

bool Registry::fits(const Instance& p, const Instance& d) const { return why_unfit(p, d).empty(); }

bool Registry::fits(const Instance& candidate, const Instance& other, Side side) const {
  return side == Side::kPrefill ? fits(candidate, other) : fits(other, candidate);
}

bool Registry::takes(const Instance& instance, std::optional<Time> now) const {
  return instance.health == Health::kUp && !instance.is_draining && (!now || instance.breaker.allows(*now));
}

bool Registry::has_room(const Instance& instance) const {
  return options_.in_flight_max == 0 || instance.in_flight < options_.in_flight_max;
}

bool Registry::has_room_on(Side side, Time now) const {
  if (options_.in_flight_max == 0) return true;
  uint64_t room = 0;
  for (const auto& one : instances_) {
    if (one->side == side && takes(*one, now) && has_room(*one))
      room += options_.in_flight_max - one->in_flight;
  }
  return room > promised_[static_cast<size_t>(side)];
}

bool Registry::has_partner(const Instance& one) const {
  return std::ranges::any_of(instances_, [&](const auto& other) {
    return other->side != one.side && other->health == Health::kUp && !other->is_draining &&
           fits(one, *other, one.side);
  });
}

double Registry::load_added(const Instance& instance, const Demand& demand, double cached) const {
  const bool prefills = instance.side == Side::kPrefill;
  if (options_.policy == Policy::kTutorial)
    return prefills ? prefill_score(demand.body_bytes) : decode_score(demand.body_bytes);
  if (options_.policy == Policy::kLeastTokens) cached = 0;
  if (prefills) return std::max(demand.prompt_tokens - instance.trust * cached, 1.0);
  return demand.prompt_tokens + demand.answer_tokens;
}

// Of one request the table is asked once, until somebody is chosen.
void Registry::look_up(const Demand& demand) const {
  const PrefixCut whole = demand.chain.empty() ? PrefixCut{} : demand.chain.back();
  if (looked_up_ == whole) return;
  matches_.clear();
  if (prefixes_) prefixes_->match(demand.chain, matches_);
  looked_up_ = whole;
}

Registry::Best Registry::best(const Wanted& wanted) const {
  look_up(wanted.demand);
  double whole = wanted.demand.chain.empty() ? 1 : static_cast<double>(wanted.demand.chain.back().bytes);
  if (wanted.demand.chain.size() == kPrefixCutsMax)  // nobody knows of what lies behind
    whole = std::max(whole, static_cast<double>(wanted.demand.body_bytes));
  const auto cached_at = [&](const Instance& instance) {
    const auto match = std::ranges::find(matches_, instance.cache, &PrefixTable::Match::cache);
    if (match == matches_.end()) return 0.0;
    return static_cast<double>(wanted.demand.chain[match->cuts - 1].bytes) / whole *
           wanted.demand.prompt_tokens;
  };
  Best best;
  std::tuple<bool, double, uint64_t> least;
  const Instance* partner = wanted.partner ? find(*wanted.partner) : nullptr;
  for (const auto& candidate : instances_) {
    if (candidate->side != wanted.side || !takes(*candidate, wanted.now)) continue;
    if (wanted.needs_room && !has_room(*candidate)) continue;
    if (wanted.is_alone && !prefills_alone(*candidate)) continue;
    if (partner != nullptr && !fits(*candidate, *partner, wanted.side)) continue;
    if (wanted.needs_partner && !has_partner(*candidate)) continue;
    if (wanted.lost != nullptr && !why_not_going_on(*candidate, *wanted.lost).empty()) continue;
    const double cached = cached_at(*candidate);
    double cost = priority(*candidate);
    const double missing = wanted.demand.prompt_tokens - candidate->trust * cached;
    if (wanted.is_alone) {
      cost += options_.policy == Policy::kTutorial ? bytes_per_token_ * missing : missing;  // the load's unit
    } else if (options_.policy == Policy::kPrefix) {
      cost += wanted.side == Side::kPrefill ? missing : kTransferWeight * missing;
    }
    const bool avoided = std::ranges::find(wanted.avoid, candidate->id) != wanted.avoid.end();
    const std::tuple key(avoided, cost, candidate->chosen_at);
    if (best.instance == nullptr || key < least) {
      best = {candidate.get(), cached};
      least = key;
    }
  }
  return best;
}

Reservation Registry::take(Instance& instance, const Demand& demand, double cached, Time now) {
  const double tokens = load_added(instance, demand, cached);
  const bool prefills = instance.side == Side::kPrefill;
  const double kv = !prefills ? 0 : options_.policy == Policy::kTutorial ? tokens : demand.prompt_tokens;
  instance.active_tokens += tokens;
  instance.active_kv += kv;
  ++instance.in_flight;
  ++instance.requests;
  instance.chosen_at = ++choices_;
  if (!demand.chain.empty()) {
    if (!prefixes_) prefixes_.emplace(options_.prefix_entries_max);
    prefixes_->record(demand.chain, instance.cache);
    looked_up_.reset();
  }
  Reservation reservation;
  reservation.registry_ = this;
  reservation.instance_ = instance.id;
  reservation.tokens_ = tokens;
  reservation.kv_ = kv;
  reservation.expected_cached_ = cached;
  reservation.is_trial_ = instance.breaker.on_chosen(now);
  return reservation;
}

Result<Reservation> Registry::reserve_first(Side side, const Demand& demand,
                                            const std::vector<InstanceId>& avoid, Time now) {
  const Side other = side == Side::kPrefill ? Side::kDecode : Side::kPrefill;
  const Best chosen = best({.side = side,
                            .demand = demand,
                            .avoid = avoid,
                            .now = now,
                            .needs_partner = true,
                            .needs_room = true});
  if (chosen.instance != nullptr && has_room_on(other, now)) {
    Reservation reservation = take(*chosen.instance, demand, chosen.cached, now);
    reservation.promise_ = other;
    ++promised_[static_cast<size_t>(other)];
    return reservation;
  }
  const Best full = best({.side = side, .demand = demand, .avoid = avoid, .now = now, .needs_partner = true});
  if (full.instance == nullptr) return fail(Code::kUnavailable, why_none(side, std::nullopt, now));
  return fail(Code::kExhausted, why_full(chosen.instance == nullptr ? side : other));
}

std::string Registry::why_full(Side side) const {
  return fmt::format(
      "every {} instance that can take the request has {} in flight, the most that "
      "--max-in-flight-per-instance allows",
      side_name(side), options_.in_flight_max);
}

Result<Reservation> Registry::reserve_prefill(const Demand& demand, const std::vector<InstanceId>& avoid,
                                              Time now) {
  return reserve_first(Side::kPrefill, demand, avoid, now);
}

Result<Reservation> Registry::reserve_decode_first(const Demand& demand, const std::vector<InstanceId>& avoid,
                                                   Time now) {
  return reserve_first(Side::kDecode, demand, avoid, now);
}

Result<Reservation> Registry::reserve_decode(const Demand& demand, std::optional<InstanceId> partner,
                                             const std::vector<InstanceId>& avoid, Time now) {
  const Best chosen =
      best({.side = Side::kDecode, .demand = demand, .avoid = avoid, .partner = partner, .now = now});
  if (chosen.instance == nullptr) return fail(Code::kUnavailable, why_none(Side::kDecode, partner, now));
  return take(*chosen.instance, demand, chosen.cached, now);
}

Result<Reservation> Registry::reserve_prefill_for(const Demand& demand, InstanceId d,
                                                  const std::vector<InstanceId>& avoid, Time now) {
  const Best chosen =
      best({.side = Side::kPrefill, .demand = demand, .avoid = avoid, .partner = d, .now = now});
  if (chosen.instance == nullptr) return fail(Code::kUnavailable, why_none(Side::kPrefill, d, now));
  return take(*chosen.instance, demand, chosen.cached, now);
}

Result<Reservation> Registry::reserve_resumption(const Demand& demand, const api::InstanceIdentity& lost,
                                                 const std::vector<InstanceId>& avoid, Time now) {
  const Best chosen =
      best({.side = Side::kDecode, .demand = demand, .avoid = avoid, .now = now, .lost = &lost});
  if (chosen.instance != nullptr) return take(*chosen.instance, demand, chosen.cached, now);
  std::string why;
  for (const auto& instance : instances_) {
    if (instance->side != Side::kDecode) continue;
    std::string reason = why_not_now(*instance, now);
    if (reason.empty()) reason = why_not_going_on(*instance, lost);
    why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", instance->address(), reason);
  }
  return fail(Code::kUnavailable,
              fmt::format("no decode instance can go on with it ({})", why.empty() ? "none is known" : why));
}

Result<api::HandoverOrder> Registry::order() const {
  if (asked_order_) return *asked_order_;
  const auto order_of = [](const Instance& i) {
    return i.identity ? i.identity->order : api::HandoverOrder::kPull;
  };
  const Instance* speaker = nullptr;
  for (const auto& instance : instances_) {
    const bool speaks =
        instance->health == Health::kUp && (!instance->identity || instance->identity->hands_over);
    if (!speaks) continue;
    if (speaker != nullptr && order_of(*speaker) != order_of(*instance)) {
      return fail(Code::kUnavailable,
                  fmt::format("order: {} on {}, {} on {}, expected one order on all instances (or --order)",
                              api::order_name(order_of(*speaker)), speaker->address(),
                              api::order_name(order_of(*instance)), instance->address()));
    }
    if (speaker == nullptr) speaker = instance.get();
  }
  if (speaker == nullptr) {
    return fail(Code::kUnavailable, "order: no instance has said yet how it hands over: " +
                                        why_none(Side::kPrefill, std::nullopt, std::nullopt));
  }
  return order_of(*speaker);
}

const Instance* Registry::partner_of(InstanceId p) const {
  return best({.side = Side::kDecode, .demand = {}, .avoid = {}, .partner = p}).instance;
}

}  // namespace baton::router
