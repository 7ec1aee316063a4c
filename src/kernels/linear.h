// Matrix products y = x W^T + b with W in the checkpoint's own [out, in] order, read where it is mapped.
//
// One order per output element, which depends on K alone (never on rows, tiles, threads or instruction set):
//   bf16 x bf16     16 lanes, all zero at first. For each run of 32 elements of K: lane i does
//                   a_i = fma(x[2i+1], w[2i+1], a_i), then a_i = fma(x[2i], w[2i], a_i)   (= VDPBF16PS)
//   f32 x any       16 lanes. For each run of 16 elements: lane i does a_i = fma(x[i], w[i], a_i), with w
//                   widened to float32 exactly
//   a last run that is not full is padded with zeros; then the lanes are added as a tree of halves:
//                   a_i += a_{i+8}, a_i += a_{i+4}, a_i += a_{i+2}, a_0 + a_1
// Denormals are flushed (float_mode.h). With K slices, each slice is reduced so, and the slices are added as
// a binary tree of neighbours: ((s0 + s1) + (s2 + s3)) + ... Last, b is added in float32 and the sum rounded
// once to the type of y.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/cpu.h"
#include "kernels/matrix.h"

namespace baton::kernels {

inline constexpr size_t kSlicesMax = 16;

// The fixed number of K slices of a product that tensor parallelism may split over K (attention output, MLP
// down): the largest power of two S up to 16 for which K / S is an even whole number, at least 1. K is that
// of the whole product, on one rank or on many.
constexpr size_t k_slices(size_t k) {
  size_t slices = kSlicesMax;
  while (slices > 1 && (k % slices != 0 || (k / slices) % 2 != 0)) slices /= 2;
  return slices;
}

// One product. Types: x bf16 with weight bf16; x f32 with weight f32, bf16 or f16. y bf16 or f32. bias f32,
// bf16 or f16 or none. `slices` divides K = x.cols = weight.cols.
//
// A rank that holds 1/n of K (n a power of two up to k_slices(K)) computes its subtree with its columns of x
// and weight, slices = k_slices(K) / n, no bias and y in f32; ranks then add by recursive doubling (rank ^ 1
// first) and round with `add_bias`: the bits of the whole product.
struct Linear {
  ConstMatrix x;       // [rows, K]
  ConstMatrix weight;  // [N, K]
  ConstVector bias;    // [N] or none
  Matrix y;            // [rows, N]
  size_t slices = 1;
};

// CHECKs shapes and types. x and y must not overlap. rows = 0 does nothing.
void linear(const Cpu& cpu, const Linear& product);

// Several independent products under one fork and join (q, k and v; gate and up; the experts of a layer).
void linear_all(const Cpu& cpu, std::span<const Linear> products);

// y = round(sum + bias): the last step of a product whose slices were added elsewhere. sum f32 [rows, N].
void add_bias(const Cpu& cpu, ConstMatrix sum, ConstVector bias, Matrix y);

}  // namespace baton::kernels
