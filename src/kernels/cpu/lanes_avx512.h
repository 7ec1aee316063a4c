// Sixteen lanes as one 512-bit register. Included by the two AVX-512 sources only.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace baton::kernels {
namespace {

struct Avx512Lanes {
  using F = __m512;
  using I = __m512i;
  using Pairs = __m512i;

  static constexpr size_t kTileRows = 6, kTileCols = 4;
  static constexpr size_t kPanelRows = 6, kPanelVecs = 4;
  static constexpr bool kPacksPanels = true;

  static __mmask16 mask(size_t n) { return static_cast<__mmask16>((1U << n) - 1U); }

  static F zero() { return _mm512_setzero_ps(); }
  static F splat(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load_n(const float* p, size_t n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static void store_n(float* p, F a, size_t n) { _mm512_mask_storeu_ps(p, mask(n), a); }

  static __m512i widen(const uint16_t* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load_bf16(const uint16_t* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(widen(p), 16)); }
  static F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512i round_bf16(F a) {  // the result in the low half of each lane
    const __m512i u = _mm512_castps_si512(a);
    const __m512i high = _mm512_srli_epi32(u, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i nearest =
        _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
    const __m512i magnitude = _mm512_and_si512(u, _mm512_set1_epi32(0x7FFFFFFF));
    const __mmask16 tiny = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(0x00800000));
    const __mmask16 nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7F800000));
    const __m512i flushed = _mm512_mask_and_epi32(nearest, tiny, high, _mm512_set1_epi32(0x8000));
    return _mm512_mask_or_epi32(flushed, nan, high, _mm512_set1_epi32(0x40));
  }
  static void store_bf16(uint16_t* p, F a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(round_bf16(a)));
  }
  static F to_bf16_and_back(F a) { return _mm512_castsi512_ps(_mm512_slli_epi32(round_bf16(a), 16)); }
  static Pairs load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static Pairs load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
  static Pairs load_pairs_n(const uint16_t* p, size_t n) {  // n < 32
    return _mm512_maskz_loadu_epi16((1U << n) - 1U, p);
  }
  static void store_words(uint32_t* p, Pairs a) { _mm512_storeu_si512(p, a); }
  static Pairs splat_pair(const void* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  // out[i] = (even[i], odd[i]) for n elements, a multiple of 16.
  static void join_rows(const uint16_t* even, const uint16_t* odd, size_t n, uint32_t* out) {
    // Places of a result: element 0 of a, of b, element 1 of a, ...; b's elements count from 32.
    const __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i lower =
        _mm512_or_si512(place, _mm512_slli_epi32(_mm512_add_epi32(place, _mm512_set1_epi32(32)), 16));
    const __m512i upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
      const __m512i a = _mm512_loadu_si512(even + i);
      const __m512i b = _mm512_loadu_si512(odd + i);
      _mm512_storeu_si512(out + i, _mm512_permutex2var_epi16(a, lower, b));
      _mm512_storeu_si512(out + i + 16, _mm512_permutex2var_epi16(a, upper, b));
    }
    for (; i < n; i += 16) {
      const __m512i high = _mm512_slli_epi32(widen(odd + i), 16);
      _mm512_storeu_si512(out + i, _mm512_or_si512(widen(even + i), high));
    }
  }
  static Pairs even_only(Pairs a) { return _mm512_and_si512(a, _mm512_set1_epi32(0xFFFF)); }
  static F dot(F acc, Pairs x, Pairs w) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000U));
    const F odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, high)),
                                  _mm512_castsi512_ps(_mm512_and_si512(w, high)), acc);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                           _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), odd);
  }

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  static float sqrt(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
  static F first_n(F a, size_t n, F otherwise) { return _mm512_mask_mov_ps(otherwise, mask(n), a); }
  static F if_less(F a, F b, F yes, F no) {
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), yes);
  }
  static F if_nan(F a, F yes, F no) {
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), yes);
  }

  static I bits(F a) { return _mm512_castps_si512(a); }
  static F from_bits(I a) { return _mm512_castsi512_ps(a); }
  static I splat_int(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
  static I sub_int(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I and_int(I a, I b) { return _mm512_and_si512(a, b); }
  template <int kBits>
  static I shift_left(I a) {
    return _mm512_slli_epi32(a, kBits);
  }
  template <int kBits>
  static I shift_right(I a) {
    return _mm512_srai_epi32(a, kBits);
  }
  static F int_to_float(I a) { return _mm512_cvtepi32_ps(a); }

  static float sum(F a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static float max_lane(F a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }

  // a[0] + a[1], a[2] + a[3], ..., then the pairs of b.
  static F add_neighbours(F a, F b) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    return _mm512_add_ps(_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b));
  }

  // out[i] = sum(a[i]): the trees of several vectors at once, each step folding two vectors into one.
  template <int kCount>
  static void sums(const F* a, float* out) {
    constexpr int kSixteens = kCount / 16 * 16;
    for (int i = 0; i < kSixteens; i += 16) _mm512_storeu_ps(out + i, sums16(a + i));
    if constexpr (kCount % 16 >= 8) _mm256_storeu_ps(out + kSixteens, sums8(a + kSixteens));
    constexpr int kEights = kCount / 8 * 8;
    if constexpr (kCount % 8 >= 4) _mm_storeu_ps(out + kEights, sums4(a + kEights));
    for (int i = kCount / 4 * 4; i < kCount; ++i) out[i] = sum(a[i]);
  }
  // out[w * stride + t] = word w of row t, for 16 rows of `words` words.
  static void transpose(const uint32_t* const rows[16], size_t words, uint32_t* out, size_t stride) {
    size_t w = 0;
    for (; w + 16 <= words; w += 16) transpose16(rows, w, 0xFFFF, out + w * stride, stride);
    if (w == words) return;
    alignas(64) uint32_t last[16 * 16];
    transpose16(rows, w, mask(words - w), last, 16);
    for (size_t i = 0; w + i < words; ++i) store_words(out + (w + i) * stride, load_words(last + i * 16));
  }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
  static void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

 private:
  // Lanes i + (i + 8): a's in the lower half of the result, b's in the upper.
  static F fold8(F a, F b) {
    const F crossed = _mm512_shuffle_f32x4(a, b, 0x4E);     // a.hi, b.lo
    const F straight = _mm512_mask_blend_ps(0xFF00, a, b);  // a.lo, b.hi
    return _mm512_add_ps(straight, crossed);
  }
  // i + (i + 4) of vectors already folded: four results of four lanes in the order a.lo, a.hi, b.lo, b.hi.
  static F fold4(F a, F b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  }
  static F fold2(F a, F b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
  }
  static F fold1(F a, F b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
  }
  static F four(F a, F b, F c, F d) { return fold4(fold8(a, b), fold8(c, d)); }

  // Quarter q, place p of the last fold holds the (4 p + q)-th vector given to four(): hence the order of
  // a[].
  static F sums16(const F* a) {
    const F e = fold2(four(a[0], a[4], a[8], a[12]), four(a[1], a[5], a[9], a[13]));
    const F f = fold2(four(a[2], a[6], a[10], a[14]), four(a[3], a[7], a[11], a[15]));
    return fold1(e, f);
  }
  static __m256 sums8(const F* a) {
    const F e = fold2(four(a[0], a[2], a[4], a[6]), four(a[1], a[3], a[5], a[7]));
    const __m512i places = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castps512_ps256(_mm512_permutexvar_ps(places, fold1(e, e)));
  }
  static __m128 sums4(const F* a) {
    const F e = four(a[0], a[1], a[2], a[3]);
    const F f = fold2(e, e);
    const __m512i places = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(places, fold1(f, f)));
  }

  static void transpose16(const uint32_t* const rows[16], size_t w, __mmask16 valid, uint32_t* out,
                          size_t stride) {
    __m512i a[16];
    __m512i b[16];
#pragma clang loop unroll(full)
    for (int i = 0; i < 16; ++i) a[i] = _mm512_maskz_loadu_epi32(valid, rows[i] + w);
#pragma clang loop unroll(full)
    for (int i = 0; i < 16; i += 4) {  // 4 x 4 within quarters
      const __m512i t0 = _mm512_unpacklo_epi32(a[i], a[i + 1]), t1 = _mm512_unpackhi_epi32(a[i], a[i + 1]);
      const __m512i t2 = _mm512_unpacklo_epi32(a[i + 2], a[i + 3]),
                    t3 = _mm512_unpackhi_epi32(a[i + 2], a[i + 3]);
      b[i] = _mm512_unpacklo_epi64(t0, t2);
      b[i + 1] = _mm512_unpackhi_epi64(t0, t2);
      b[i + 2] = _mm512_unpacklo_epi64(t1, t3);
      b[i + 3] = _mm512_unpackhi_epi64(t1, t3);
    }
#pragma clang loop unroll(full)
    for (size_t i = 0; i < 4; ++i) {  // then the quarters
      const __m512i t0 = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88),
                    t1 = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xDD);
      const __m512i t2 = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88);
      const __m512i t3 = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xDD);
      a[i] = _mm512_shuffle_i32x4(t0, t2, 0x88);
      a[i + 8] = _mm512_shuffle_i32x4(t0, t2, 0xDD);
      a[i + 4] = _mm512_shuffle_i32x4(t1, t3, 0x88);
      a[i + 12] = _mm512_shuffle_i32x4(t1, t3, 0xDD);
    }
#pragma clang loop unroll(full)
    for (size_t i = 0; i < 16; ++i) _mm512_storeu_si512(out + i * stride, a[i]);
  }
};

}  // namespace
}  // namespace baton::kernels
