// What an instance measures of itself before it opens, for proxies that weigh a hand-over (api::Speeds). On
// the loader's thread; a few steps and a few hand-overs between two small arenas of this process.
#pragma once

#include "api/identity.h"
#include "base/clock.h"
#include "base/result.h"
#include "kv/arena.h"
#include "model/language_model.h"
#include "transfer/mover.h"

namespace baton::serve {

inline constexpr uint32_t kProbeTokensMin = 16;
inline constexpr uint32_t kProbeTokensMax = 256;
inline constexpr Duration kProbeStepMax = std::chrono::milliseconds(100);  // planned for the longer prompt
inline constexpr size_t kProbeBytesMax = size_t{16} << 20;                 // of the larger hand-over
inline constexpr uint32_t kProbeBlocksMax = 256;
inline constexpr Duration kProbePatience = std::chrono::seconds(5);

// Prefills a short prompt and a longer one, as long as kProbeStepMax, the batch, the arena and the context
// allow, on the arena's first blocks, which nobody may own yet. Sets prefill_step and prefill_tokens_per_s.
void measure_prefill(model::LanguageModel& model, kv::KvArena& arena, const Clock& clock,
                     api::Speeds& speeds);

// Hands one block over, and many. Sets handover, handover_bytes_per_s and kv_bytes_per_token. The error of a
// mover that cannot be made or of a hand-over that fails.
Result<void> measure_handover(const kv::KvLayout& layout, transfer::TransportChoice choice,
                              api::Speeds& speeds);

// A line through (few, took_few) and (many, took_many): what nothing takes, and units per second. Measured
// times may be in the wrong order; then all the time counts for the units.
struct Line {
  Duration fixed{0};
  double per_s = 0;
};
Line line_through(double few, Duration took_few, double many, Duration took_many);

}  // namespace baton::serve
