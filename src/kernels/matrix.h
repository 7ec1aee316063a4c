// Views of row-major matrices: no ownership, no arithmetic. A matrix may be a window of a wider one, so that
// a range of heads, of experts or of a K slice is a view and not a copy.
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include "base/check.h"
#include "base/dtype.h"

namespace baton::kernels {

// [rows, cols]; row r starts `stride` elements after row r - 1. Alignment: that of the element.
struct ConstMatrix {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  size_t rows = 0;
  size_t cols = 0;
  size_t stride = 0;

  ConstMatrix row_range(size_t first, size_t count) const {
    CHECK(first + count <= rows, "rows [{}, {}) of {}", first, first + count, rows);
    return {at(first, 0), dtype, count, cols, stride};
  }
  ConstMatrix column_range(size_t first, size_t count) const {
    CHECK(first + count <= cols, "columns [{}, {}) of {}", first, first + count, cols);
    return {at(0, first), dtype, rows, count, stride};
  }
  const void* at(size_t row, size_t col) const {
    return static_cast<const std::byte*>(data) + (row * stride + col) * size_of(dtype);
  }
};

struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kF32;
  size_t rows = 0;
  size_t cols = 0;
  size_t stride = 0;

  operator ConstMatrix() const { return {data, dtype, rows, cols, stride}; }  // NOLINT: as a span converts
  Matrix row_range(size_t first, size_t count) const {
    CHECK(first + count <= rows, "rows [{}, {}) of {}", first, first + count, rows);
    return {at(first, 0), dtype, count, cols, stride};
  }
  Matrix column_range(size_t first, size_t count) const {
    CHECK(first + count <= cols, "columns [{}, {}) of {}", first, first + count, cols);
    return {at(0, first), dtype, rows, count, stride};
  }
  void* at(size_t row, size_t col) const {
    return static_cast<std::byte*>(data) + (row * stride + col) * size_of(dtype);
  }
};

// [size]; `data` null means "none".
struct ConstVector {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  size_t size = 0;
};

template <class T>
inline constexpr DType kDTypeOf = DType::kF32;
template <>
inline constexpr DType kDTypeOf<Bf16> = DType::kBf16;

// A whole buffer of floats or Bf16 as [size / cols, cols].
template <class T>
ConstMatrix view(std::span<const T> buffer, size_t cols) {
  return {buffer.data(), kDTypeOf<T>, buffer.size() / cols, cols, cols};
}
template <class T>
Matrix view(std::span<T> buffer, size_t cols)
  requires(!std::is_const_v<T>)
{
  return {buffer.data(), kDTypeOf<T>, buffer.size() / cols, cols, cols};
}

}  // namespace baton::kernels
