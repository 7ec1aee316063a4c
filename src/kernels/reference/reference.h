// Every kernel once more, as its formula says, in double and one element at a time. What the fast kernels are
// tested against; nothing else uses it. Values come in as doubles (widened exactly from bf16, f16 or f32).
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/matrix.h"

namespace baton::kernels::reference {

// The elements of a matrix, row by row.
std::vector<double> values(ConstMatrix m);
std::vector<double> values(ConstVector v);

// y[rows, N] = x[rows, K] W[N, K]^T + bias (empty for none).
std::vector<double> linear(std::span<const double> x, std::span<const double> w, std::span<const double> bias,
                           size_t k);

// The same with magnitudes, sum |x| |w|: what rounding errors are proportional to (Higham 2002, 3.1).
std::vector<double> linear_magnitude(std::span<const double> x, std::span<const double> w, size_t k);

// weight * x / sqrt(mean(x^2) + epsilon), one row.
std::vector<double> rms_norm(std::span<const double> x, std::span<const double> weight, double epsilon);

// One head [head_dim] at `position`, halves paired.
std::vector<double> rope(std::span<const double> head, std::span<const double> inverse_frequencies,
                         double position);

double silu(double x);

std::vector<double> softmax(std::span<const double> logits);

// One query head [head_dim] against keys [positions, head_dim] and values [positions, value_dim].
std::vector<double> attend(std::span<const double> q, std::span<const double> keys,
                           std::span<const double> values, double scale);

double log_sum_exp(std::span<const double> logits);

}  // namespace baton::kernels::reference
