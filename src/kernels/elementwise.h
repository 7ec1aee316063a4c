// Kernels over rows that are not products: embedding, norms, rotary positions, activations.
// Activations are bf16 or f32 ("T" below); arithmetic is float32; round() goes to T, to nearest even,
// subnormals flushed. Sums run over 16 lanes (lane i takes elements i, i + 16, ...; fma), then the tree of
// halves of kernels/linear.h. Square root and division are those of IEEE 754. Weights may be f32, bf16 or
// f16. Outputs may be the inputs themselves where named "in place".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "kernels/cpu.h"
#include "kernels/matrix.h"

namespace baton::kernels {

// y[r] = round(table[tokens[r]]). table [vocabulary, hidden] f32, bf16 or f16; CHECKs 0 <= token <
// vocabulary.
void embed(const Cpu& cpu, ConstMatrix table, std::span<const TokenId> tokens, Matrix y);

// y[i] = x[rows[i]]. Same type on both sides; CHECKs the indices.
void gather_rows(const Cpu& cpu, ConstMatrix x, std::span<const uint32_t> rows, Matrix y);

// s = 1 / sqrt(sum(x^2) / cols + epsilon); y = round(weight * round(x * s)), the two roundings of Hugging
// Face's LlamaRMSNorm (Zhang & Sennrich 2019, eq. 4). x, y [rows, cols]; y may be x.
void rms_norm(const Cpu& cpu, ConstMatrix x, ConstVector weight, float epsilon, Matrix y);

// h = round(h + delta), then y = rms_norm(h). h, delta, y [rows, cols], y not h.
void add_rms_norm(const Cpu& cpu, Matrix h, ConstMatrix delta, ConstVector weight, float epsilon, Matrix y);

// h = round(h + delta).
void add(const Cpu& cpu, Matrix h, ConstMatrix delta);

// The q/k norm of Qwen3: each of the cols / weight.size heads of a row of x is normalised by itself, in
// place.
void rms_norm_heads(const Cpu& cpu, Matrix x, ConstVector weight, float epsilon);

// Cosines and sines of rotary positions (Su et al. 2021), float32 [positions, head_dim / 2] each, from angles
// position * inverse_frequency in double, by polynomials of our own: equal on every machine, no libm.
class RopeTable {
 public:
  RopeTable() = default;
  // inverse_frequencies [head_dim / 2], as the model scales them; both functions are multiplied by
  // `magnitude` (YaRN's attention factor, else 1).
  RopeTable(std::span<const double> inverse_frequencies, size_t positions, double magnitude = 1.0);

  size_t positions() const { return positions_; }
  size_t half() const { return half_; }
  const float* cos(size_t position) const { return cos_.data() + position * half_; }
  const float* sin(size_t position) const { return sin_.data() + position * half_; }

 private:
  size_t positions_ = 0;
  size_t half_ = 0;
  std::vector<float> cos_;
  std::vector<float> sin_;
};

// Rotates each head of x [rows, heads * head_dim] in place, halves paired (i, i + head_dim / 2) as in
// GPT-NeoX:
//   a' = round(fma(-b, sin, a * cos)),  b' = round(fma(a, sin, b * cos)).
// positions [rows]; CHECKs position < table.positions().
void rope(const Cpu& cpu, Matrix x, const RopeTable& table, std::span<const uint32_t> positions);

inline constexpr size_t kRopeDimMax = 1024;

// Rotates the last 2 * table.half() elements of each head of x [rows, heads * head_dim], neighbours paired
// (2i, 2i + 1), as DeepSeek does: the same sums and roundings. The first of all pairs then stand before the
// second ones, as in Hugging Face's code; a product of two vectors so rotated is that of neighbours left in
// place.
void rope_neighbours(const Cpu& cpu, Matrix x, size_t head_dim, const RopeTable& table,
                     std::span<const uint32_t> positions);

// y = round(round(gate / (1 + exp(-gate))) * up): SwiGLU with Hugging Face's roundings. y may be gate or
// up.
void silu_mul(const Cpu& cpu, ConstMatrix gate, ConstMatrix up, Matrix y);

// y = round(x): between f32 and bf16 (and from f16).
void convert(const Cpu& cpu, ConstMatrix x, Matrix y);

}  // namespace baton::kernels
