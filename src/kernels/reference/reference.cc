#include "kernels/reference/reference.h"

#include <algorithm>
#include <cmath>

namespace baton::kernels::reference {
namespace {

double half_to_double(uint16_t bits) {
  const double sign = (bits & 0x8000U) != 0 ? -1.0 : 1.0;
  const int exponent = bits >> 10 & 0x1F;
  const int fraction = bits & 0x3FF;
  if (exponent == 31) return fraction != 0 ? std::nan("") : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(fraction + 1024, exponent - 25);
}

double value(const void* p, DType type, size_t i) {
  switch (type) {
    case DType::kBf16:
      return static_cast<double>(to_float(static_cast<const Bf16*>(p)[i]));
    case DType::kF16:
      return half_to_double(static_cast<const uint16_t*>(p)[i]);
    default:
      return static_cast<double>(static_cast<const float*>(p)[i]);
  }
}

}  // namespace

std::vector<double> values(ConstMatrix m) {
  std::vector<double> out;
  for (size_t r = 0; r < m.rows; ++r) {
    for (size_t c = 0; c < m.cols; ++c) out.push_back(value(m.at(r, 0), m.dtype, c));
  }
  return out;
}

std::vector<double> values(ConstVector v) {
  std::vector<double> out;
  for (size_t i = 0; i < v.size; ++i) out.push_back(value(v.data, v.dtype, i));
  return out;
}

std::vector<double> linear(std::span<const double> x, std::span<const double> w, std::span<const double> bias,
                           size_t k) {
  std::vector<double> y;
  for (size_t r = 0; r < x.size() / k; ++r) {
    for (size_t n = 0; n < w.size() / k; ++n) {
      double sum = bias.empty() ? 0.0 : bias[n];
      for (size_t i = 0; i < k; ++i) sum += x[r * k + i] * w[n * k + i];
      y.push_back(sum);
    }
  }
  return y;
}

std::vector<double> linear_magnitude(std::span<const double> x, std::span<const double> w, size_t k) {
  std::vector<double> absolute_x(x.begin(), x.end());
  std::vector<double> absolute_w(w.begin(), w.end());
  for (double& v : absolute_x) v = std::fabs(v);
  for (double& v : absolute_w) v = std::fabs(v);
  return linear(absolute_x, absolute_w, {}, k);
}

std::vector<double> rms_norm(std::span<const double> x, std::span<const double> weight, double epsilon) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  std::vector<double> y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back(weight[i] * x[i] * scale);
  return y;
}

std::vector<double> rope(std::span<const double> head, std::span<const double> inverse_frequencies,
                         double position) {
  const size_t half = inverse_frequencies.size();
  std::vector<double> y(2 * half);
  for (size_t i = 0; i < half; ++i) {
    const double angle = position * inverse_frequencies[i];
    y[i] = head[i] * std::cos(angle) - head[half + i] * std::sin(angle);
    y[half + i] = head[half + i] * std::cos(angle) + head[i] * std::sin(angle);
  }
  return y;
}

double silu(double x) { return x / (1.0 + std::exp(-x)); }

std::vector<double> softmax(std::span<const double> logits) {
  const double total = log_sum_exp(logits);
  std::vector<double> y;
  for (const double x : logits) y.push_back(std::exp(x - total));
  return y;
}

std::vector<double> attend(std::span<const double> q, std::span<const double> keys,
                           std::span<const double> values, double scale) {
  const size_t dim = q.size();
  std::vector<double> scores;
  for (size_t t = 0; t < keys.size() / dim; ++t) {
    double score = 0;
    for (size_t d = 0; d < dim; ++d) score += q[d] * keys[t * dim + d];
    scores.push_back(score * scale);
  }
  const std::vector<double> weights = softmax(scores);
  const size_t value_dim = values.size() / weights.size();
  std::vector<double> out(value_dim, 0.0);
  for (size_t t = 0; t < weights.size(); ++t) {
    for (size_t d = 0; d < value_dim; ++d) out[d] += weights[t] * values[t * value_dim + d];
  }
  return out;
}

double log_sum_exp(std::span<const double> logits) {
  const double best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double x : logits) sum += std::exp(x - best);
  return best + std::log(sum);
}

}  // namespace baton::kernels::reference
