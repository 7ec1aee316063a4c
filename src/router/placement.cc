#include "router/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "router/registry.h"

namespace baton::router {
namespace {

// Bounded: a proxy believes no speed so far that a sum overflows.
Duration as_duration(double seconds) {
  constexpr double kMost = 1e6;
  return Duration(static_cast<int64_t>(std::clamp(seconds, 0.0, kMost) * 1e9));
}

// The last token is computed in any case.
double missing(double prompt_tokens, const PrefillSide& side) {
  return std::max(prompt_tokens - side.cached_tokens, 1.0);
}

}  // namespace

api::Placement::Estimate estimate_placement(const PlacementInput& input) {
  const api::Speeds& d = input.d.speeds;
  const Duration step_of_p = std::min(input.p.speeds.prefill_step, d.prefill_step);
  const double rate_of_p = std::max(input.p.speeds.prefill_tokens_per_s, d.prefill_tokens_per_s);
  const double missing_on_p = missing(input.prompt_tokens, input.p);
  const double missing_on_d = missing(input.prompt_tokens, input.d);
  const uint32_t delayed = std::max(input.in_flight, 1U);
  const double local =
      seconds(d.prefill_step) + (missing_on_d * (1 + delayed) + input.queued_tokens) / d.prefill_tokens_per_s;
  const double handover = seconds(step_of_p + input.exchange + d.handover) + missing_on_p / rate_of_p +
                          missing_on_d * static_cast<double>(d.kv_bytes_per_token) / d.handover_bytes_per_s;
  return {.prompt_tokens = input.prompt_tokens,
          .cached_tokens = input.d.cached_tokens,
          .delayed = delayed,
          .local = as_duration(local),
          .handover = as_duration(handover)};
}

bool Registry::weighs() const {
  return options_.local_prefill == LocalPrefill::kAuto && std::ranges::any_of(instances_, [](const auto& i) {
           return i->side == Side::kDecode && i->identity && i->identity->speeds;
         });
}

bool Registry::may_prefill(Time now) const {
  return std::ranges::any_of(instances_, [&](const auto& instance) {
    return instance->side == Side::kPrefill && !instance->is_draining &&
           (instance->health == Health::kUnknown || takes(*instance, now));
  });
}

Result<Reservation> Registry::reserve_decode_alone(const Demand& demand, const std::vector<InstanceId>& avoid,
                                                   Time now) {
  Wanted wanted{.side = Side::kDecode, .demand = demand, .avoid = avoid, .now = now, .is_alone = true};
  wanted.needs_room = true;
  if (const Best chosen = best(wanted); chosen.instance != nullptr && has_room_on(Side::kDecode, now))
    return take_alone(chosen, demand, now);
  wanted.needs_room = false;
  if (best(wanted).instance == nullptr) {
    return fail(Code::kUnavailable, fmt::format("{}, nor a Baton decode instance that prefills itself",
                                                why_none(Side::kDecode, std::nullopt, now)));
  }
  return fail(Code::kExhausted, why_full(Side::kDecode));
}

Reservation Registry::take_alone(const Best& chosen, const Demand& demand, Time now) {
  Reservation reservation = take(*chosen.instance, demand, chosen.cached, now);
  reservation.own_prefill_ = std::max(demand.prompt_tokens - chosen.instance->trust * chosen.cached, 1.0);
  chosen.instance->own_prefill += reservation.own_prefill_;
  return reservation;
}

Result<void> Registry::ready(Time now) const {
  const auto some = [&](Wanted wanted) { return best(wanted).instance != nullptr; };
  const bool may_be_alone = options_.local_prefill == LocalPrefill::kAlways || !may_prefill(now);
  if (may_be_alone && some({.side = Side::kDecode, .demand = {}, .avoid = {}, .now = now, .is_alone = true}))
    return {};
  if (some({.demand = {}, .avoid = {}, .now = now, .needs_partner = true})) return {};
  return fail(Code::kUnavailable, why_none(Side::kPrefill, std::nullopt, now));
}

Result<Placed> Registry::place_prefill(const Demand& demand, const std::vector<InstanceId>& avoid, Time now) {
  const auto on = [](std::string_view where, std::string_view why) {
    return api::Placement{.on = where, .reason = why};
  };
  if (options_.local_prefill == LocalPrefill::kNever) return Placed{on(api::kAtPrefill, kAsked), {}};
  if (options_.local_prefill == LocalPrefill::kAlways) {
    TRY(auto d, reserve_decode_alone(demand, avoid, now));
    return Placed{on(api::kAtDecode, kAsked), std::move(d)};
  }
  Placed placed{on(api::kAtPrefill, kNotMeasured), {}};
  if (!weighs()) return placed;
  const Best d = best({.side = Side::kDecode,
                       .demand = demand,
                       .avoid = avoid,
                       .now = now,
                       .needs_partner = true,
                       .needs_room = true,
                       .is_alone = true});
  const Best p =
      best({.side = Side::kPrefill, .demand = demand, .avoid = avoid, .now = now, .needs_partner = true});
  const auto speeds = [](const Best& one) {
    return one.instance != nullptr && one.instance->identity ? one.instance->identity->speeds : std::nullopt;
  };
  const auto of_d = speeds(d);
  const auto of_p = speeds(p);
  if (!of_d || !of_p) return placed;
  const auto estimate = estimate_placement({.prompt_tokens = demand.prompt_tokens,
                                            .p = {*of_p, p.instance->trust * p.cached},
                                            .d = {*of_d, d.instance->trust * d.cached},
                                            .exchange = p.instance->exchange,
                                            .queued_tokens = d.instance->own_prefill,
                                            .in_flight = d.instance->in_flight});
  // One that has failed this request is not asked again while there is another way.
  const bool has_failed = std::ranges::find(avoid, d.instance->id) != avoid.end();
  const bool is_local = local_costs_less(estimate) && !has_failed && has_room_on(Side::kDecode, now);
  placed.placement = is_local ? on(api::kAtDecode, kLocalCostsLess) : on(api::kAtPrefill, kHandoverCostsLess);
  placed.placement.estimate = estimate;
  if (is_local) placed.d = take_alone(d, demand, now);
  return placed;
}

}  // namespace baton::router
