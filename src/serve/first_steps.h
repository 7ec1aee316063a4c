// The first steps of a model, so that no request pays for what they fault in (--warmup).
#pragma once

#include <cstdint>

#include "kv/arena.h"
#include "model/language_model.h"

namespace baton::serve {

inline constexpr uint32_t kFirstPromptTokens = 16;

// One short prefill and one decode step behind it, with the logits of both, on the arena's first blocks,
// which nobody may own yet. The prompt is as long as kFirstPromptTokens, the batch, the arena and the context
// allow with the decoded token behind it; its length is returned. The context holds two tokens
// (engine::check_config).
uint32_t take_first_steps(model::LanguageModel& model, kv::KvArena& arena);

}  // namespace baton::serve
