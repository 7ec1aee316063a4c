// Matrix products over 16 lanes along K: tiles of rows x columns of accumulators, reduced together.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/ops.h"

namespace baton::kernels {
namespace {

// What a product multiplies: how a run of kRun elements of x and w enters the lanes.
template <class L>
struct Bf16Run {
  using X = uint16_t;
  using W = uint16_t;
  static constexpr size_t kRun = 32;
  static typename L::Pairs load_x(const X* x) { return L::load_pairs(x); }
  static typename L::Pairs load_w(const W* w) { return L::load_pairs(w); }
  static typename L::F step(typename L::F acc, typename L::Pairs x, typename L::Pairs w) {
    return L::dot(acc, x, w);
  }
};

template <class L, class Weight>
struct F32Run {
  using X = float;
  using W = typename Weight::Element;
  static constexpr size_t kRun = 16;
  static typename L::F load_x(const X* x) { return L::load(x); }
  static typename L::F load_w(const W* w) { return Weight::template load<L>(w); }
  static typename L::F step(typename L::F acc, typename L::F x, typename L::F w) { return L::fma(x, w, acc); }
};

struct F32Weight {
  using Element = float;
  template <class L>
  static typename L::F load(const float* p) {
    return L::load(p);
  }
};
struct Bf16Weight {
  using Element = uint16_t;
  template <class L>
  static typename L::F load(const uint16_t* p) {
    return L::load_bf16(p);
  }
};
struct F16Weight {
  using Element = uint16_t;
  template <class L>
  static typename L::F load(const uint16_t* p) {
    return L::load_f16(p);
  }
};

// Accumulators live in registers only if every loop over them is unrolled: hence the pragmas below.

// The last run, shorter than kRun, padded with zeros.
template <class T, size_t kRun>
struct Padded {
  alignas(64) T elements[kRun] = {};
  Padded(const T* p, size_t n) { __builtin_memcpy(elements, p, n * sizeof(T)); }
};

// One run of a tile: acc[r * kCols + c] += x[r] . w[c], rows and columns read by load_x(r) and load_w(c).
template <class Run, int kRows, int kCols, class F, class LoadX, class LoadW>
[[gnu::always_inline]] inline void run_step(F* acc, LoadX load_x, LoadW load_w) {
  decltype(load_w(0)) column[kCols];
#pragma clang loop unroll(full)
  for (int c = 0; c < kCols; ++c) column[c] = load_w(c);
#pragma clang loop unroll(full)
  for (int r = 0; r < kRows; ++r) {
    const auto row = load_x(r);
#pragma clang loop unroll(full)
    for (int c = 0; c < kCols; ++c) acc[r * kCols + c] = Run::step(acc[r * kCols + c], row, column[c]);
  }
}

// The binary tree of neighbours over the slices of one tile: level[j] holds a finished subtree of 2^j slices.
// After the last slice `sums` is the whole.
constexpr int kTreeLevels = 5;  // up to 16 slices
template <int kCount>
void push_slice(size_t slice, float* level, float* sums) {
  int j = 0;
  for (; (slice >> j & 1) != 0; ++j) {
    for (int i = 0; i < kCount; ++i) sums[i] = level[j * kCount + i] + sums[i];
  }
  for (int i = 0; i < kCount; ++i) level[j * kCount + i] = sums[i];
}

template <class L>
float element_as_float(const void* p, DType type, size_t i) {
  alignas(64) float lanes[16];
  if (type == DType::kF32) return static_cast<const float*>(p)[i];
  alignas(64) uint16_t padded[16] = {static_cast<const uint16_t*>(p)[i]};
  L::store(lanes, type == DType::kBf16 ? L::load_bf16(padded) : L::load_f16(padded));
  return lanes[0];
}

// Stores the first `rows` x `cols` of a tile of kRows x kCols: adds the bias and rounds. `sums` holds whole
// vectors.
template <class L, int kRows, int kCols>
void store_tile(const ProductBlock& b, size_t row, size_t col, size_t rows, size_t cols, float* sums) {
  if (b.bias != nullptr) {
    for (size_t c = 0; c < cols; ++c) {
      const float bias = element_as_float<L>(b.bias, b.bias_type, col + c);
      for (size_t r = 0; r < kRows; ++r) sums[r * kCols + c] += bias;
    }
  }
  constexpr size_t kVectors = (kRows * kCols + 15) / 16;
  const size_t at = row * b.y_stride + col;
  if (b.y_type == DType::kF32) {
    float* y = static_cast<float*>(b.y) + at;
    for (size_t r = 0; r < rows; ++r) {
      __builtin_memcpy(y + r * b.y_stride, sums + r * kCols, cols * sizeof(float));
    }
    return;
  }
  alignas(64) uint16_t rounded[kVectors * 16];
  for (size_t i = 0; i < kVectors; ++i) L::store_bf16(rounded + i * 16, L::load(sums + i * 16));
  uint16_t* y = static_cast<uint16_t*>(b.y) + at;
  for (size_t r = 0; r < rows; ++r) {
    __builtin_memcpy(y + r * b.y_stride, rounded + r * kCols, cols * sizeof(uint16_t));
  }
}

// How far ahead of the reads of each column the caches are asked for it.
constexpr size_t kAheadBytes = 1024;

// sums[r * kCols + c] = the slice [0, k) of row r of x times row c of w. `ahead`: from an element that is
// read to the one that is wanted soon.
template <class L, class Run, int kRows, int kCols>
void slice_tile(const typename Run::X* const* x_rows, const typename Run::W* const* w_rows, size_t k,
                size_t ahead, float* sums) {
  typename L::F acc[kRows * kCols];
  const typename Run::X* x[kRows];
  const typename Run::W* w[kCols];
#pragma clang loop unroll(full)
  for (int r = 0; r < kRows; ++r) x[r] = x_rows[r];
#pragma clang loop unroll(full)
  for (int c = 0; c < kCols; ++c) w[c] = w_rows[c];
#pragma clang loop unroll(full)
  for (int a = 0; a < kRows * kCols; ++a) acc[a] = L::zero();
  size_t i = 0;
  for (; i + Run::kRun <= k; i += Run::kRun) {
    run_step<Run, kRows, kCols>(
        acc, [&](int r) { return Run::load_x(x[r] + i); },
        [&](int c) {
          L::prefetch(w[c] + i + ahead);
          return Run::load_w(w[c] + i);
        });
  }
  if (i < k) {
    run_step<Run, kRows, kCols>(
        acc,
        [&](int r) {
          const Padded<typename Run::X, Run::kRun> row(x[r] + i, k - i);
          return Run::load_x(row.elements);
        },
        [&](int c) {
          const Padded<typename Run::W, Run::kRun> column(w[c] + i, k - i);
          return Run::load_w(column.elements);
        });
  }
  L::template sums<kRows * kCols>(acc, sums);
}

template <class L, class Run, int kRows, int kCols>
void product_tile(const ProductBlock& b, size_t row, size_t col) {
  constexpr int kCount = kRows * kCols;
  constexpr size_t kAhead = kAheadBytes / sizeof(typename Run::W);
  alignas(64) float sums[(kCount + 15) / 16 * 16] = {};
  float level[kTreeLevels * kCount];
  const size_t width = b.k / b.slices;
  const typename Run::X* x[kRows];
  const typename Run::W* w[kCols];
  for (size_t s = 0; s < b.slices; ++s) {
    for (size_t r = 0; r < kRows; ++r) {
      x[r] = static_cast<const typename Run::X*>(b.x) + (row + r) * b.x_stride + s * width;
    }
    for (size_t c = 0; c < kCols; ++c) {
      w[c] = static_cast<const typename Run::W*>(b.w) + (col + c) * b.w_stride + s * width;
    }
    slice_tile<L, Run, kRows, kCols>(x, w, width, kAhead, sums);
    if (b.slices > 1) push_slice<kCount>(s, level, sums);
  }
  store_tile<L, kRows, kCols>(b, row, col, kRows, kCols, sums);
}

template <class L, class Run, int kRows>
void product_rows(const ProductBlock& b, size_t row) {
  size_t col = 0;
  for (; col + L::kTileCols <= b.cols; col += L::kTileCols) {
    product_tile<L, Run, kRows, L::kTileCols>(b, row, col);
  }
  for (; col < b.cols; ++col) product_tile<L, Run, kRows, 1>(b, row, col);
}

template <class L, class Run>
void product_of(const ProductBlock& b) {
  size_t row = 0;
  for (; row + L::kTileRows <= b.rows; row += L::kTileRows) product_rows<L, Run, L::kTileRows>(b, row);
  const size_t rest = b.rows - row;
  if (rest == 1) product_rows<L, Run, 1>(b, row);
  if constexpr (L::kTileRows > 2) {
    if (rest == 2) product_rows<L, Run, 2>(b, row);
    if (rest == 3) product_rows<L, Run, 3>(b, row);
    if (rest == 4) product_rows<L, Run, 4>(b, row);
    if (rest == 5) product_rows<L, Run, 5>(b, row);
  }
}

template <class L>
void product(const ProductBlock& b) {
  if (b.x_type == DType::kBf16) return product_of<L, Bf16Run<L>>(b);
  if (b.w_type == DType::kF32) return product_of<L, F32Run<L, F32Weight>>(b);
  if (b.w_type == DType::kBf16) return product_of<L, F32Run<L, Bf16Weight>>(b);
  return product_of<L, F32Run<L, F16Weight>>(b);
}

}  // namespace
}  // namespace baton::kernels
