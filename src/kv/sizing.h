// How many blocks an instance gets: a pure rule, so that `serve`, `plan` and tests agree.
#pragma once

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "kv/layout.h"

namespace baton::kv {

inline constexpr uint32_t kArenaBlocksMax = 16U << 20;

struct SizingInput {
  KvLayout layout;
  uint64_t available_bytes = 0;   // of memory, beside weights
  double memory_fraction = 0.9;   // of what is available, (0, 1]
  uint32_t seqs_max = 1;          // --max-num-seqs
  uint32_t model_tokens_max = 1;  // --max-model-len
  std::optional<uint64_t>
      cache_bytes;                 // --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE: instead of the rule
  std::optional<uint32_t> blocks;  // --num-gpu-blocks-override: instead of everything
};

// The smaller of memory_fraction * available_bytes and what seqs_max sequences of model_tokens_max tokens
// need, and never more than kArenaBlocksMax. kExhausted if that does not hold one sequence of
// model_tokens_max tokens: names both sizes and the largest length that would fit.
Result<uint32_t> arena_blocks(const SizingInput& input);

}  // namespace baton::kv
