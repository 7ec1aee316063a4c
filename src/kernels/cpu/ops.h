// The table of functions of one instruction set: plain rows, blocks and raw pointers, no checks, no threads.
// The functions are compiled once per instruction set from cpu/ops_body.h; kernels/*.cc check arguments,
// split the work into tasks and call them. They expect the mode of float_mode.h.
//
// The four sources must not share inline functions with the rest of the program (the linker would keep one
// copy, perhaps one that this processor cannot run): everything in them has internal linkage, and this header
// holds types only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace baton::kernels {

// y[rows, cols] = x[rows, k] W[cols, k]^T + bias: all operands already moved to the block's corner. Strides
// in elements.
struct ProductBlock {
  const void* x;
  const void* w;
  const void* bias;  // null for none
  void* y;
  size_t x_stride, w_stride, y_stride;
  DType x_type, w_type, bias_type, y_type;
  size_t rows, cols, k, slices;
};

// bf16 products of many rows pack their weights kPanelColumns columns at a time (cpu/product_panel.h): a
// block should be a multiple of them wide. From how many rows on that is worth it depends on the slices,
// whose sums cost an unpacked product more.
inline constexpr size_t kPanelColumns = 32;
inline constexpr size_t kPanelRowsSliced = 48;
inline constexpr size_t kPanelRowsWhole = 96;
inline constexpr size_t kPanelBytesMax = 512 * 1024;

// State of the online softmax of `vectors` query vectors: m, l [vectors], o [vectors, value_dim].
struct SoftmaxState {
  float* m;
  float* l;
  float* o;
};

// The query vectors of `rows` neighbouring rows of a sequence and the `group` heads that share a kv head,
// against the positions [begin, end) of one span. Vector v belongs to row v / group at position
// first_position + v / group.
struct AttendBlock {
  const std::byte*
      keys;  // K of block 0, this kv head, token 0; those of the tokens behind it lie key_dim apart
  const std::byte* values;  // V of the same
  const uint32_t* blocks;
  size_t block_stride;  // bytes
  size_t block_size;
  size_t key_dim, value_dim;
  size_t value_stride;  // elements from a token's V to the next one's
  const void* q;        // first row, first head of the group
  size_t q_stride;      // elements from row to row
  size_t rows, group, first_position;
  size_t begin, end;
  float scale_log2e;
  DType type;
};

inline constexpr size_t kQueryVectorsMax = 64;  // rows * group of an AttendBlock

// How far ahead of itself a stream of memory asks for its bytes: the second-level cache early, because memory
// is far away, the nearest one late, because it is small. Some processors lose a fifth without the former,
// others a tenth without the latter.
inline constexpr size_t kStreamFarBytes = 4096;
inline constexpr size_t kStreamNearBytes = 1024;

struct Ops {
  void (*product)(const ProductBlock& block);
  void (*convert)(const void* x, DType x_type, void* y, DType y_type, size_t n);
  void (*add)(void* h, const void* delta, DType type, size_t n);
  void (*add_bias)(const float* sum, const void* bias, DType bias_type, void* y, DType y_type, size_t n);
  void (*rms_norm)(const void* x, const void* weight, DType weight_type, float epsilon, void* y, DType type,
                   size_t n);
  void (*rope)(void* head, const float* cos, const float* sin, DType type, size_t half);
  void (*silu_mul)(const void* gate, const void* up, void* y, DType type, size_t n);
  void (*softmax)(const void* logits, DType type, float* probabilities, size_t n);
  // acc = fma(weight, x, acc)
  void (*accumulate)(float* acc, float weight, const void* x, DType type, size_t n);
  // Overwrites `state`; vectors whose position lies before block.begin are left untouched.
  void (*attend)(const AttendBlock& block, const SoftmaxState& state);
  // One vector: left = left merged with right; and out = round(o / l).
  void (*merge_state)(const SoftmaxState& left, const SoftmaxState& right, size_t value_dim);
  void (*finish_state)(const SoftmaxState& state, void* out, DType type, size_t value_dim);
  void (*exp)(const float* x, float* y, size_t n);
  void (*exp2)(const float* x, float* y, size_t n);
  void (*log)(const float* x, float* y, size_t n);
  // Maximum and sum of exp(x - maximum) of n values, n >= 1.
  void (*exp_sum)(const float* x, size_t n, float* maximum, float* sum);
  // y = -log(-log((words / 2^9 + 1/2) / 2^23))
  void (*gumbel)(const uint32_t* words, float* y, size_t n);
  // acc[lane] of one VDPBF16PS: pairs x, w of 16 lanes. For tests and peaks.
  void (*dot_pairs)(float* acc, const uint32_t* x, const uint32_t* w);
  // `steps` independent-chain dot or fma steps in registers; returns the flop done. For peaks.
  double (*spin_dot)(size_t steps, float* sink);
  double (*spin_fma)(size_t steps, float* sink);
  // Reads n bytes (a multiple of 4096) once, as four streams; the result depends on all of them. For peaks.
  float (*read)(const std::byte* bytes, size_t n);
};

extern const Ops kOpsPortable;
extern const Ops kOpsAvx2;
extern const Ops kOpsAvx512;
extern const Ops kOpsAvx512Bf16;

}  // namespace baton::kernels
