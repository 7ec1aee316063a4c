// exp, exp2 and log over 16 lanes. Polynomials are minimax fits of the relative error over the reduced range;
// all steps are single IEEE operations or FMAs, so that every lane type gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace baton::kernels {
namespace {

constexpr float kInfinity = __builtin_inff();
constexpr float kLog2E = 1.44269504088896341F;
constexpr float kRoundingBias = 0x1.8p23F;  // x + bias - bias = x rounded to an integer, for |x| < 2^22

// p * 2^n for p near 1; n the whole numbers [-126, 128] in float.
template <class L>
typename L::F scale_by_power(typename L::F p, typename L::F n) {
  // n + 1.5 * 2^23 holds n in its low mantissa bits.
  const auto integer = L::bits(L::add(n, L::splat(kRoundingBias)));
  return L::from_bits(L::add_int(L::bits(p), L::template shift_left<23>(integer)));
}

// Zero below `lowest`, infinity from `highest` on, NaN as it came.
template <class L>
typename L::F clamp_result(typename L::F x, typename L::F result, float lowest, float highest) {
  result = L::if_less(x, L::splat(lowest), L::zero(), result);
  result = L::if_less(x, L::splat(highest), result, L::splat(kInfinity));
  return L::if_nan(x, x, result);
}

template <class L>
typename L::F polynomial6(typename L::F x, const float (&c)[6]) {  // 1 + x (c0 + x (c1 + ...))
  auto p = L::splat(c[5]);
  for (int i = 4; i >= 0; --i) p = L::fma(p, x, L::splat(c[i]));
  return L::fma(p, x, L::splat(1.0F));
}

// 2^x; relative error of the polynomial 2.0e-9 on [-1/2, 1/2].
template <class L>
typename L::F exp2_lanes(typename L::F x) {
  constexpr float kTerms[6] = {0.693147202860F, 0.240226479128F,   0.055503324621F,
                               0.009618437405F, 0.00133988772400F, 0.000153533556F};
  const auto bias = L::splat(kRoundingBias);
  const auto n = L::sub(L::add(x, bias), bias);
  const auto p = polynomial6<L>(L::sub(x, n), kTerms);
  return clamp_result<L>(x, scale_by_power<L>(p, n), -126.0F, 128.0F);
}

// e^x = 2^n e^r, r = x - n log 2 in two steps (Cody & Waite 1980); polynomial error 2.0e-9.
template <class L>
typename L::F exp_lanes(typename L::F x) {
  constexpr float kTerms[6] = {1.000000032191F, 0.499999942040F, 0.166664311432F,
                               0.041668002781F, 0.008374165142F, 0.001384363851F};
  constexpr float kLog2High = 0x1.62e4p-1F;  // 15 bits: n * high is exact
  constexpr float kLog2Low = 1.42860677e-06F;
  const auto bias = L::splat(kRoundingBias);
  const auto n = L::sub(L::fma(x, L::splat(kLog2E), bias), bias);
  auto r = L::fnma(n, L::splat(kLog2High), x);
  r = L::fnma(n, L::splat(kLog2Low), r);
  const auto p = polynomial6<L>(r, kTerms);
  return clamp_result<L>(x, scale_by_power<L>(p, n), -87.3365F, 88.7228394F);
}

// log x = e log 2 + log1p(f), x = 2^e (1 + f), f in [sqrt(1/2) - 1, sqrt(2) - 1); polynomial error 7.5e-10.
template <class L>
typename L::F log_lanes(typename L::F x) {
  constexpr float kTerms[9] = {0.333333125945F, -0.25000009615F, 0.200021191942F,
                               -0.16667995208F, 0.142195424230F, -0.12405595981F,
                               0.118882365108F, -0.11675630977F, 0.067464540162F};
  constexpr float kLog2High = 0x1.62e4p-1F;
  constexpr float kLog2Low = 1.42860677e-06F;
  // Exponent and mantissa around sqrt(1/2): e = (bits - bits(sqrt(1/2))) >> 23.
  const auto shifted = L::sub_int(L::bits(x), L::splat_int(0x3F3504F3U));
  const auto exponent = L::template shift_right<23>(shifted);
  const auto mantissa = L::from_bits(L::sub_int(L::bits(x), L::template shift_left<23>(exponent)));
  const auto e = L::int_to_float(exponent);
  const auto f = L::sub(mantissa, L::splat(1.0F));
  auto p = L::splat(kTerms[8]);
  for (int i = 7; i >= 0; --i) p = L::fma(p, f, L::splat(kTerms[i]));
  const auto square = L::mul(f, f);
  auto tail = L::mul(L::mul(square, f), p);
  tail = L::fma(e, L::splat(kLog2Low), tail);
  tail = L::fma(square, L::splat(-0.5F), tail);
  auto result = L::fma(e, L::splat(kLog2High), L::add(f, tail));
  result = L::if_less(x, L::splat(kInfinity), result, x);  // infinity and NaN stay
  result = L::if_less(x, L::splat(0x1p-126F), L::splat(-kInfinity), result);
  return L::if_less(x, L::zero(), L::splat(__builtin_nanf("")), result);
}

}  // namespace
}  // namespace baton::kernels
