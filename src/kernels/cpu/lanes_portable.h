// Sixteen lanes in plain C++: what the other lane types do, spelled out. Included by one source only.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace baton::kernels {
namespace {

struct PortableLanes {
  struct F {
    float v[16];
  };
  struct I {
    uint32_t v[16];
  };
  using Pairs = I;  // 16 x (even element low, odd element high)

  static constexpr bool kPacksPanels = false;
  static constexpr size_t kTileRows = 2, kTileCols = 2;    // of a product
  static constexpr size_t kPanelRows = 2, kPanelVecs = 2;  // of attention

  template <class Op>
  static F each(Op op) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = op(i);
    return r;
  }
  template <class Op>
  static I each_int(Op op) {
    I r;
    for (int i = 0; i < 16; ++i) r.v[i] = op(i);
    return r;
  }
  static float as_float(uint32_t u) { return __builtin_bit_cast(float, u); }
  static uint32_t as_bits(float f) { return __builtin_bit_cast(uint32_t, f); }

  static F zero() { return F{}; }
  static F splat(float x) {
    return each([&](int) { return x; });
  }
  static F load(const float* p) {
    F r;
    memcpy(&r, p, sizeof r);
    return r;
  }
  static F load_n(const float* p, size_t n) {
    F r{};
    memcpy(&r, p, n * 4);
    return r;
  }
  static void store(float* p, F a) { memcpy(p, &a, sizeof a); }
  static void store_n(float* p, F a, size_t n) { memcpy(p, &a, n * 4); }

  static F load_bf16(const uint16_t* p) {
    return each([&](int i) { return as_float(static_cast<uint32_t>(p[i]) << 16); });
  }
  static F load_f16(const uint16_t* p) {
    return each([&](int i) { return half_to_float(p[i]); });
  }
  static void store_bf16(uint16_t* p, F a) {
    for (int i = 0; i < 16; ++i) p[i] = round_bf16(a.v[i]);
  }
  static F to_bf16_and_back(F a) {
    return each([&](int i) { return as_float(static_cast<uint32_t>(round_bf16(a.v[i])) << 16); });
  }
  static Pairs load_pairs(const uint16_t* p) {
    Pairs r;
    memcpy(&r, p, sizeof r);
    return r;
  }
  static Pairs load_pairs_n(const uint16_t* p, size_t n) {
    Pairs r{};
    memcpy(&r, p, n * 2);
    return r;
  }
  static Pairs splat_pair(const uint32_t* p) {
    return each_int([&](int) { return *p; });
  }
  // out[i] = (even[i], odd[i]) for n elements, a multiple of 16.
  static void join_rows(const uint16_t* even, const uint16_t* odd, size_t n, uint32_t* out) {
    for (size_t i = 0; i < n; ++i) out[i] = even[i] | static_cast<uint32_t>(odd[i]) << 16;
  }
  static Pairs even_only(Pairs a) {
    return each_int([&](int i) { return a.v[i] & 0xFFFFU; });
  }
  static Pairs load_words(const uint32_t* p) {
    Pairs r;
    memcpy(&r, p, sizeof r);
    return r;
  }
  static void store_words(uint32_t* p, Pairs a) { memcpy(p, &a, sizeof a); }
  static F dot(F acc, Pairs x, Pairs w) {
    return each([&](int i) {
      const float odd = std::fma(as_float(x.v[i] & 0xFFFF0000U), as_float(w.v[i] & 0xFFFF0000U), acc.v[i]);
      return std::fma(as_float(x.v[i] << 16), as_float(w.v[i] << 16), odd);
    });
  }

  static F add(F a, F b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
  }
  static F sub(F a, F b) {
    return each([&](int i) { return a.v[i] - b.v[i]; });
  }
  static F mul(F a, F b) {
    return each([&](int i) { return a.v[i] * b.v[i]; });
  }
  static F div(F a, F b) {
    return each([&](int i) { return a.v[i] / b.v[i]; });
  }
  static F fma(F a, F b, F c) {
    return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
  }
  static F fnma(F a, F b, F c) {
    return each([&](int i) { return std::fma(-a.v[i], b.v[i], c.v[i]); });
  }
  static F max(F a, F b) {  // b when either is NaN, as MAXPS
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static float sqrt(float x) { return __builtin_sqrtf(x); }
  static F first_n(F a, size_t n, F otherwise) {
    return each([&](int i) { return static_cast<size_t>(i) < n ? a.v[i] : otherwise.v[i]; });
  }
  static F if_less(F a, F b, F yes, F no) {  // no when either is NaN
    return each([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
  }
  static F if_nan(F a, F yes, F no) {
    return each([&](int i) { return a.v[i] != a.v[i] ? yes.v[i] : no.v[i]; });
  }

  static I bits(F a) { return __builtin_bit_cast(I, a); }
  static F from_bits(I a) { return __builtin_bit_cast(F, a); }
  static I splat_int(uint32_t x) {
    return each_int([&](int) { return x; });
  }
  static I add_int(I a, I b) {
    return each_int([&](int i) { return a.v[i] + b.v[i]; });
  }
  static I sub_int(I a, I b) {
    return each_int([&](int i) { return a.v[i] - b.v[i]; });
  }
  static I and_int(I a, I b) {
    return each_int([&](int i) { return a.v[i] & b.v[i]; });
  }
  template <int kBits>
  static I shift_left(I a) {
    return each_int([&](int i) { return a.v[i] << kBits; });
  }
  template <int kBits>
  static I shift_right(I a) {  // arithmetic
    return each_int([&](int i) { return static_cast<uint32_t>(static_cast<int32_t>(a.v[i]) >> kBits); });
  }
  static F int_to_float(I a) {
    return each([&](int i) { return static_cast<float>(static_cast<int32_t>(a.v[i])); });
  }

  // The tree of halves.
  static float sum(F a) {
    for (int w = 8; w > 0; w /= 2) {
      for (int i = 0; i < w; ++i) a.v[i] = a.v[i] + a.v[i + w];
    }
    return a.v[0];
  }
  static float max_lane(F a) {
    for (int w = 8; w > 0; w /= 2) {
      for (int i = 0; i < w; ++i) a.v[i] = a.v[i] > a.v[i + w] ? a.v[i] : a.v[i + w];
    }
    return a.v[0];
  }
  // a[0] + a[1], a[2] + a[3], ..., then the pairs of b.
  static F add_neighbours(F a, F b) {
    return each([&](int i) {
      const F& pair = i < 8 ? a : b;
      return pair.v[2 * i % 16] + pair.v[(2 * i + 1) % 16];
    });
  }
  template <int kCount>
  static void sums(const F* a, float* out) {
    for (int i = 0; i < kCount; ++i) out[i] = sum(a[i]);
  }
  // out[w * stride + t] = word w of row t, for 16 rows of `words` words.
  static void transpose(const uint32_t* const rows[16], size_t words, uint32_t* out, size_t stride) {
    for (size_t w = 0; w < words; ++w) {
      for (size_t t = 0; t < 16; ++t) memcpy(out + w * stride + t, rows[t] + w, 4);
    }
  }
  static void prefetch(const void*) {}
  static void prefetch_far(const void*) {}

 private:
  static uint16_t round_bf16(float x) {
    const uint32_t u = as_bits(x);
    const uint32_t magnitude = u & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U) return static_cast<uint16_t>((u >> 16) | 0x40U);
    if (magnitude < 0x00800000U) return static_cast<uint16_t>((u >> 16) & 0x8000U);
    return static_cast<uint16_t>((u + 0x7FFFU + ((u >> 16) & 1U)) >> 16);
  }
  static float half_to_float(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000U) << 16;
    const uint32_t exponent = (h >> 10) & 0x1FU;
    const uint32_t fraction = h & 0x3FFU;
    if (exponent == 31)
      return as_float(sign | 0x7F800000U | fraction << 13 | (fraction != 0 ? 0x400000U : 0));
    if (exponent != 0) return as_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float value = static_cast<float>(fraction) * 0x1p-24F;
    return as_float(sign | as_bits(value));
  }
};

}  // namespace
}  // namespace baton::kernels
