#include "kv/sizing.h"

#include <fmt/format.h>

#include <algorithm>

namespace baton::kv {

Result<uint32_t> arena_blocks(const SizingInput& input) {
  TRY_DO(validate(input.layout));
  if (!(input.memory_fraction > 0.0 && input.memory_fraction <= 1.0)) {
    return fail(Code::kInvalid,
                fmt::format("KV cache: memory fraction is {}, expected (0, 1]", input.memory_fraction));
  }
  const uint64_t block_bytes = input.layout.block_bytes();
  const uint64_t one = input.layout.blocks_for(input.model_tokens_max);
  uint64_t blocks = 0;
  if (input.blocks) {
    blocks = *input.blocks;
  } else if (input.cache_bytes) {
    blocks = *input.cache_bytes / block_bytes;
  } else {
    const double bytes = static_cast<double>(input.available_bytes) * input.memory_fraction;
    blocks = std::min(static_cast<uint64_t>(bytes) / block_bytes, one * std::max(1U, input.seqs_max));
  }
  blocks = std::min<uint64_t>(blocks, kArenaBlocksMax);
  if (blocks < one) {
    return fail(
        Code::kExhausted,
        fmt::format("KV cache: {} bytes hold {} tokens, expected at least max_model_len {} ({} bytes); "
                    "give it more memory or set --max-model-len {}",
                    blocks * block_bytes, blocks * input.layout.block_tokens, input.model_tokens_max,
                    one * block_bytes, blocks * input.layout.block_tokens));
  }
  return static_cast<uint32_t>(blocks);
}

}  // namespace baton::kv
