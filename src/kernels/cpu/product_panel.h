// Products of many bf16 rows: the weights of a block are first packed into panels whose vectors hold one lane
// (kernels/linear.h) of 16 columns. A lane's chain is then a broadcast pair of x times packed vectors, and
// the tree over lanes and slices adds whole vectors: no shuffle per row, however short the slices are.
//
//   panel   [slice][leaf][run][lane of the leaf][column], a leaf being two lanes that the tree of halves adds
//
// The leaves of a slice and then the slices are added as one binary tree of neighbours: the tree of halves in
// the order of kTreeLane, and above it that over the slices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/row_ops.h"

namespace baton::kernels {
namespace {

constexpr size_t kPanelRun = 32;  // elements of K that meet the 16 lanes once
constexpr size_t kLeafLanes = 2;  // lanes whose chains run side by side
constexpr size_t kSliceLeaves = 16 / kLeafLanes;
constexpr size_t kPanelAheadWords = 256;  // of a panel, which comes from the second-level cache
constexpr size_t kPanelTreeLevels = 8;    // leaves of up to 16 slices
constexpr size_t kPanelVectors = kPanelColumns / 16;
// The lanes in the order in which the tree of halves adds neighbours; an involution.
constexpr size_t kTreeLane[16] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

// 16 columns from `col` on into vector `vector` of each group of kPanelColumns columns of `panel`.
template <class L>
void pack_columns(const ProductBlock& b, size_t col, size_t vector, uint32_t* panel) {
  const auto* w = static_cast<const uint16_t*>(b.w) + col * b.w_stride;
  const size_t runs = b.k / b.slices / kPanelRun;
  alignas(64) uint32_t lanes[16 * 16];
  const uint32_t* rows[16];
  for (size_t run = 0; run < runs * b.slices; ++run) {
    for (size_t c = 0; c < 16; ++c) {
      rows[c] = reinterpret_cast<const uint32_t*>(w + c * b.w_stride + run * kPanelRun);
      L::prefetch_far(w + (c + 16) * b.w_stride + run * kPanelRun);  // the next 16 columns
    }
    L::transpose(rows, 16, lanes, 16);
    uint32_t* slice = panel + run / runs * runs * 16 * kPanelColumns + vector * 16;
    for (size_t i = 0; i < 16; ++i) {
      const size_t at = (i / kLeafLanes * runs + run % runs) * kLeafLanes + i % kLeafLanes;
      L::store_words(slice + at * kPanelColumns, L::load_words(lanes + kTreeLane[i] * 16));
    }
  }
}

// One leaf: its lanes' chains over a slice, added; then the finished subtrees before it. level[j] holds one
// of 2^j leaves.
template <class L, int kRows, size_t kLeaf>
[[gnu::always_inline]] inline void panel_leaf(const uint16_t* x, size_t x_stride, const uint32_t* w,
                                              size_t runs, size_t slice, float* level) {
  constexpr size_t kSums = kRows * kPanelVectors;
  typename L::F acc[kLeafLanes * kSums];
#pragma clang loop unroll(full)
  for (size_t i = 0; i < kLeafLanes * kSums; ++i) acc[i] = L::zero();
  do {
#pragma clang loop unroll(full)
    for (size_t lane = 0; lane < kLeafLanes; ++lane) {
      typename L::Pairs columns[kPanelVectors];
#pragma clang loop unroll(full)
      for (size_t v = 0; v < kPanelVectors; ++v) {
        L::prefetch(w + v * 16 + kPanelAheadWords);
        columns[v] = L::load_words(w + v * 16);
      }
      w += kPanelColumns;
#pragma clang loop unroll(full)
      for (size_t r = 0; r < kRows; ++r) {
        const auto pair = L::splat_pair(x + r * x_stride + 2 * kTreeLane[kLeaf * kLeafLanes + lane]);
#pragma clang loop unroll(full)
        for (size_t v = 0; v < kPanelVectors; ++v) {
          auto& sum = acc[lane * kSums + r * kPanelVectors + v];
          sum = L::dot(sum, pair, columns[v]);
        }
      }
    }
    x += kPanelRun;
  } while (--runs != 0);
#pragma clang loop unroll(full)
  for (size_t apart = 1; apart < kLeafLanes; apart *= 2) {
#pragma clang loop unroll(full)
    for (size_t lane = 0; lane < kLeafLanes; lane += 2 * apart) {
#pragma clang loop unroll(full)
      for (size_t i = 0; i < kSums; ++i) {
        acc[lane * kSums + i] = L::add(acc[lane * kSums + i], acc[(lane + apart) * kSums + i]);
      }
    }
  }
  const auto fold = [&](size_t j) {
#pragma clang loop unroll(full)
    for (size_t i = 0; i < kSums; ++i) acc[i] = L::add(L::load(level + (j * kSums + i) * 16), acc[i]);
  };
  size_t j = 0;
#pragma clang loop unroll(full)
  for (; (kLeaf >> j & 1) != 0; ++j) fold(j);
  if constexpr (kLeaf + 1 == kSliceLeaves) {
    for (size_t left = slice; (left & 1) != 0; left /= 2) fold(j++);
  }
#pragma clang loop unroll(full)
  for (size_t i = 0; i < kSums; ++i) L::store(level + (j * kSums + i) * 16, acc[i]);
}

template <class L, int kRows, size_t... kLeaf>
[[gnu::always_inline]] inline void panel_slice(const uint16_t* x, size_t x_stride, const uint32_t* w,
                                               size_t runs, size_t slice, float* level,
                                               std::index_sequence<kLeaf...> /*leaves*/) {
  (panel_leaf<L, kRows, kLeaf>(x, x_stride, w + kLeaf * runs * kLeafLanes * kPanelColumns, runs, slice,
                               level),
   ...);
}

template <class L, int kRows>
[[gnu::noinline]] void panel_product_tile(const ProductBlock& b, const uint32_t* panel, size_t row,
                                          size_t col) {
  constexpr size_t kSums = kRows * kPanelVectors;
  alignas(64) float level[kPanelTreeLevels * kSums * 16];
  const auto* x = static_cast<const uint16_t*>(b.x) + row * b.x_stride;
  const size_t width = b.k / b.slices;
  for (size_t slice = 0; slice < b.slices; ++slice) {
    panel_slice<L, kRows>(x + slice * width, b.x_stride, panel + slice * width / 2 * kPanelColumns,
                          width / kPanelRun, slice, level, std::make_index_sequence<kSliceLeaves>());
  }
  size_t top = 0;
  while ((size_t{1} << top) < kSliceLeaves * b.slices) ++top;
  const Reader<L> bias{b.bias, b.bias_type};
  const Writer<L> y{b.y, b.y_type};
  for (size_t i = 0; i < kSums; ++i) {
    const size_t column = col + i % kPanelVectors * 16;
    auto sum = L::load(level + (top * kSums + i) * 16);
    if (b.bias != nullptr) sum = L::add(sum, bias(column));
    y((row + i / kPanelVectors) * b.y_stride + column, sum, 16);
  }
}

template <class L, int kRows>
void panel_product_rows(const ProductBlock& b, const uint32_t* panels, size_t row, size_t cols) {
  for (size_t col = 0; col < cols; col += kPanelColumns)
    panel_product_tile<L, kRows>(b, panels + col * b.k / 2, row, col);
}

template <class L>
bool fits_panels(const ProductBlock& b) {
  return b.rows >= (b.slices > 1 ? kPanelRowsSliced : kPanelRowsWhole) && b.cols >= kPanelColumns &&
         b.k % (b.slices * kPanelRun) == 0 && b.k * kPanelColumns * sizeof(uint16_t) <= kPanelBytesMax;
}

// Whole panels of columns, as many as kPanelBytesMax holds; returns how many columns are done.
template <class L>
[[gnu::noinline]] size_t panel_product(const ProductBlock& b) {
  alignas(64) uint32_t panels[kPanelBytesMax / sizeof(uint32_t)];
  const size_t room = kPanelBytesMax / sizeof(uint16_t) / b.k;
  const size_t cols = (room < b.cols ? room : b.cols) / kPanelColumns * kPanelColumns;
  for (size_t col = 0; col < cols; col += 16) {
    pack_columns<L>(b, col, col % kPanelColumns / 16, panels + col / kPanelColumns * kPanelColumns * b.k / 2);
  }
  size_t row = 0;
  for (; row + 6 <= b.rows; row += 6) panel_product_rows<L, 6>(b, panels, row, cols);
  const size_t rest = b.rows - row;
  if (rest == 5) panel_product_rows<L, 5>(b, panels, row, cols);
  if (rest == 4) panel_product_rows<L, 4>(b, panels, row, cols);
  if (rest == 3) panel_product_rows<L, 3>(b, panels, row, cols);
  if (rest == 2) panel_product_rows<L, 2>(b, panels, row, cols);
  if (rest == 1) panel_product_rows<L, 1>(b, panels, row, cols);
  return cols;
}

}  // namespace
}  // namespace baton::kernels
