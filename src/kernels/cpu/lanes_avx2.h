// Sixteen lanes as two 256-bit registers. Included by one source only.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace baton::kernels {
namespace {

struct Avx2Lanes {
  struct F {
    __m256 lo, hi;
  };
  struct I {
    __m256i lo, hi;
  };
  using Pairs = I;

  // One column: halves of bf16 pairs need registers of their own.
  static constexpr bool kPacksPanels = false;
  static constexpr size_t kTileRows = 4, kTileCols = 1;
  static constexpr size_t kPanelRows = 3, kPanelVecs = 1;

  static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F load_n(const float* p, size_t n) {
    alignas(32) float buffer[16] = {};
    memcpy(buffer, p, n * 4);
    return load(buffer);
  }
  static void store(float* p, F a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
  }
  static void store_n(float* p, F a, size_t n) {
    alignas(32) float buffer[16];
    store(buffer, a);
    memcpy(p, buffer, n * 4);
  }

  static __m256i widen(const uint16_t* p) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F load_bf16(const uint16_t* p) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(widen(p), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(widen(p + 8), 16))};
  }
  static F load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static __m256i round_bf16(__m256 a) {  // the result in the low half of each lane
    const __m256i u = _mm256_castps_si256(a);
    const __m256i high = _mm256_srli_epi32(u, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i nearest =
        _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
    const __m256i magnitude = _mm256_and_si256(u, _mm256_set1_epi32(0x7FFFFFFF));
    const __m256i tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
    const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7F800000));
    const __m256i sign = _mm256_and_si256(high, _mm256_set1_epi32(0x8000));
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    return _mm256_blendv_epi8(_mm256_blendv_epi8(nearest, sign, tiny), quiet, nan);
  }
  static void store_bf16(uint16_t* p, F a) {
    const __m256i packed = _mm256_packus_epi32(round_bf16(a.lo), round_bf16(a.hi));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xD8));
  }
  static F to_bf16_and_back(F a) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(round_bf16(a.lo), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(round_bf16(a.hi), 16))};
  }
  static Pairs load_words(const uint32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
  }
  static Pairs load_pairs(const uint16_t* p) { return load_words(reinterpret_cast<const uint32_t*>(p)); }
  static Pairs load_pairs_n(const uint16_t* p, size_t n) {
    alignas(32) uint16_t buffer[32] = {};
    memcpy(buffer, p, n * 2);
    return load_pairs(buffer);
  }
  static void store_words(uint32_t* p, Pairs a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.hi);
  }
  static Pairs splat_pair(const uint32_t* p) { return splat_int(*p); }
  // out[i] = (even[i], odd[i]) for n elements, a multiple of 16.
  static void join_rows(const uint16_t* even, const uint16_t* odd, size_t n, uint32_t* out) {
    for (size_t i = 0; i < n; i += 8) {
      const __m256i high = _mm256_slli_epi32(widen(odd + i), 16);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_or_si256(widen(even + i), high));
    }
  }
  static Pairs even_only(Pairs a) { return and_int(a, splat_int(0xFFFF)); }
  static __m256 dot_half(__m256 acc, __m256i x, __m256i w) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xFFFF0000U));
    const __m256 odd = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(x, high)),
                                       _mm256_castsi256_ps(_mm256_and_si256(w, high)), acc);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)),
                           _mm256_castsi256_ps(_mm256_slli_epi32(w, 16)), odd);
  }
  static F dot(F acc, Pairs x, Pairs w) {
    return {dot_half(acc.lo, x.lo, w.lo), dot_half(acc.hi, x.hi, w.hi)};
  }

  static F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  static F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  static F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  static F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  static F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
  static F fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  static F fnma(F a, F b, F c) {
    return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
  }
  static float sqrt(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
  static F first_n(F a, size_t n, F otherwise) {
    const __m256i count = _mm256_set1_epi32(static_cast<int>(n));
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i lo = _mm256_cmpgt_epi32(count, index);
    const __m256i hi = _mm256_cmpgt_epi32(count, _mm256_add_epi32(index, _mm256_set1_epi32(8)));
    return {_mm256_blendv_ps(otherwise.lo, a.lo, _mm256_castsi256_ps(lo)),
            _mm256_blendv_ps(otherwise.hi, a.hi, _mm256_castsi256_ps(hi))};
  }
  static F if_less(F a, F b, F yes, F no) {
    return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
            _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
  }
  static F if_nan(F a, F yes, F no) {
    return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q)),
            _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q))};
  }

  static I bits(F a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
  static F from_bits(I a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
  static I splat_int(uint32_t x) {
    return {_mm256_set1_epi32(static_cast<int>(x)), _mm256_set1_epi32(static_cast<int>(x))};
  }
  static I add_int(I a, I b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
  static I sub_int(I a, I b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
  static I and_int(I a, I b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
  template <int kBits>
  static I shift_left(I a) {
    return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
  }
  template <int kBits>
  static I shift_right(I a) {
    return {_mm256_srai_epi32(a.lo, kBits), _mm256_srai_epi32(a.hi, kBits)};
  }
  static F int_to_float(I a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }

  static float sum(F a) {
    const __m256 eight = _mm256_add_ps(a.lo, a.hi);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static float max_lane(F a) {
    const __m256 eight = _mm256_max_ps(a.lo, a.hi);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  // a[0] + a[1], a[2] + a[3], ..., then the pairs of b.
  static F add_neighbours(F a, F b) { return {pairs_of(a), pairs_of(b)}; }
  template <int kCount>
  static void sums(const F* a, float* out) {
    for (int i = 0; i < kCount; ++i) out[i] = sum(a[i]);
  }
  static void transpose(const uint32_t* const rows[16], size_t words, uint32_t* out, size_t stride) {
    for (size_t w = 0; w + 8 <= words; w += 8) {
      transpose8(rows, w, out + w * stride, stride);
      transpose8(rows + 8, w, out + w * stride + 8, stride);
    }
  }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
  static void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

 private:
  static __m256 pairs_of(F a) {
    const __m256d sums = _mm256_castps_pd(_mm256_hadd_ps(a.lo, a.hi));  // quarters of lo, hi, lo, hi
    return _mm256_castpd_ps(_mm256_permute4x64_pd(sums, 0xD8));
  }
  static __m256 quad(const uint32_t* a, const uint32_t* b) {  // words 0-3 of a, then of b
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a));
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
    return _mm256_castsi256_ps(_mm256_set_m128i(high, low));
  }
  // Words w .. w + 7 of rows 0 .. 7.
  static void transpose8(const uint32_t* const rows[8], size_t w, uint32_t* out, size_t stride) {
    for (size_t half = 0; half < 2; ++half, w += 4) {
      const __m256 r0 = quad(rows[0] + w, rows[4] + w), r1 = quad(rows[1] + w, rows[5] + w);
      const __m256 r2 = quad(rows[2] + w, rows[6] + w), r3 = quad(rows[3] + w, rows[7] + w);
      const __m256 a = _mm256_unpacklo_ps(r0, r1), b = _mm256_unpackhi_ps(r0, r1);
      const __m256 c = _mm256_unpacklo_ps(r2, r3), d = _mm256_unpackhi_ps(r2, r3);
      float* to = reinterpret_cast<float*>(out + half * 4 * stride);
      _mm256_storeu_ps(to, _mm256_shuffle_ps(a, c, 0x44));
      _mm256_storeu_ps(to + stride, _mm256_shuffle_ps(a, c, 0xEE));
      _mm256_storeu_ps(to + 2 * stride, _mm256_shuffle_ps(b, d, 0x44));
      _mm256_storeu_ps(to + 3 * stride, _mm256_shuffle_ps(b, d, 0xEE));
    }
  }
};

}  // namespace
}  // namespace baton::kernels
