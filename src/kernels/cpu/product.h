// Matrix products over 16 lanes along K: tiles of rows x columns of accumulators, reduced together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/product_panel.h"

namespace baton::kernels {
namespace {

// The first n of 16 or 32 elements, padded with zeros.
template <class T, size_t kSize>
struct Padded {
  alignas(64) T elements[kSize] = {};
  Padded(const T* p, size_t n) { __builtin_memcpy(elements, p, n * sizeof(T)); }
};

// What a product multiplies: how a run of kRun elements of x and w enters the lanes.
template <class L>
struct Bf16Run {
  using X = uint16_t;
  using W = uint16_t;
  static constexpr size_t kRun = 32;
  static typename L::Pairs load_x(const X* x) { return L::load_pairs(x); }
  static typename L::Pairs load_w(const W* w) { return L::load_pairs(w); }
  static typename L::Pairs load_x(const X* x, size_t n) { return L::load_pairs_n(x, n); }
  static typename L::Pairs load_w(const W* w, size_t n) { return L::load_pairs_n(w, n); }
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
  static typename L::F load_x(const X* x, size_t n) { return L::load_n(x, n); }
  static typename L::F load_w(const W* w, size_t n) {
    const Padded<W, kRun> padded(w, n);
    return load_w(padded.elements);
  }
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
[[gnu::always_inline]] inline void push_slice(size_t slice, float* level, float* sums) {
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

// Adds the bias, rounds and stores a tile. `sums` holds whole vectors.
template <class L, int kRows, int kCols>
void store_tile(const ProductBlock& b, size_t row, size_t col, float* sums) {
  if (b.bias != nullptr) {
    for (size_t c = 0; c < kCols; ++c) {
      const float bias = element_as_float<L>(b.bias, b.bias_type, col + c);
      for (size_t r = 0; r < kRows; ++r) sums[r * kCols + c] += bias;
    }
  }
  constexpr size_t kVectors = (kRows * kCols + 15) / 16;
  const size_t at = row * b.y_stride + col;
  if (b.y_type == DType::kF32) {
    float* y = static_cast<float*>(b.y) + at;
    for (size_t r = 0; r < kRows; ++r) {
      __builtin_memcpy(y + r * b.y_stride, sums + r * kCols, kCols * sizeof(float));
    }
    return;
  }
  alignas(64) uint16_t rounded[kVectors * 16];
  for (size_t i = 0; i < kVectors; ++i) L::store_bf16(rounded + i * 16, L::load(sums + i * 16));
  uint16_t* y = static_cast<uint16_t*>(b.y) + at;
  for (size_t r = 0; r < kRows; ++r) {
    __builtin_memcpy(y + r * b.y_stride, rounded + r * kCols, kCols * sizeof(uint16_t));
  }
}

// The same for `cols` columns, at most 16, of one row.
template <class L>
void store_row(const ProductBlock& b, size_t row, size_t col, size_t cols, float* sums) {
  if (b.bias != nullptr) {
    for (size_t c = 0; c < cols; ++c) sums[c] += element_as_float<L>(b.bias, b.bias_type, col + c);
  }
  const size_t at = row * b.y_stride + col;
  if (b.y_type == DType::kF32) {
    float* y = static_cast<float*>(b.y) + at;
    if (cols == 16) return L::store(y, L::load(sums));
    __builtin_memcpy(y, sums, cols * sizeof(float));
    return;
  }
  if (cols == 16) return L::store_bf16(static_cast<uint16_t*>(b.y) + at, L::load(sums));
  alignas(64) uint16_t rounded[16];
  L::store_bf16(rounded, L::load(sums));
  __builtin_memcpy(static_cast<uint16_t*>(b.y) + at, rounded, cols * sizeof(uint16_t));
}

// Where the weights of a block come from: memory for its first tile of rows, the second-level cache after it.
enum class Source { kMemory, kCache };

// From memory the caches are asked for the columns of the next tile, run after run: in the order of memory if
// they lie without gaps.
template <class Run, int kCols>
struct NextTile {
  static constexpr size_t kRunBytes = Run::kRun * sizeof(typename Run::W);
  const std::byte* next;
  size_t run_step, column_step;  // bytes

  NextTile(const ProductBlock& b, size_t col)
      : next(static_cast<const std::byte*>(b.w) + (col + kCols) * b.w_stride * sizeof(typename Run::W)),
        run_step(b.w_stride == b.k ? kRunBytes * kCols : kRunBytes),
        column_step(b.w_stride == b.k ? kRunBytes : b.w_stride * sizeof(typename Run::W)) {}
};

// From the cache a tile asks for its own columns, that far ahead.
constexpr size_t kAheadBytes = 1024;

// sums[r * kCols + c] = the elements [begin, end) of row r of x times those of row c of w.
template <class L, class Run, int kRows, int kCols, Source kSource>
[[gnu::always_inline]] inline void slice_tile(const typename Run::X* const (&x)[kRows],
                                              const typename Run::W* const (&w)[kCols], size_t begin,
                                              size_t end, NextTile<Run, kCols>& ahead, float* sums) {
  typename L::F acc[kRows * kCols];
#pragma clang loop unroll(full)
  for (int a = 0; a < kRows * kCols; ++a) acc[a] = L::zero();
  size_t i = begin;
  for (; i + Run::kRun <= end; i += Run::kRun) {
    run_step<Run, kRows, kCols>(
        acc, [&](int r) { return Run::load_x(x[r] + i); },
        [&](int c) {
          if constexpr (kSource == Source::kCache) {
            L::prefetch(w[c] + i + kAheadBytes / sizeof(typename Run::W));
          } else if constexpr (kRows > 4) {  // there is time to fetch into the second level, which is larger
            L::prefetch_far(ahead.next + static_cast<size_t>(c) * ahead.column_step);
          } else {
            L::prefetch(ahead.next + static_cast<size_t>(c) * ahead.column_step);
          }
          return Run::load_w(w[c] + i);
        });
    if constexpr (kSource == Source::kMemory) ahead.next += ahead.run_step;
  }
  if (i < end) {
    run_step<Run, kRows, kCols>(
        acc, [&](int r) { return Run::load_x(x[r] + i, end - i); },
        [&](int c) { return Run::load_w(w[c] + i, end - i); });
  }
  L::template sums<kRows * kCols>(acc, sums);
}

template <class L, class Run, int kRows, int kCols, Source kSource>
[[gnu::noinline]] void product_tile(const ProductBlock& b, size_t row, size_t col) {
  constexpr int kCount = kRows * kCols;
  alignas(64) float sums[(kCount + 15) / 16 * 16] = {};
  alignas(64) float level[kTreeLevels * kCount];
  const typename Run::X* x[kRows];
  const typename Run::W* w[kCols];
#pragma clang loop unroll(full)
  for (size_t r = 0; r < kRows; ++r) x[r] = static_cast<const typename Run::X*>(b.x) + (row + r) * b.x_stride;
#pragma clang loop unroll(full)
  for (size_t c = 0; c < kCols; ++c) w[c] = static_cast<const typename Run::W*>(b.w) + (col + c) * b.w_stride;
  NextTile<Run, kCols> ahead(b, col);
  const size_t slices = b.slices;
  const size_t width = b.k / slices;
  for (size_t s = 0; s < slices; ++s) {
    slice_tile<L, Run, kRows, kCols, kSource>(x, w, s * width, (s + 1) * width, ahead, sums);
    if (slices > 1) push_slice<kCount>(s, level, sums);
  }
  store_tile<L, kRows, kCols>(b, row, col, sums);
}

// All columns of kRows rows.
template <class L, class Run, int kRows, Source kSource>
void product_rows(const ProductBlock& b, size_t row) {
  size_t col = 0;
  for (; col + L::kTileCols <= b.cols; col += L::kTileCols) {
    product_tile<L, Run, kRows, L::kTileCols, kSource>(b, row, col);
  }
  for (; col < b.cols; ++col) product_tile<L, Run, kRows, 1, kSource>(b, row, col);
}

// The rows behind the last whole tile.
template <class L, class Run>
void last_rows(const ProductBlock& b, size_t row) {
  const size_t rows = b.rows - row;
  if (rows == 1) product_rows<L, Run, 1, Source::kCache>(b, row);
  if constexpr (L::kTileRows > 2) {
    if (rows == 2) product_rows<L, Run, 2, Source::kCache>(b, row);
    if (rows == 3) product_rows<L, Run, 3, Source::kCache>(b, row);
    if (rows == 4) product_rows<L, Run, 4, Source::kCache>(b, row);
    if (rows == 5) product_rows<L, Run, 5, Source::kCache>(b, row);
  }
}

// Weights of which each is used for a few rows only are read as `kStreams` streams, a row of w after the
// other in each: every stream has a prefetcher of the hardware to itself as long as the streams are many
// pages apart (not so for neighbouring rows), gives some lines before the next one's turn, and is asked for a
// little ahead, since those prefetchers stop at page ends. kernels/peaks.h measures with the same pattern.
constexpr size_t kLanes = 16;
constexpr size_t kStreamSums =
    4 * kLanes;  // columns x slices of a row and stream whose sums meet in one tree

// acc[r * kStreams + c] = the first n elements of row r of x times those at w[c] + from.
template <class L, class Run, int kRows, int kStreams>
[[gnu::always_inline]] inline void stream_slice(const typename Run::X* x, size_t x_stride,
                                                const typename Run::W* const (&w)[kStreams], size_t from,
                                                size_t n, typename L::F* acc) {
#pragma clang loop unroll(full)
  for (int a = 0; a < kRows * kStreams; ++a) acc[a] = L::zero();
  // Some runs of a stream before the next one's turn.
  const auto steps = [&]<size_t kSteps>(size_t at, std::integral_constant<size_t, kSteps>) {
#pragma clang loop unroll(full)
    for (size_t c = 0; c < kStreams; ++c) {
#pragma clang loop unroll(full)
      for (size_t u = 0; u < kSteps; ++u) {
        const size_t here = at + u * Run::kRun;
        L::prefetch_far(w[c] + from + here + kStreamFarBytes / sizeof(typename Run::W));
        L::prefetch(w[c] + from + here + kStreamNearBytes / sizeof(typename Run::W));
        const auto column = Run::load_w(w[c] + from + here);
#pragma clang loop unroll(full)
        for (size_t r = 0; r < kRows; ++r) {
          auto& sum = acc[r * kStreams + c];
          sum = Run::step(sum, Run::load_x(x + r * x_stride + here), column);
        }
      }
    }
  };
  size_t i = 0;
  for (; i + 8 * Run::kRun <= n; i += 8 * Run::kRun) steps(i, std::integral_constant<size_t, 8>());
  for (; i + 6 * Run::kRun <= n; i += 6 * Run::kRun) steps(i, std::integral_constant<size_t, 6>());
  for (; i + 4 * Run::kRun <= n; i += 4 * Run::kRun) steps(i, std::integral_constant<size_t, 4>());
  for (; i + 2 * Run::kRun <= n; i += 2 * Run::kRun) steps(i, std::integral_constant<size_t, 2>());
  for (; i + Run::kRun <= n; i += Run::kRun) steps(i, std::integral_constant<size_t, 1>());
  if (i < n) {
    run_step<Run, kRows, kStreams>(
        acc, [&](int r) { return Run::load_x(x + static_cast<size_t>(r) * x_stride + i, n - i); },
        [&](int c) { return Run::load_w(w[c] + from + i, n - i); });
  }
}

// sums[column * slices + slice] -> sums[column], for n sums: the binary tree of neighbours.
template <class L>
void add_slices(size_t slices, size_t n, float* sums) {
  for (; slices > 1; slices /= 2) {
    n /= 2;
    for (size_t i = 0; i < n; i += kLanes) {
      L::store(sums + i, L::add_neighbours(L::load(sums + 2 * i), L::load(sums + 2 * i + kLanes)));
    }
  }
}

// `cols` columns, at most kStreamSums / slices, from each of the columns col, col + apart, ... on.
template <class L, class Run, int kRows, int kStreams>
[[gnu::noinline]] void stream_tile(const ProductBlock& b, size_t row, size_t col, size_t apart, size_t cols) {
  constexpr int kCount = kRows * kStreams;
  const auto* x = static_cast<const typename Run::X*>(b.x) + row * b.x_stride;
  const typename Run::W* w[kStreams];
#pragma clang loop unroll(full)
  for (size_t c = 0; c < kStreams; ++c) {
    w[c] = static_cast<const typename Run::W*>(b.w) + (col + c * apart) * b.w_stride;
  }
  const size_t slices = b.slices;
  const size_t width = b.k / slices;
  const size_t count = cols * slices;
  alignas(64) float sums[kCount][kStreamSums + kLanes];  // a vector more: the right half of a last pair
  size_t slice = 0;
  size_t from = 0;  // of the slice in w
  for (size_t n = 0; n < count; n += kLanes) {
    typename L::F lanes[kCount][kLanes];
    for (size_t i = 0; i < kLanes; ++i) {
      typename L::F acc[kCount];
      if (n + i < count) {
        stream_slice<L, Run, kRows, kStreams>(x + slice * width, b.x_stride, w, from, width, acc);
        const bool wraps = ++slice == slices;
        from += wraps ? width + b.w_stride - b.k : width;
        if (wraps) slice = 0;
      } else {
#pragma clang loop unroll(full)
        for (int a = 0; a < kCount; ++a) acc[a] = L::zero();
      }
#pragma clang loop unroll(full)
      for (int a = 0; a < kCount; ++a) lanes[a][i] = acc[a];
    }
    for (int a = 0; a < kCount; ++a) L::template sums<kLanes>(lanes[a], sums[a] + n);
  }
  for (size_t a = 0; a < kCount; ++a) {
    L::store(sums[a] + (count + kLanes - 1) / kLanes * kLanes, L::zero());
    add_slices<L>(slices, count, sums[a]);
    const size_t first = col + a % kStreams * apart;
    for (size_t c = 0; c < cols; c += kLanes) {
      store_row<L>(b, row + a / kStreams, first + c, cols - c < kLanes ? cols - c : kLanes, sums[a] + c);
    }
  }
}

// Columns [begin, end) of kRows rows.
template <class L, class Run, int kRows, int kStreams>
void stream_columns(const ProductBlock& b, size_t row, size_t begin, size_t end) {
  const size_t apart = (end - begin) / kStreams;
  const size_t step = kStreamSums / b.slices;
  for (size_t col = 0; col < apart; col += step) {
    const size_t cols = apart - col < step ? apart - col : step;
    stream_tile<L, Run, kRows, kStreams>(b, row, begin + col, apart, cols);
  }
  if constexpr (kStreams > 1) stream_columns<L, Run, kRows, 1>(b, row, begin + kStreams * apart, end);
}

template <class L, class Run, int kRows>
void stream_rows(const ProductBlock& b, size_t row) {
  constexpr int kStreams = kRows <= 2 ? 4 : 2;  // what the registers and the nearest cache hold
  stream_columns<L, Run, kRows, kStreams>(b, row, 0, b.cols);
}

// Fewer rows than a tile has.
template <class L, class Run>
void few_rows(const ProductBlock& b) {
  if (b.rows == 1) stream_rows<L, Run, 1>(b, 0);
  if constexpr (L::kTileRows > 2) {
    if (b.rows == 2) stream_rows<L, Run, 2>(b, 0);
    if (b.rows == 3) stream_rows<L, Run, 3>(b, 0);
    if (b.rows == 4) stream_rows<L, Run, 4>(b, 0);
    if (b.rows == 5) stream_rows<L, Run, 5>(b, 0);
  }
}

// Rows a multiple of 4 KiB apart would all want the same few places of the nearest cache: there a tile of x
// is copied to rows a line further apart.
constexpr size_t kSetStride = 4096;
constexpr size_t kSpreadElements = 4096 + 32;

template <class L, class Run>
void spread_rows(const ProductBlock& b, size_t row) {
  using X = typename Run::X;
  constexpr size_t kRows = L::kTileRows;
  alignas(64) X spread[kRows * kSpreadElements];
  ProductBlock tile = b;
  tile.x = spread;
  tile.x_stride = b.k + 64 / sizeof(X);
  tile.y = static_cast<std::byte*>(b.y) + row * b.y_stride * (b.y_type == DType::kF32 ? 4 : 2);
  for (size_t r = 0; r < kRows; ++r) {
    __builtin_memcpy(spread + r * tile.x_stride, static_cast<const X*>(b.x) + (row + r) * b.x_stride,
                     b.k * sizeof(X));
  }
  product_rows<L, Run, kRows, Source::kCache>(tile, 0);
}

template <class L, class Run>
void product_of(const ProductBlock& b) {
  constexpr size_t kRows = L::kTileRows;
  if (b.rows < kRows) return few_rows<L, Run>(b);
  product_rows<L, Run, kRows, Source::kMemory>(b, 0);
  const bool spread = b.x_stride * sizeof(typename Run::X) % kSetStride == 0 && b.k + 32 <= kSpreadElements;
  size_t row = kRows;
  for (; row + kRows <= b.rows; row += kRows) {
    if (spread) {
      spread_rows<L, Run>(b, row);
    } else {
      product_rows<L, Run, kRows, Source::kCache>(b, row);
    }
  }
  last_rows<L, Run>(b, row);
}

template <class L>
void bf16_product(ProductBlock b) {
  if constexpr (L::kPacksPanels) {
    while (fits_panels<L>(b)) {
      const size_t done = panel_product<L>(b);
      b.w = static_cast<const uint16_t*>(b.w) + done * b.w_stride;
      b.y = static_cast<std::byte*>(b.y) + done * (b.y_type == DType::kF32 ? 4 : 2);
      if (b.bias != nullptr)
        b.bias = static_cast<const std::byte*>(b.bias) + done * (b.bias_type == DType::kF32 ? 4 : 2);
      b.cols -= done;
    }
    if (b.cols == 0) return;
  }
  product_of<L, Bf16Run<L>>(b);
}

template <class L>
void product(const ProductBlock& b) {
  if (b.x_type == DType::kBf16) return bf16_product<L>(b);
  if (b.w_type == DType::kF32) return product_of<L, F32Run<L, F32Weight>>(b);
  if (b.w_type == DType::kBf16) return product_of<L, F32Run<L, Bf16Weight>>(b);
  return product_of<L, F32Run<L, F16Weight>>(b);
}

}  // namespace
}  // namespace baton::kernels
