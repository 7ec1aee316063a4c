// The geometry of a KV cache: what one block of one layer holds, in memory order, and where it lies in an
// arena. Two instances can hand KV over when their layouts agree field by field; block_tokens may differ.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/dtype.h"
#include "base/ids.h"
#include "base/result.h"

namespace baton::kv {

inline constexpr uint32_t kBlockTokensMultiple = 16;  // block sizes are multiples of this
inline constexpr uint32_t kBlockTokensDefault = 16;
inline constexpr uint32_t kBlockTokensMax = 1024;

// What a token leaves in a layer of the cache.
enum class KvKind : uint8_t {
  kKeysAndValues,  // grouped-query attention: a key and a value of each kv head
  kLatent,  // multi-head latent attention (DeepSeek-AI 2024): one row, the latent and the rotary key of all
            // heads
};
std::string_view kv_kind_name(KvKind kind);  // "keys and values", "latent"

// Memory order of an arena, outermost first:
//   [block][layer][K|V][kv_head][token][head_dim]    or    [block][layer][token][head_dim] of a latent
// so the bytes of one (layer, block) are contiguous, all layers of a block follow each other, and a range of
// heads of K (or V) is contiguous within them.
struct KvLayout {
  KvKind kind = KvKind::kKeysAndValues;
  uint32_t layers = 0;
  uint32_t kv_heads = 0;  // 1 for a latent
  uint32_t head_dim = 0;  // of a latent: its width and that of the rotary key
  uint32_t block_tokens = kBlockTokensDefault;
  DType dtype = DType::kBf16;  // kBf16 or kF32

  bool operator==(const KvLayout&) const = default;

  // K and V, or the latent that is both.
  size_t parts() const { return kind == KvKind::kLatent ? 1 : 2; }
  // Bytes of K (or of V, or of the latent) of one (layer, block).
  size_t part_bytes() const { return size_t{kv_heads} * block_tokens * head_dim * size_of(dtype); }
  // Bytes of one (layer, block).
  size_t layer_bytes() const { return parts() * part_bytes(); }
  // Bytes of `tokens` positions in one layer, all parts and heads.
  size_t layer_bytes(uint32_t tokens) const {
    return parts() * kv_heads * tokens * head_dim * size_of(dtype);
  }
  // Bytes of one block, all layers.
  size_t block_bytes() const { return layers * layer_bytes(); }
  // Where (layer, block) begins in an arena of this layout.
  size_t offset(uint32_t layer, BlockId block) const {
    return index(block) * block_bytes() + layer * layer_bytes();
  }
  // Blocks that `tokens` positions need.
  uint32_t blocks_for(uint64_t tokens) const {
    return static_cast<uint32_t>((tokens + block_tokens - 1) / block_tokens);
  }
};

// kInvalid names the field that is zero, too large, or not a multiple of kBlockTokensMultiple.
Result<void> validate(const KvLayout& layout);

}  // namespace baton::kv
