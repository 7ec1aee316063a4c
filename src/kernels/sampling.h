// Primitives of the sampler: pure functions over one row of float32 logits [vocabulary], unpadded. They run
// on the calling thread and give the same bits on every instruction set and for every split of the
// vocabulary.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/ids.h"

namespace baton::kernels {

// exp, natural logarithm and 2^x in float32 by polynomials of our own; error at most 2 ulp. exp and exp2
// flush results below 2^-126 to 0 and go to infinity above the range; log(0) = -inf, log(x < 0) = NaN. NaN
// stays NaN.
float exp_f32(float x);
float exp2_f32(float x);
float log_f32(float x);

// The token with the largest logit, ties to the lowest id; NaN never wins. Nothing if all are NaN or -inf, or
// the span is empty.
std::optional<TokenId> argmax(std::span<const float> logits);

// Whether a logit is NaN.
bool has_nan(std::span<const float> logits);

// log(sum(exp(logits))) as maximum and sum of exp(logit - maximum), over tiles of kVocabularyTile tokens from
// token 0 (16 lanes in a tile, then the tree of halves), merged left to right.
inline constexpr size_t kVocabularyTile = 1024;
struct ExpSum {
  float maximum;  // -inf for "no token"
  float sum;
};
// One tile, at most kVocabularyTile logits.
ExpSum exp_sum_of_tile(std::span<const float> tile);
// left and right neighbours, in this order.
ExpSum merge(ExpSum left, ExpSum right);
// All tiles of the span, merged; log_sum_exp = maximum + log(sum).
ExpSum exp_sum(std::span<const float> logits);
float log_sum_exp(std::span<const float> logits);

// Four random words of a counter: Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers:
// as easy as 1, 2, 3", section 4.3).
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Standard Gumbel noise -log(-log(u)), u uniform in (0, 1) with 23 bits and a half, for one token at one
// position of one choice: a function of these four alone. Word token % 4 of counter (token / 4, choice,
// position low, position high) under key seed.
float gumbel(uint64_t seed, uint32_t choice, uint64_t position, TokenId token);

// noise[i] = gumbel(seed, choice, position, first_token + i).
void gumbel_fill(uint64_t seed, uint32_t choice, uint64_t position, TokenId first_token,
                 std::span<float> noise);

}  // namespace baton::kernels
