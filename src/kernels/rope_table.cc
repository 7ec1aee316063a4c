#include "kernels/elementwise.h"

namespace baton::kernels {
namespace {

// Sums and products only: with -ffp-contract=off every machine gives the same doubles.
struct SinCos {
  double sin;
  double cos;
};

// Taylor series on [-pi/4, pi/4]; the terms left out are below 1e-17.
SinCos sin_cos_reduced(double x) {
  const double q = x * x;
  double sin = 1.0;
  double cos = 1.0;
  for (int n = 17; n >= 3; n -= 2) sin = 1.0 - sin * q / (n * (n - 1));
  for (int n = 18; n >= 2; n -= 2) cos = 1.0 - cos * q / (n * (n - 1));
  return {sin * x, cos};
}

// Angles in [0, 2^31): quadrants are taken off in three parts of pi / 2, the first two of 33 bits (Cody &
// Waite 1980, as in fdlibm), so that quadrant * part is exact below 2^20 quadrants.
SinCos sin_cos(double angle) {
  constexpr double kTwoOverPi = 6.36619772367581382433e-01;
  constexpr double kFirst = 1.57079632673412561417e+00;
  constexpr double kSecond = 6.07710050630396597660e-11;
  constexpr double kThird = 2.02226624879595063154e-21;
  const long quadrant = static_cast<long>(angle * kTwoOverPi + 0.5);
  const double n = static_cast<double>(quadrant);
  const SinCos r = sin_cos_reduced(((angle - n * kFirst) - n * kSecond) - n * kThird);
  switch (quadrant % 4) {
    case 0:
      return r;
    case 1:
      return {r.cos, -r.sin};
    case 2:
      return {-r.sin, -r.cos};
    default:
      return {-r.cos, r.sin};
  }
}

}  // namespace

RopeTable::RopeTable(std::span<const double> inverse_frequencies, size_t positions, double magnitude)
    : positions_(positions),
      half_(inverse_frequencies.size()),
      cos_(positions * inverse_frequencies.size()),
      sin_(positions * inverse_frequencies.size()) {
  for (size_t p = 0; p < positions; ++p) {
    for (size_t i = 0; i < half_; ++i) {
      const SinCos at = sin_cos(static_cast<double>(p) * inverse_frequencies[i]);
      cos_[p * half_ + i] = static_cast<float>(at.cos * magnitude);
      sin_[p * half_ + i] = static_cast<float>(at.sin * magnitude);
    }
  }
}

}  // namespace baton::kernels
