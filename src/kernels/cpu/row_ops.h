// Kernels over one row: conversions, norms, rotation, activation, softmax, sampling primitives.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/elementary.h"
#include "kernels/cpu/ops.h"

namespace baton::kernels {
namespace {

// Reads 16 elements, or the first n with zeros behind them, of f32, bf16 or f16.
template <class L>
struct Reader {
  const void* data;
  DType type;

  typename L::F operator()(size_t at) const {
    if (type == DType::kF32) return L::load(static_cast<const float*>(data) + at);
    const uint16_t* p = static_cast<const uint16_t*>(data) + at;
    return type == DType::kBf16 ? L::load_bf16(p) : L::load_f16(p);
  }
  typename L::F operator()(size_t at, size_t n) const {
    if (n >= 16) return (*this)(at);
    if (type == DType::kF32) return L::load_n(static_cast<const float*>(data) + at, n);
    alignas(32) uint16_t padded[16] = {};
    __builtin_memcpy(padded, static_cast<const uint16_t*>(data) + at, n * 2);
    return type == DType::kBf16 ? L::load_bf16(padded) : L::load_f16(padded);
  }
};

// Writes 16 elements or the first n, rounded to f32 or bf16.
template <class L>
struct Writer {
  void* data;
  DType type;

  void operator()(size_t at, typename L::F value, size_t n) const {
    if (type == DType::kF32) {
      float* p = static_cast<float*>(data) + at;
      return n >= 16 ? L::store(p, value) : L::store_n(p, value, n);
    }
    uint16_t* p = static_cast<uint16_t*>(data) + at;
    if (n >= 16) return L::store_bf16(p, value);
    alignas(32) uint16_t rounded[16];
    L::store_bf16(rounded, value);
    __builtin_memcpy(p, rounded, n * 2);
  }
  typename L::F round(typename L::F value) const {
    return type == DType::kF32 ? value : L::to_bf16_and_back(value);
  }
};

// body(first element, count of at most 16) over a row of n.
template <class Body>
void over_row(size_t n, Body body) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) body(i, 16UL);
  if (i < n) body(i, n - i);
}

template <class L>
void convert(const void* x, DType x_type, void* y, DType y_type, size_t n) {
  const Reader<L> in{x, x_type};
  const Writer<L> out{y, y_type};
  over_row(n, [&](size_t i, size_t count) { out(i, in(i, count), count); });
}

template <class L>
void add_rows(void* h, const void* delta, DType type, size_t n) {
  const Reader<L> a{h, type};
  const Reader<L> b{delta, type};
  const Writer<L> out{h, type};
  over_row(n, [&](size_t i, size_t count) { out(i, L::add(a(i, count), b(i, count)), count); });
}

template <class L>
void add_bias(const float* sum, const void* bias, DType bias_type, void* y, DType y_type, size_t n) {
  const Reader<L> a{sum, DType::kF32};
  const Reader<L> b{bias, bias_type};
  const Writer<L> out{y, y_type};
  over_row(n, [&](size_t i, size_t count) {
    const auto value = a(i, count);
    out(i, bias == nullptr ? value : L::add(value, b(i, count)), count);
  });
}

template <class L>
void rms_norm(const void* x, const void* weight, DType weight_type, float epsilon, void* y, DType type,
              size_t n) {
  const Reader<L> in{x, type};
  const Reader<L> w{weight, weight_type};
  const Writer<L> out{y, type};
  auto squares = L::zero();
  over_row(n, [&](size_t i, size_t count) {
    const auto value = in(i, count);
    squares = L::fma(value, value, squares);
  });
  const float mean = L::sum(squares) / static_cast<float>(n);
  const auto scale = L::splat(1.0F / L::sqrt(mean + epsilon));
  over_row(n, [&](size_t i, size_t count) {
    out(i, L::mul(w(i, count), out.round(L::mul(in(i, count), scale))), count);
  });
}

template <class L>
void rope(void* head, const float* cos, const float* sin, DType type, size_t half) {
  const Reader<L> in{head, type};
  const Writer<L> out{head, type};
  over_row(half, [&](size_t i, size_t count) {
    const auto a = in(i, count);
    const auto b = in(half + i, count);
    const auto c = L::load_n(cos + i, count);
    const auto s = L::load_n(sin + i, count);
    out(i, L::fnma(b, s, L::mul(a, c)), count);
    out(half + i, L::fma(a, s, L::mul(b, c)), count);
  });
}

template <class L>
void silu_mul(const void* gate, const void* up, void* y, DType type, size_t n) {
  const Reader<L> g{gate, type};
  const Reader<L> u{up, type};
  const Writer<L> out{y, type};
  over_row(n, [&](size_t i, size_t count) {
    const auto x = g(i, count);
    const auto e = exp_lanes<L>(L::sub(L::zero(), x));
    const auto silu = out.round(L::div(x, L::add(L::splat(1.0F), e)));
    out(i, L::mul(silu, u(i, count)), count);
  });
}

// Maximum over 16 lanes, then the tree of halves.
template <class L>
float row_max(const Reader<L>& in, size_t n) {
  auto highest = L::splat(-kInfinity);
  over_row(n, [&](size_t i, size_t count) {
    highest = L::max(highest, L::first_n(in(i, count), count, L::splat(-kInfinity)));
  });
  return L::max_lane(highest);
}

template <class L>
void softmax(const void* logits, DType type, float* probabilities, size_t n) {
  const Reader<L> in{logits, type};
  const Writer<L> out{probabilities, DType::kF32};
  const auto highest = L::splat(row_max<L>(in, n));
  auto sums = L::zero();
  over_row(n, [&](size_t i, size_t count) {
    const auto e = L::first_n(exp_lanes<L>(L::sub(in(i, count), highest)), count, L::zero());
    sums = L::add(sums, e);
    out(i, e, count);
  });
  const auto total = L::splat(L::sum(sums));
  const Reader<L> exps{probabilities, DType::kF32};
  over_row(n, [&](size_t i, size_t count) { out(i, L::div(exps(i, count), total), count); });
}

template <class L>
void accumulate(float* acc, float weight, const void* x, DType type, size_t n) {
  const Reader<L> sum{acc, DType::kF32};
  const Reader<L> in{x, type};
  const Writer<L> out{acc, DType::kF32};
  over_row(n, [&](size_t i, size_t count) {
    out(i, L::fma(L::splat(weight), in(i, count), sum(i, count)), count);
  });
}

template <class L, auto kFunction>
void map(const float* x, float* y, size_t n) {
  const Reader<L> in{x, DType::kF32};
  const Writer<L> out{y, DType::kF32};
  over_row(n, [&](size_t i, size_t count) { out(i, kFunction(in(i, count)), count); });
}

template <class L>
void exp_sum(const float* x, size_t n, float* maximum, float* sum) {
  const Reader<L> in{x, DType::kF32};
  *maximum = row_max<L>(in, n);
  const auto highest = L::splat(*maximum);
  auto sums = L::zero();
  over_row(n, [&](size_t i, size_t count) {
    sums = L::add(sums, L::first_n(exp_lanes<L>(L::sub(in(i, count), highest)), count, L::zero()));
  });
  *sum = L::sum(sums);
}

// The upper 23 bits of a word as u = (word + 1/2) / 2^23 in (0, 1), exact; then -log(-log(u)).
template <class L>
void gumbel(const uint32_t* words, float* y, size_t n) {
  const Writer<L> out{y, DType::kF32};
  over_row(n, [&](size_t i, size_t count) {
    alignas(64) uint32_t padded[16] = {};
    __builtin_memcpy(padded, words + i, count * 4);
    const auto top = L::and_int(L::template shift_right<9>(L::load_words(padded)), L::splat_int(0x7FFFFFU));
    const auto u = L::mul(L::add(L::int_to_float(top), L::splat(0.5F)), L::splat(0x1p-23F));
    const auto negative_log = L::sub(L::zero(), log_lanes<L>(u));
    out(i, L::sub(L::zero(), log_lanes<L>(negative_log)), count);
  });
}

}  // namespace
}  // namespace baton::kernels
