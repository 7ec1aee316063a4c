// Why instances do not take a request or do not fit each other, as clients and operators are told.
#include <fmt/format.h>

#include <string>
#include <vector>

#include "router/registry.h"

namespace baton::router {

std::string Registry::why_unfit(const Instance& p, const Instance& d) const {
  // Between instances that do not say who they are the operator's word counts, as with the tutorial's
  // proxies.
  if (!p.identity && !d.identity) return {};
  std::string why;
  if (!p.identity || !d.identity) {
    why = "one is a Baton instance and the other is not";
    for (const Instance* instance : {&p, &d}) {
      if (!instance->identity && !instance->notice.empty())
        why += fmt::format(" ({}: {})", instance->address(), instance->notice);
    }
    return why;
  }
  why = api::pairing_mismatch(*p.identity, *d.identity);
  if (why.empty() && asked_order_ && p.identity->order != *asked_order_) {
    why = fmt::format("order: {} on both instances, --order {}", api::order_name(p.identity->order),
                      api::order_name(*asked_order_));
  }
  return why;
}

std::string Registry::why_not(const Instance& one, const Instance& partner) const {
  if (partner.health != Health::kUp) return partner.reason;
  if (partner.is_draining) return "it is being removed";
  return one.side == Side::kPrefill ? why_unfit(one, partner) : why_unfit(partner, one);
}

std::string Registry::why_no_partner(const Instance& one) const {
  std::string why;
  for (const auto& other : instances_) {
    if (other->side != one.side) why += fmt::format("; {}: {}", other->address(), why_not(one, *other));
  }
  return why.empty() ? ": none is known" : ":" + why.substr(1);
}

// Why it takes no request at all; empty if it does.
std::string Registry::why_not_now(const Instance& one, std::optional<Time> now) const {
  if (one.is_draining) return "it is being removed";
  if (!one.reason.empty() || !now || one.breaker.allows(*now)) return one.reason;
  return fmt::format("its breaker is {} after failures in a row, for {:.1f} s",
                     breaker_state_name(one.breaker.state(*now)), seconds(one.breaker.opens_in(*now)));
}

std::string Registry::why_none(Side side, std::optional<InstanceId> partner, std::optional<Time> now) const {
  std::string why;
  const Instance* other = partner ? find(*partner) : nullptr;
  const Side needed = side == Side::kPrefill ? Side::kDecode : Side::kPrefill;
  for (const auto& instance : instances_) {
    if (instance->side != side) continue;
    std::string reason = why_not_now(*instance, now);
    if (reason.empty() && other != nullptr) reason = why_not(*other, *instance);
    if (reason.empty())
      reason = fmt::format("no {} instance fits it{}", side_name(needed), why_no_partner(*instance));
    why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", instance->address(), reason);
  }
  return fmt::format("no {} instance can take the request ({})", side_name(side),
                     why.empty() ? "none is known" : why);
}

std::string Registry::why_not_going_on(const Instance& one, const api::InstanceIdentity& lost) const {
  if (!one.identity) return "it is no Baton instance";
  return api::resumption_mismatch(lost, *one.identity);
}

std::vector<std::string> Registry::warnings() const {
  std::vector<std::string> out;
  for (size_t i = 0; i < instances_.size(); ++i) {
    const auto& one = instances_[i]->identity;
    for (size_t k = 0; one && k < i; ++k) {
      const auto& other = instances_[k]->identity;
      if (!other || other->engine_id != one->engine_id || one->engine_id.empty()) continue;
      out.push_back(fmt::format("engine_id: {} on {} and on {}, expected one of its own on each instance",
                                one->engine_id, instances_[k]->address(), instances_[i]->address()));
    }
  }
  return out;
}

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
