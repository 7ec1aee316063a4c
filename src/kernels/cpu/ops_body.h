// Joins the kernels of one lane type into its table. Included once by each of the four ops_*.cc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/row_ops.h"

namespace baton::kernels {
namespace {

template <class L>
void dot_pairs(float* acc, const uint32_t* x, const uint32_t* w) {
  L::store(acc, L::dot(L::load(acc), L::load_words(x), L::load_words(w)));
}

// Independent chains that hide the latency of one instruction: 24 accumulators as in a product's tile.
constexpr int kChains = 24;

template <class L>
double spin_dot(size_t steps, float* sink) {
  typename L::F acc[kChains];
  alignas(64) uint32_t words[16];
  for (uint32_t& word : words) word = 0x3C003C00U;
  const auto x = L::load_words(words);
  for (auto& a : acc) a = L::zero();
  for (size_t i = 0; i < steps; ++i) {
    for (auto& a : acc) a = L::dot(a, x, x);
  }
  for (auto& a : acc) *sink += L::sum(a);
  return static_cast<double>(steps) * kChains * 16 * 4;
}

template <class L>
double spin_fma(size_t steps, float* sink) {
  typename L::F acc[kChains];
  const auto x = L::splat(*sink + 0.25F);
  for (auto& a : acc) a = L::zero();
  for (size_t i = 0; i < steps; ++i) {
    for (auto& a : acc) a = L::fma(x, x, a);
  }
  for (auto& a : acc) *sink += L::sum(a);
  return static_cast<double>(steps) * kChains * 16 * 2;
}

// The fastest loop that was found: four streams far apart, each asked for a little ahead.
template <class L>
float read_bytes(const std::byte* bytes, size_t n) {
  constexpr size_t kStreams = 4;
  constexpr size_t kAtOnce = 8 * 16;  // floats of a stream before the next one's turn
  typename L::F acc[8];
  for (auto& a : acc) a = L::zero();
  const float* p = reinterpret_cast<const float*>(bytes);
  const size_t apart = n / 4 / kStreams;
  for (size_t i = 0; i + kAtOnce <= apart; i += kAtOnce) {
    for (size_t s = 0; s < kStreams; ++s) {
      const float* from = p + s * apart + i;
#pragma clang loop unroll(full)
      for (size_t v = 0; v < 8; ++v) {
        L::prefetch_far(from + v * 16 + kStreamFarBytes / sizeof(float));
        L::prefetch(from + v * 16 + kStreamNearBytes / sizeof(float));
        acc[v] = L::add(acc[v], L::load(from + v * 16));
      }
    }
  }
  float total = 0;
  for (auto& a : acc) total += L::sum(a);
  return total;
}

template <class L>
constexpr Ops make_ops() {
  return {
      .product = product<L>,
      .convert = convert<L>,
      .add = add_rows<L>,
      .add_bias = add_bias<L>,
      .rms_norm = rms_norm<L>,
      .rope = rope<L>,
      .silu_mul = silu_mul<L>,
      .softmax = softmax<L>,
      .accumulate = accumulate<L>,
      .attend = attend<L>,
      .merge_state = merge_state<L>,
      .finish_state = finish_state<L>,
      .exp = map<L, exp_lanes<L>>,
      .exp2 = map<L, exp2_lanes<L>>,
      .log = map<L, log_lanes<L>>,
      .exp_sum = exp_sum<L>,
      .gumbel = gumbel<L>,
      .dot_pairs = dot_pairs<L>,
      .spin_dot = spin_dot<L>,
      .spin_fma = spin_fma<L>,
      .read = read_bytes<L>,
  };
}

}  // namespace
}  // namespace baton::kernels
