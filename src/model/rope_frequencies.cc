#include "model/rope_frequencies.h"

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

}  // namespace

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
    }
  }
  return frequencies;
}

}  // namespace baton::model
