// Where a prompt is computed: on a P, which hands its KV over, or on the D that answers. A hand-over keeps
// D's other answers going while a long prompt is computed; for a short prompt, or one that D has in its
// prefix cache, it costs more than that. The rule compares what is lost either way, in time, from what the
// instances measured when they started (api::Speeds), what the proxy's probes take, and what it knows of D.
//
//   with n tokens of the prompt missing, q tokens of other prompts that D computes itself just now, s answers
//   in flight at D, at least 1 (whoever comes next):
//     local    = D's step + (n_D + q) / D's rate + s x n_D / D's rate
//     handover = P's step + n_P / P's rate + an exchange with P + D's hand-over + n_D x KV bytes / D's
//     bytes/s
//
// D computes the prompt where local <= handover. P counts as no slower than D: that prompts are computed
// elsewhere is the operator's decision, not one that a measurement on a busy host may undo. The load of P is
// left out for the same reason: what P has no room for waits for it, and does not go where the answers are.
#pragma once

#include <cstdint>
#include <string_view>

#include "api/identity.h"
#include "api/timings.h"
#include "base/clock.h"

namespace baton::router {

// --local-prefill
enum class LocalPrefill : uint8_t {
  kAuto,    // by the rule above, where both instances say their speeds
  kNever,   // only where no P can
  kAlways,  // P is not asked
};

// Why a prompt is computed where it is (api::Placement::reason).
inline constexpr std::string_view kAsked = "asked";  // --local-prefill never or always
inline constexpr std::string_view kNotMeasured = "not_measured";
inline constexpr std::string_view kLocalCostsLess = "local_costs_less";
inline constexpr std::string_view kHandoverCostsLess = "handover_costs_less";
inline constexpr std::string_view kNoPrefillInstance = "no_prefill_instance";  // every P is down
inline constexpr std::string_view kPrefillFailed = "prefill_failed";           // of each P that was asked

// What the rule knows of one side.
struct PrefillSide {
  api::Speeds speeds;
  double cached_tokens = 0;  // of the prompt, probably
};

struct PlacementInput {
  double prompt_tokens = 0;
  PrefillSide p;
  PrefillSide d;
  Duration exchange{0};      // with P, without any work of P
  double queued_tokens = 0;  // of prompts that D computes itself and has not answered yet
  uint32_t in_flight = 0;    // of D
};

api::Placement::Estimate estimate_placement(const PlacementInput& input);

inline bool local_costs_less(const api::Placement::Estimate& estimate) {
  return estimate.local <= estimate.handover;
}

}  // namespace baton::router
