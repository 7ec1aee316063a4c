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

// The last run, shorter than kRun, padded with zeros.
template <class T, size_t kRun>
struct Padded {
  alignas(64) T elements[kRun] = {};
  Padded(const T* p, size_t n) { __builtin_memcpy(elements, p, n * sizeof(T)); }
};

// How far ahead of the weights' reads the caches are asked for them, in elements of a row.
constexpr size_t kPrefetchRuns = 16;

// sums[r * kCols + c] = the slice [0, k) of row r of x times row c of w.
template <class L, class Run, int kRows, int kCols>
void slice_tile(const typename Run::X* const x[kRows], const typename Run::W* const w[kCols], size_t k,
                float* sums) {
  typename L::F acc[kRows * kCols];
  for (auto& a : acc) a = L::zero();
  size_t i = 0;
  for (; i + Run::kRun <= k; i += Run::kRun) {
    decltype(Run::load_w(w[0])) column[kCols];
    for (int c = 0; c < kCols; ++c) {
      column[c] = Run::load_w(w[c] + i);
      if constexpr (kRows == 1) L::prefetch(w[c] + i + kPrefetchRuns * Run::kRun);
    }
    for (int r = 0; r < kRows; ++r) {
      const auto row = Run::load_x(x[r] + i);
      for (int c = 0; c < kCols; ++c) acc[r * kCols + c] = Run::step(acc[r * kCols + c], row, column[c]);
    }
  }
  if (i < k) {
    for (int r = 0; r < kRows; ++r) {
      const Padded<typename Run::X, Run::kRun> row(x[r] + i, k - i);
      for (int c = 0; c < kCols; ++c) {
        const Padded<typename Run::W, Run::kRun> column(w[c] + i, k - i);
        acc[r * kCols + c] =
            Run::step(acc[r * kCols + c], Run::load_x(row.elements), Run::load_w(column.elements));
      }
    }
  }
  L::template sums<kRows * kCols>(acc, sums);
}

// The whole of K: slices summed as a binary tree of neighbours. level[j] holds a finished subtree of 2^j
// slices.
template <class L, class Run, int kRows, int kCols>
void tile(const typename Run::X* const x_rows[kRows], const typename Run::W* const w_rows[kCols], size_t k,
          size_t slices, float* sums) {
  if (slices == 1) return slice_tile<L, Run, kRows, kCols>(x_rows, w_rows, k, sums);
  constexpr int kCount = kRows * kCols;
  constexpr int kLevels = 5;  // up to 16 slices
  float level[kLevels][kCount];
  const size_t width = k / slices;
  for (size_t s = 0; s < slices; ++s) {
    const typename Run::X* x[kRows];
    const typename Run::W* w[kCols];
    for (int r = 0; r < kRows; ++r) x[r] = x_rows[r] + s * width;
    for (int c = 0; c < kCols; ++c) w[c] = w_rows[c] + s * width;
    slice_tile<L, Run, kRows, kCols>(x, w, width, sums);
    int j = 0;
    for (; (s >> j & 1) != 0; ++j) {
      for (int i = 0; i < kCount; ++i) sums[i] = level[j][i] + sums[i];
    }
    for (int i = 0; i < kCount; ++i) level[j][i] = sums[i];
  }
}

template <class L>
float element_as_float(const void* p, DType type, size_t i) {
  alignas(64) float lanes[16];
  if (type == DType::kF32) return static_cast<const float*>(p)[i];
  alignas(64) uint16_t padded[16] = {static_cast<const uint16_t*>(p)[i]};
  L::store(lanes, type == DType::kBf16 ? L::load_bf16(padded) : L::load_f16(padded));
  return lanes[0];
}

// Stores one tile: adds the bias and rounds.
template <class L>
void store_tile(const ProductBlock& b, size_t row, size_t col, size_t rows, size_t cols, const float* sums) {
  for (size_t r = 0; r < rows; ++r) {
    alignas(64) float line[16] = {};
    for (size_t c = 0; c < cols; ++c) {
      line[c] = sums[r * cols + c];
      if (b.bias != nullptr) line[c] += element_as_float<L>(b.bias, b.bias_type, col + c);
    }
    const size_t at = (row + r) * b.y_stride + col;
    if (b.y_type == DType::kF32) {
      __builtin_memcpy(static_cast<float*>(b.y) + at, line, cols * sizeof(float));
    } else {
      alignas(32) uint16_t rounded[16];
      L::store_bf16(rounded, L::load(line));
      __builtin_memcpy(static_cast<uint16_t*>(b.y) + at, rounded, cols * sizeof(uint16_t));
    }
  }
}

template <class L, class Run, int kRows, int kCols>
void product_tile(const ProductBlock& b, size_t row, size_t col) {
  const typename Run::X* x[kRows];
  const typename Run::W* w[kCols];
  for (int r = 0; r < kRows; ++r) {
    x[r] = static_cast<const typename Run::X*>(b.x) + (row + static_cast<size_t>(r)) * b.x_stride;
  }
  for (int c = 0; c < kCols; ++c) {
    w[c] = static_cast<const typename Run::W*>(b.w) + (col + static_cast<size_t>(c)) * b.w_stride;
  }
  alignas(64) float sums[(kRows * kCols + 15) / 16 * 16];
  tile<L, Run, kRows, kCols>(x, w, b.k, b.slices, sums);
  store_tile<L>(b, row, col, kRows, kCols, sums);
}

// All columns of kRows rows: the rows of x stay in the nearest cache, the weights stream by.
template <class L, class Run, int kRows>
void product_rows(const ProductBlock& b, size_t row) {
  size_t col = 0;
  for (; col + L::kTileCols <= b.cols; col += L::kTileCols)
    product_tile<L, Run, kRows, L::kTileCols>(b, row, col);
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
