// Attention of the query vectors that share one kv head, over the tiles of one span (kernels/attention.h
// states the order). Both products are panels: broadcast elements of A times rows of 16-lane vectors of B.
//   scores  A = q [vector, dim pair], B = K transposed [dim pair, position of the tile]
//   values  A = w [vector, position pair], B = V with position pairs joined [position pair, dim]
// In f32 a "pair" is a single element.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/elementary.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/row_ops.h"

namespace baton::kernels {
namespace {

constexpr size_t kTileTokens = 64;   // kTile of kernels/attention.h
constexpr size_t kKeyDimMax = 576;   // kHeadDimMax
constexpr size_t kValueMax = 512;    // kValueDimMax
constexpr size_t kBlockTokens = 16;  // a cache block is a multiple of this: tokens that lie together

// One 32-bit word of A and 16 of B per step: a bf16 pair or a float.
template <class L>
struct Bf16Words {
  static constexpr size_t kPerWord = 2;
  static typename L::F step(typename L::F acc, const uint32_t* a, typename L::Pairs b) {
    return L::dot(acc, L::splat_pair(a), b);
  }
};
template <class L>
struct F32Words {
  static constexpr size_t kPerWord = 1;
  static typename L::F step(typename L::F acc, const uint32_t* a, typename L::Pairs b) {
    float x;
    __builtin_memcpy(&x, a, sizeof x);
    return L::fma(L::splat(x), L::from_bits(b), acc);
  }
};

// A panel product: c[r][0 .. 16 vectors) += a[r] . b, steps in ascending order; from zero unless
// `accumulate`.
struct Panel {
  const uint32_t* a;
  size_t a_stride;
  const uint32_t* b;
  size_t b_stride;
  float* c;
  size_t c_stride;
  size_t steps;
  bool accumulate;
};

// The accumulators live in registers only if every loop over them is unrolled.
template <class L, class Words, int kRows, int kVecs>
[[gnu::noinline]] void panel_tile(const Panel& p, size_t row, size_t vec) {
  typename L::F acc[kRows * kVecs];
  float* c = p.c + row * p.c_stride + vec * 16;
  const size_t c_stride = p.c_stride;
  if (p.accumulate) {
#pragma clang loop unroll(full)
    for (size_t i = 0; i < kRows * kVecs; ++i) acc[i] = L::load(c + i / kVecs * c_stride + i % kVecs * 16);
  } else {
#pragma clang loop unroll(full)
    for (size_t i = 0; i < kRows * kVecs; ++i) acc[i] = L::zero();
  }
  const size_t a_stride = p.a_stride;
  const size_t b_stride = p.b_stride;
  const uint32_t* a = p.a + row * a_stride;
  const uint32_t* b = p.b + vec * 16;
  for (const uint32_t* end = a + p.steps; a < end; ++a, b += b_stride) {
    typename L::Pairs columns[kVecs];
#pragma clang loop unroll(full)
    for (size_t v = 0; v < kVecs; ++v) columns[v] = L::load_words(b + v * 16);
#pragma clang loop unroll(full)
    for (size_t i = 0; i < kRows * kVecs; ++i) {
      acc[i] = Words::step(acc[i], a + i / kVecs * a_stride, columns[i % kVecs]);
    }
  }
#pragma clang loop unroll(full)
  for (size_t i = 0; i < kRows * kVecs; ++i) L::store(c + i / kVecs * c_stride + i % kVecs * 16, acc[i]);
}

template <class L, class Words, int kRows>
void panel_rows(const Panel& p, size_t row, size_t vecs) {
  size_t v = 0;
  for (; v + L::kPanelVecs <= vecs; v += L::kPanelVecs) panel_tile<L, Words, kRows, L::kPanelVecs>(p, row, v);
  for (; v < vecs; ++v) panel_tile<L, Words, kRows, 1>(p, row, v);
}

template <class L, class Words>
void panel(const Panel& p, size_t rows, size_t vecs) {
  size_t row = 0;
  for (; row + L::kPanelRows <= rows; row += L::kPanelRows) panel_rows<L, Words, L::kPanelRows>(p, row, vecs);
  if constexpr (L::kPanelRows > 4) {
    for (; row + 4 <= rows; row += 4) panel_rows<L, Words, 4>(p, row, vecs);
  }
  for (; row + 2 <= rows; row += 2) panel_rows<L, Words, 2>(p, row, vecs);
  for (; row < rows; ++row) panel_rows<L, Words, 1>(p, row, vecs);
}

// The working memory of one block; lives on the stack of the thread that runs the task.
struct AttendMemory {
  alignas(64) uint32_t q[kQueryVectorsMax * kKeyDimMax];         // [vector, key_dim / kPerWord]
  alignas(64) uint32_t keys[kKeyDimMax * kTileTokens];           // [key_dim / kPerWord, kTileTokens]
  alignas(64) uint32_t values[kTileTokens * kValueMax];          // [kTileTokens / kPerWord, value_dim]
  alignas(64) float scores[kQueryVectorsMax * kTileTokens];      // [vector, kTileTokens]
  alignas(64) uint32_t weights[kQueryVectorsMax * kTileTokens];  // [vector, kTileTokens / kPerWord]
  alignas(64) uint32_t edge[kValueMax];  // the last pair of a row whose odd position is masked
};

// K of 16 neighbouring positions from `position`, a multiple of 16, on, and their V: they lie together.
const std::byte* group_key(const AttendBlock& b, size_t position, size_t element_size) {
  return b.keys + b.blocks[position / b.block_size] * b.block_stride +
         position % b.block_size * b.key_dim * element_size;
}
const std::byte* group_value(const AttendBlock& b, size_t position, size_t element_size) {
  return b.values + b.blocks[position / b.block_size] * b.block_stride +
         position % b.block_size * b.value_stride * element_size;
}

// What the caches are asked for while a tile is read: K and V of the next one, also of the next span. Its
// position groups are mostly pages of their own, and are asked for side by side in small portions: each is a
// stream of its own to the prefetchers of the hardware, and more at once would wait for each other.
struct NextGroups {
  static constexpr size_t kGroups = kTileTokens / kBlockTokens;
  const std::byte* keys[kGroups];
  const std::byte* values[kGroups];

  // Where no row wants a group, one of this tile stands in.
  NextGroups(const AttendBlock& b, size_t first, size_t element_size) {
    const size_t last = b.first_position + b.rows - 1;
    for (size_t i = 0; i < kGroups; ++i) {
      const size_t next = first + kTileTokens + i * kBlockTokens;
      keys[i] = group_key(b, next <= last ? next : first, element_size);
      values[i] = group_value(b, next <= last ? next : first, element_size);
    }
  }
  // Bytes [from, from + n) of the K or V of each group.
  template <class L>
  static void prefetch(const std::byte* const (&groups)[kGroups], size_t from, size_t n) {
    for (const std::byte* group : groups) {
      for (size_t i = 0; i < n; i += 64) L::prefetch_far(group + from + i);
    }
  }
};

// K of the tile's `count` positions, transposed; lanes of positions that are not there hold zeros or what
// lies behind.
template <class L, class Words>
void load_keys(const AttendBlock& b, size_t first, size_t count, const NextGroups& next, AttendMemory& m) {
  constexpr size_t kElement = 4 / Words::kPerWord;
  const size_t words = b.key_dim / Words::kPerWord;
  for (size_t t = 0; t < kTileTokens; t += kBlockTokens) {
    if (t >= count) {
      for (size_t w = 0; w < words; ++w)
        L::store(reinterpret_cast<float*>(m.keys + w * kTileTokens + t), L::zero());
      continue;
    }
    const uint32_t* base = reinterpret_cast<const uint32_t*>(group_key(b, first + t, kElement));
    const uint32_t* rows[kBlockTokens];
    for (size_t w = 0; w < words; w += kBlockTokens) {
      const size_t n = words - w < kBlockTokens ? words - w : kBlockTokens;
      NextGroups::prefetch<L>(next.keys, t * words + w * kBlockTokens, n * kBlockTokens);
      // Behind the last position the row of the last one stands in: those lanes are selected away.
      for (size_t i = 0; i < kBlockTokens; ++i) {
        rows[i] = base + (t + i < count ? i : count - 1 - t) * words + w;
      }
      L::transpose(rows, n, m.keys + w * kTileTokens + t, kTileTokens);
    }
  }
}

// V of the tile's `count` positions; bf16: positions joined in pairs, a missing odd one as zero.
template <class L, class Words>
void load_values(const AttendBlock& b, size_t first, size_t count, const NextGroups& next, AttendMemory& m) {
  constexpr size_t kElement = 4 / Words::kPerWord;
  static constexpr uint16_t kNone[kValueMax] = {};
  for (size_t group = 0; group < count; group += kBlockTokens) {
    const std::byte* base = group_value(b, first + group, kElement);
    for (size_t t = group; t < count && t < group + kBlockTokens; t += Words::kPerWord) {
      const size_t at = (t - group) * b.value_stride * kElement;
      uint32_t* out = m.values + t / Words::kPerWord * b.value_dim;
      const size_t share = b.value_stride * kElement / NextGroups::kGroups;
      NextGroups::prefetch<L>(next.values, t * share, Words::kPerWord * share);
      if constexpr (Words::kPerWord == 1) {
        __builtin_memcpy(out, base + at, b.value_dim * 4);
      } else {
        const uint16_t* even = reinterpret_cast<const uint16_t*>(base + at);
        L::join_rows(even, t + 1 < count ? even + b.value_stride : kNone, b.value_dim, out);
      }
    }
  }
}

// One vector's online softmax over a tile of which the first `valid` lanes count: turns its scores into
// weights, updates m and l and scales o.
template <class L, class Words>
void soften(const AttendBlock& b, AttendMemory& memory, const SoftmaxState& state, size_t vector,
            size_t valid) {
  const float* scores = memory.scores + vector * kTileTokens;
  const auto none = L::splat(-kInfinity);
  typename L::F s[4];
  for (size_t j = 0; j < 4; ++j) {
    const size_t lanes = valid <= j * 16 ? 0 : valid - j * 16 < 16 ? valid - j * 16 : 16;
    s[j] = L::first_n(L::mul(L::load(scores + j * 16), L::splat(b.scale_log2e)), lanes, none);
  }
  const float tile_max = L::max_lane(L::max(L::max(s[0], s[1]), L::max(s[2], s[3])));
  const float before = state.m[vector];
  const float after = before > tile_max ? before : tile_max;
  alignas(64) float factor[16];
  L::store(factor, exp2_lanes<L>(L::splat(before - after)));
  for (size_t j = 0; j < 4; ++j) {
    const size_t lanes = valid <= j * 16 ? 0 : valid - j * 16 < 16 ? valid - j * 16 : 16;
    s[j] = L::first_n(exp2_lanes<L>(L::sub(s[j], L::splat(after))), lanes, L::zero());
    uint32_t* out = memory.weights + vector * kTileTokens / Words::kPerWord + j * 16 / Words::kPerWord;
    if constexpr (Words::kPerWord == 1) {
      L::store(reinterpret_cast<float*>(out), s[j]);
    } else {
      L::store_bf16(reinterpret_cast<uint16_t*>(out), s[j]);
      s[j] = L::to_bf16_and_back(s[j]);
    }
  }
  const float sum = L::sum(L::add(L::add(s[0], s[1]), L::add(s[2], s[3])));
  state.m[vector] = after;
  state.l[vector] = __builtin_fmaf(state.l[vector], factor[0], sum);
  if (factor[0] == 1.0F) return;  // multiplying by one changes nothing
  float* o = state.o + vector * b.value_dim;
  for (size_t d = 0; d < b.value_dim; d += 16) L::store(o + d, L::mul(L::load(o + d), L::splat(factor[0])));
}

// One vector whose tile ends within: `valid` positions, in bf16 the last pair perhaps half.
template <class L, class Words>
void add_partial_values(const AttendBlock& b, AttendMemory& m, const SoftmaxState& state, size_t vector,
                        size_t valid) {
  const size_t whole = valid / Words::kPerWord;
  Panel p{.a = m.weights + vector * kTileTokens / Words::kPerWord,
          .a_stride = 0,
          .b = m.values,
          .b_stride = b.value_dim,
          .c = state.o + vector * b.value_dim,
          .c_stride = b.value_dim,
          .steps = whole,
          .accumulate = true};
  panel<L, Words>(p, 1, b.value_dim / 16);
  if (whole * Words::kPerWord == valid) return;
  const uint32_t* pair = m.values + whole * b.value_dim;
  for (size_t d = 0; d < b.value_dim; d += 16)
    L::store_words(m.edge + d, L::even_only(L::load_words(pair + d)));
  p.a += whole;
  p.b = m.edge;
  p.steps = 1;
  panel<L, Words>(p, 1, b.value_dim / 16);
}

// The tile of positions [first, first + kTileTokens) against all vectors that reach into it.
template <class L, class Words>
void attend_tile(const AttendBlock& b, size_t first, AttendMemory& m, const SoftmaxState& state) {
  const size_t vectors = b.rows * b.group;
  const size_t last = b.first_position + b.rows - 1;
  const size_t count = last - first + 1 < kTileTokens ? last - first + 1 : kTileTokens;
  // Rows before `begin` do not reach the tile, rows from `full` on see all of it.
  const size_t begin = b.first_position >= first ? 0 : (first - b.first_position) * b.group;
  const size_t end_of_tile = first + kTileTokens - 1;
  const size_t full_row = b.first_position >= end_of_tile ? 0 : end_of_tile - b.first_position;
  const size_t full = full_row < b.rows ? full_row * b.group : vectors;

  const NextGroups next(b, first, 4 / Words::kPerWord);
  load_keys<L, Words>(b, first, count, next, m);
  const size_t words = b.key_dim / Words::kPerWord;
  const Panel scores{.a = m.q + begin * words,
                     .a_stride = words,
                     .b = m.keys,
                     .b_stride = kTileTokens,
                     .c = m.scores + begin * kTileTokens,
                     .c_stride = kTileTokens,
                     .steps = words,
                     .accumulate = false};
  panel<L, Words>(scores, vectors - begin, kTileTokens / 16);
  load_values<L, Words>(b, first, count, next, m);
  for (size_t v = begin; v < full; ++v) {
    const size_t valid = b.first_position + v / b.group - first + 1;
    soften<L, Words>(b, m, state, v, valid);
    add_partial_values<L, Words>(b, m, state, v, valid);
  }
  for (size_t v = full; v < vectors; ++v) soften<L, Words>(b, m, state, v, kTileTokens);
  const Panel values{.a = m.weights + full * kTileTokens / Words::kPerWord,
                     .a_stride = kTileTokens / Words::kPerWord,
                     .b = m.values,
                     .b_stride = b.value_dim,
                     .c = state.o + full * b.value_dim,
                     .c_stride = b.value_dim,
                     .steps = kTileTokens / Words::kPerWord,
                     .accumulate = true};
  panel<L, Words>(values, vectors - full, b.value_dim / 16);
}

template <class L, class Words>
void attend_words(const AttendBlock& b, const SoftmaxState& state) {
  constexpr size_t kElement = 4 / Words::kPerWord;
  AttendMemory m;
  for (size_t r = 0; r < b.rows; ++r) {
    const std::byte* row = static_cast<const std::byte*>(b.q) + r * b.q_stride * kElement;
    const size_t bytes = b.group * b.key_dim * kElement;
    __builtin_memcpy(reinterpret_cast<std::byte*>(m.q) + r * bytes, row, bytes);
  }
  for (size_t v = 0; v < b.rows * b.group; ++v) {
    if (b.first_position + v / b.group < b.begin) continue;
    state.m[v] = -kInfinity;
    state.l[v] = 0;
    __builtin_memset(state.o + v * b.value_dim, 0, b.value_dim * sizeof(float));
  }
  const size_t last = b.first_position + b.rows - 1;
  for (size_t first = b.begin; first < b.end && first <= last; first += kTileTokens) {
    attend_tile<L, Words>(b, first, m, state);
  }
}

template <class L>
void attend(const AttendBlock& b, const SoftmaxState& state) {
  if (b.type == DType::kBf16) return attend_words<L, Bf16Words<L>>(b, state);
  attend_words<L, F32Words<L>>(b, state);
}

template <class L>
void merge_state(const SoftmaxState& left, const SoftmaxState& right, size_t value_dim) {
  const float m = *left.m > *right.m ? *left.m : *right.m;
  alignas(64) float a[16];
  alignas(64) float b[16];
  L::store(a, exp2_lanes<L>(L::splat(*left.m - m)));
  L::store(b, exp2_lanes<L>(L::splat(*right.m - m)));
  *left.m = m;
  *left.l = __builtin_fmaf(*left.l, a[0], *right.l * b[0]);
  for (size_t d = 0; d < value_dim; d += 16) {
    const auto scaled = L::mul(L::load(right.o + d), L::splat(b[0]));
    L::store(left.o + d, L::fma(L::load(left.o + d), L::splat(a[0]), scaled));
  }
}

template <class L>
void finish_state(const SoftmaxState& state, void* out, DType type, size_t value_dim) {
  const Writer<L> write{out, type};
  for (size_t d = 0; d < value_dim; d += 16) write(d, L::div(L::load(state.o + d), L::splat(*state.l)), 16);
}

}  // namespace
}  // namespace baton::kernels
