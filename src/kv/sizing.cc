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
  const uint64_t bytes = input.cache_bytes.value_or(
      static_cast<uint64_t>(static_cast<double>(input.available_bytes) * input.memory_fraction));
  uint64_t blocks = bytes / block_bytes;
  if (input.blocks) {
    blocks = *input.blocks;
  } else if (!input.cache_bytes) {
    blocks = std::min(blocks, one * std::max(1U, input.seqs_max));
  }
  blocks = std::min<uint64_t>(blocks, kArenaBlocksMax);
  if (blocks < one) {
    const uint64_t tokens = blocks * input.layout.block_tokens;
    const std::string shorter = tokens == 0 ? "" : fmt::format(" or set --max-model-len {}", tokens);
    return fail(
        Code::kExhausted,
        fmt::format("KV cache: {} bytes hold {} tokens, expected at least max_model_len {} ({} bytes); "
                    "give it more memory{}",
                    input.blocks ? blocks * block_bytes : bytes, tokens, input.model_tokens_max,
                    one * block_bytes, shorter));
  }
  return static_cast<uint32_t>(blocks);
}

}  // namespace baton::kv
