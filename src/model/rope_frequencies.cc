#include "model/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace baton::model {
namespace {

// Llama 3.1: wavelengths above original / low_freq_factor are stretched by `factor`, those below original /
// high_freq_factor stay, and between them the two are blended linearly in original / wavelength.
double llama3_scaled(double frequency, const checkpoint::RopeConfig& rope) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const double original = rope.original_max_position_embeddings;
  if (wavelength > original / rope.low_freq_factor) return frequency / rope.factor;
  if (wavelength < original / rope.high_freq_factor) return frequency;
  const double smooth =
      (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1.0 - smooth) * frequency / rope.factor + smooth * frequency;
}

// The index, not rounded, of the frequency that turns `rotations` times within the original length.
double yarn_index(double rotations, const checkpoint::RopeConfig& rope, size_t head_dim) {
  const double wavelength = rope.original_max_position_embeddings / rotations;
  return static_cast<double>(head_dim) * std::log(wavelength / (2.0 * std::numbers::pi)) /
         (2.0 * std::log(rope.theta));
}

// YaRN (Peng et al. 2023, eq. 18 to 20): frequencies up to the index of beta_fast stay, those from the index
// of beta_slow on are divided by `factor`, and between them runs a ramp over the index.
double yarn_scaled(double frequency, size_t i, const checkpoint::RopeConfig& rope, size_t head_dim) {
  const double low = std::max(std::floor(yarn_index(rope.beta_fast, rope, head_dim)), 0.0);
  double high =
      std::min(std::ceil(yarn_index(rope.beta_slow, rope, head_dim)), static_cast<double>(head_dim) - 1.0);
  if (high <= low) high = low + 0.001;
  const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  return frequency / rope.factor * ramp + frequency * (1.0 - ramp);
}

double yarn_magnitude(double mscale, const checkpoint::RopeConfig& rope) {
  return rope.factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(rope.factor) + 1.0;
}

}  // namespace

double rope_magnitude(const checkpoint::RopeConfig& rope) {
  if (rope.scaling != checkpoint::RopeScaling::kYarn) return 1.0;
  return yarn_magnitude(rope.mscale, rope) / yarn_magnitude(rope.mscale_all_dim, rope);
}

double score_magnitude(const checkpoint::RopeConfig& rope) {
  if (rope.scaling != checkpoint::RopeScaling::kYarn) return 1.0;
  const double m = yarn_magnitude(rope.mscale_all_dim, rope);
  return m * m;
}

std::vector<double> rope_frequencies(const checkpoint::RopeConfig& rope, size_t head_dim) {
  std::vector<double> frequencies(head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
    const double frequency = std::pow(rope.theta, exponent);
    switch (rope.scaling) {
      case checkpoint::RopeScaling::kNone:
        frequencies[i] = frequency;
        break;
      case checkpoint::RopeScaling::kLinear:
        frequencies[i] = frequency / rope.factor;
        break;
      case checkpoint::RopeScaling::kLlama3:
        frequencies[i] = llama3_scaled(frequency, rope);
        break;
      case checkpoint::RopeScaling::kYarn:
        frequencies[i] = yarn_scaled(frequency, i, rope, head_dim);
        break;
    }
  }
  return frequencies;
}

}  // namespace baton::model
