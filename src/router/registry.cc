#include "router/registry.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"

namespace baton::router {
namespace {

constexpr double kKvWeight = 0.3;

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

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this == &other) return *this;
  release();
  registry_ = std::exchange(other.registry_, nullptr);
  instance_ = other.instance_;
  tokens_ = std::exchange(other.tokens_, 0);
  kv_ = std::exchange(other.kv_, 0);
  return *this;
}

void Reservation::release_tokens() {
  if (registry_ == nullptr) return;
  if (Instance* instance = registry_->get(instance_)) instance->active_tokens -= tokens_;
  tokens_ = 0;
}

void Reservation::release() {
  if (registry_ == nullptr) return;
  Registry* registry = std::exchange(registry_, nullptr);
  Instance* instance = registry->get(instance_);
  CHECK(instance != nullptr, "instance {} left with a request in flight", static_cast<uint32_t>(instance_));
  instance->active_tokens -= tokens_;
  instance->active_kv -= kv_;
  --instance->in_flight;
  if (instance->in_flight == 0) instance->active_tokens = instance->active_kv = 0;  // no drift of roundings
  registry->drop_if_drained(instance_);
}

InstanceId Registry::add(Side side, std::string host, uint16_t port, Time now) {
  for (auto& instance : instances_) {
    if (instance->side == side && instance->host == host && instance->port == port) {
      instance->is_draining = false;
      return instance->id;
    }
  }
  auto instance = std::make_unique<Instance>();
  instance->id = InstanceId{next_id_++};
  instance->side = side;
  instance->host = std::move(host);
  instance->port = port;
  instance->since = now;
  instances_.push_back(std::move(instance));
  return instances_.back()->id;
}

bool Registry::remove(Side side, std::string_view host, uint16_t port) {
  for (auto& instance : instances_) {
    if (instance->side != side || instance->host != host || instance->port != port) continue;
    instance->is_draining = true;
    drop_if_drained(instance->id);
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
  instance->notice = std::move(notice);
  instance->health = Health::kUp;
  instance->reason.clear();
  instance->identity = std::move(identity);
}

void Registry::on_probe_failed(InstanceId id, std::string reason, Time now) {
  Instance* instance = get(id);
  if (instance == nullptr) return;
  if (instance->health != Health::kDown) instance->since = now;
  instance->health = Health::kDown;
  instance->reason = std::move(reason);
}

void Registry::on_request_failed(InstanceId id, std::string reason, Time now) {
  if (Instance* instance = get(id)) ++instance->failures;
  on_probe_failed(id, std::move(reason), now);
}

bool Registry::fits(const Instance& p, const Instance& d) const {
  // Between instances that do not say who they are the operator's word counts, as with the tutorial's proxy.
  if (!p.identity && !d.identity) return true;
  if (!p.identity || !d.identity) return false;
  return api::pairing_mismatch(*p.identity, *d.identity).empty();
}

Instance* Registry::best(Side side, const std::vector<InstanceId>& avoid,
                         std::optional<InstanceId> partner) const {
  Instance* best = nullptr;
  bool best_avoided = false;
  const Instance* p = partner ? find(*partner) : nullptr;
  for (auto& candidate : instances_) {
    if (candidate->side != side || candidate->health != Health::kUp || candidate->is_draining) continue;
    if (side == Side::kDecode && p != nullptr && !fits(*p, *candidate)) continue;
    if (side == Side::kPrefill && std::ranges::none_of(instances_, [&](const auto& d) {
          return d->side == Side::kDecode && d->health == Health::kUp && !d->is_draining &&
                 fits(*candidate, *d);
        })) {
      continue;
    }
    const bool avoided = std::ranges::find(avoid, candidate->id) != avoid.end();
    const auto key = [](const Instance& i, bool is_avoided) {
      return std::tuple(is_avoided, priority(i), i.chosen_at);
    };
    if (best == nullptr || key(*candidate, avoided) < key(*best, best_avoided)) {
      best = candidate.get();
      best_avoided = avoided;
    }
  }
  return best;
}

std::string Registry::why_not(const Instance& p, const Instance& d) const {
  if (d.health != Health::kUp) return d.reason;
  if (d.is_draining) return "it is being removed";
  if (fits(p, d)) return {};
  if (p.identity && d.identity) return api::pairing_mismatch(*p.identity, *d.identity);
  std::string why = "one is a Baton instance and the other is not";
  for (const Instance* instance : {&p, &d}) {
    if (!instance->identity && !instance->notice.empty())
      why += fmt::format(" ({}: {})", instance->address(), instance->notice);
  }
  return why;
}

std::string Registry::why_no_partner(const Instance& p) const {
  std::string why;
  for (const auto& d : instances_) {
    if (d->side == Side::kDecode) why += fmt::format("; {}: {}", d->address(), why_not(p, *d));
  }
  return why.empty() ? ": none is known" : ":" + why.substr(1);
}

std::string Registry::why_none(Side side, std::optional<InstanceId> partner) const {
  std::string why;
  const Instance* p = partner ? find(*partner) : nullptr;
  for (const auto& instance : instances_) {
    if (instance->side != side) continue;
    std::string reason = instance->is_draining ? "it is being removed" : instance->reason;
    if (reason.empty() && p != nullptr) reason = why_not(*p, *instance);
    if (reason.empty()) reason = "no decode instance fits it" + why_no_partner(*instance);
    why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", instance->address(), reason);
  }
  return fmt::format("no {} instance can take the request ({})", side_name(side),
                     why.empty() ? "none is known" : why);
}

Reservation Registry::take(Instance& instance, double tokens, double kv) {
  instance.active_tokens += tokens;
  instance.active_kv += kv;
  ++instance.in_flight;
  ++instance.requests;
  instance.chosen_at = ++choices_;
  Reservation reservation;
  reservation.registry_ = this;
  reservation.instance_ = instance.id;
  reservation.tokens_ = tokens;
  reservation.kv_ = kv;
  return reservation;
}

Result<Reservation> Registry::reserve_prefill(size_t body_bytes, const std::vector<InstanceId>& avoid) {
  Instance* chosen = best(Side::kPrefill, avoid, std::nullopt);
  if (chosen == nullptr) return fail(Code::kUnavailable, why_none(Side::kPrefill, std::nullopt));
  const double score = prefill_score(body_bytes);
  return take(*chosen, score, score);
}

Result<Reservation> Registry::reserve_decode(size_t body_bytes, std::optional<InstanceId> partner,
                                             const std::vector<InstanceId>& avoid) {
  Instance* chosen = best(Side::kDecode, avoid, partner);
  if (chosen == nullptr) return fail(Code::kUnavailable, why_none(Side::kDecode, partner));
  return take(*chosen, decode_score(body_bytes), 0);
}

Result<void> Registry::ready() const {
  if (best(Side::kPrefill, {}, std::nullopt) == nullptr)
    return fail(Code::kUnavailable, why_none(Side::kPrefill, std::nullopt));
  return {};
}

const Instance* Registry::partner_of(InstanceId p) const { return best(Side::kDecode, {}, p); }

std::vector<RefusedPair> Registry::refused_pairs() const {
  std::vector<RefusedPair> refused;
  for (const auto& p : instances_) {
    if (p->side != Side::kPrefill || p->health != Health::kUp) continue;
    for (const auto& d : instances_) {
      if (d->side != Side::kDecode || d->health != Health::kUp || fits(*p, *d)) continue;
      refused.push_back({p->address(), d->address(), why_not(*p, *d)});
    }
  }
  return refused;
}

}  // namespace baton::router
