#include "kv/layout.h"

#include <fmt/format.h>

namespace baton::kv {

std::string_view kv_kind_name(KvKind kind) { return kind == KvKind::kLatent ? "latent" : "keys and values"; }

Result<void> validate(const KvLayout& layout) {
  struct Row {
    const char* name;
    uint32_t value;
    uint32_t max;
  };
  for (const Row row :
       {Row{"layers", layout.layers, 4096}, Row{"kv_heads", layout.kv_heads, 4096},
        Row{"head_dim", layout.head_dim, 4096}, Row{"block_size", layout.block_tokens, kBlockTokensMax}}) {
    if (row.value == 0 || row.value > row.max) {
      return fail(Code::kInvalid,
                  fmt::format("KV layout: {} is {}, expected 1..{}", row.name, row.value, row.max));
    }
  }
  if (layout.kind == KvKind::kLatent && layout.kv_heads != 1) {
    return fail(Code::kInvalid,
                fmt::format("KV layout: kv_heads of a latent is {}, expected 1", layout.kv_heads));
  }
  if (layout.block_tokens % kBlockTokensMultiple != 0) {
    return fail(Code::kInvalid, fmt::format("KV layout: block_size is {}, expected a multiple of {}",
                                            layout.block_tokens, kBlockTokensMultiple));
  }
  if (layout.dtype != DType::kBf16 && layout.dtype != DType::kF32) {
    return fail(Code::kInvalid, fmt::format("KV layout: dtype is {}, expected bfloat16 or float32",
                                            dtype_name(layout.dtype)));
  }
  return {};
}

}  // namespace baton::kv
