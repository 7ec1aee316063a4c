// Causal attention with grouped query heads (Ainslie et al. 2023) over a paged KV cache (Kwon et al. 2023),
// by online softmax (Milakov & Gimelshein 2018; Dao et al. 2022), in an order that depends on a row's
// position and the bytes of K and V alone: not on the batch, the chunking of the prompt, the block size or
// the threads.
//
// For a row at position p and one of its heads (T = type of q, K, V and out; bf16 or f32):
//   score   t <= p:  chain over the head's dims in ascending order, from 0; bf16: per pair (2i, 2i+1) fma of
//   the
//           odd, then of the even element; f32: fma per dim. Then times scale * log2(e) in float32.
//   tiles   of kTile positions from 0. Tile maximum over the lanes t <= p; m' = max(m, tile maximum);
//           c = exp2(m - m'); w_t = exp2(score_t - m') for t <= p, else 0; in bf16 w_t is rounded to bf16
//           (also for the sum). l = fma(l, c, sum w): four vectors of 16 lanes (w0 + w1) + (w2 + w3), then
//           the tree of halves. o_d = o_d * c, then a chain over the tile's positions t <= p ascending; bf16:
//           per pair (t, t+1) fma of the odd, then of the even position, a missing odd one being 0 * 0; f32:
//           fma per position.
//   spans   of kSpan positions from 0 are computed each from (m, l, o) = (none, 0, 0) and merged left to
//   right:
//           m' = max(m1, m2), a = exp2(m1 - m'), b = exp2(m2 - m'), l = fma(l1, a, l2 * b), o = fma(o1, a, o2
//           * b).
//   result  round(o / l).
// Lanes t > p are selected away, never multiplied: what lies in the cache behind a sequence is never read
// into a result. K and V always come from the cache, also those of the current step: call store_kv first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.h"
#include "kernels/cpu.h"
#include "kernels/matrix.h"

namespace baton::kernels {

inline constexpr size_t kTile = 64;   // positions per step of the online softmax
inline constexpr size_t kSpan = 512;  // positions per partial result; a multiple of kTile
inline constexpr size_t kHeadDimMax = 576;
inline constexpr size_t kValueDimMax = 512;

// One layer of a paged KV cache as raw geometry. K of (block, head h, token t) starts `h * block_size + t`
// rows of head_dim elements behind base + block * block_stride, and V as many rows of value_dim elements
// behind the K of all heads: [block][K|V][kv_head][token][head_dim or value_dim]. With values_in_keys the V
// of a token is the beginning of its K, and there is one kv head, [block][token][head_dim]: the cache of
// multi-head latent attention.
struct KvLayer {
  std::byte* base = nullptr;
  size_t block_stride = 0;  // bytes from one block of this layer to the next
  size_t block_size = 0;    // tokens, a multiple of 16
  size_t kv_heads = 0;      // of this rank
  size_t head_dim = 0;      // of q and K: a multiple of 16, at most kHeadDimMax
  size_t value_dim = 0;     // of V and the result: a multiple of 16, at most kValueDimMax
  bool values_in_keys = false;
  DType dtype = DType::kBf16;  // kBf16 or kF32
};

// Rows [first_row, first_row + rows) of q belong to one sequence and stand at positions first_position,
// first_position + 1, ... A decode step is one row, a chunk of prefill many; both may share a call.
struct RowSpan {
  std::span<const BlockId> blocks;  // of the sequence, in order; at least up to the last row's position
  size_t first_row = 0;
  size_t rows = 0;
  size_t first_position = 0;
};

// Writes k [rows, kv_heads * head_dim] and v [rows, kv_heads * value_dim] of the KvLayer's dtype into the
// cache at the rows' positions. With values_in_keys there is no v.
void store_kv(const Cpu& cpu, const KvLayer& kv, std::span<const RowSpan> spans, ConstMatrix k,
              ConstMatrix v);

struct Attention {
  KvLayer kv;
  std::span<const RowSpan> spans;
  ConstMatrix q;    // [rows, heads * head_dim] of kv.dtype; head h uses kv head h / (heads / kv_heads)
  Matrix out;       // [rows, heads * value_dim] of kv.dtype
  float scale = 0;  // usually 1 / sqrt(head_dim)
};

// CHECKs shapes, types and block tables. out must not overlap q or the cache.
void attention(const Cpu& cpu, const Attention& args);

}  // namespace baton::kernels
