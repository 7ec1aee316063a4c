#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/tables.h"
#include "kernels/float_mode.h"
#include "kernels/random_data.h"
#include "kernels/reference/reference.h"

namespace baton::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

double ulps(float got, double expected) {
  const float nearest = static_cast<float>(expected);
  const double spacing = static_cast<double>(std::nextafter(std::fabs(nearest), kInf) - std::fabs(nearest));
  return std::fabs(static_cast<double>(got) - expected) / spacing;
}

TEST(Elementary, ExpExp2AndLogAreWithinTwoUlps) {
  RandomData data(1);
  double worst[3] = {0, 0, 0};
  for (int i = 0; i < 200'000; ++i) {
    const float x = data.number(87.0F);
    const float two = data.number(125.9F);
    const float positive = std::bit_cast<float>(static_cast<uint32_t>(0x00800000U + data.below(0x7F000000U)));
    worst[0] = std::max(worst[0], ulps(exp_f32(x), std::exp(static_cast<double>(x))));
    worst[1] = std::max(worst[1], ulps(exp2_f32(two), std::exp2(static_cast<double>(two))));
    worst[2] = std::max(worst[2], ulps(log_f32(positive), std::log(static_cast<double>(positive))));
  }
  for (const double error : worst) EXPECT_LE(error, 2.0);
}

TEST(Elementary, EdgesAreThoseOfTheHeader) {
  EXPECT_EQ(exp_f32(0), 1.0F);
  EXPECT_EQ(exp_f32(-kInf), 0.0F);
  EXPECT_EQ(exp_f32(-88), 0.0F);
  EXPECT_EQ(exp_f32(89), kInf);
  EXPECT_TRUE(std::isnan(exp_f32(kNan)));
  EXPECT_EQ(exp2_f32(-126), 0x1p-126F);
  EXPECT_EQ(exp2_f32(-126.1F), 0.0F);
  EXPECT_EQ(exp2_f32(127), 0x1p127F);
  EXPECT_EQ(exp2_f32(128), kInf);
  EXPECT_EQ(log_f32(1), 0.0F);
  EXPECT_EQ(log_f32(0), -kInf);
  EXPECT_EQ(log_f32(kInf), kInf);
  EXPECT_TRUE(std::isnan(log_f32(-1)));
  EXPECT_TRUE(std::isnan(log_f32(kNan)));
}

TEST(Elementary, GivesTheSameBitsOnEveryInstructionSet) {
  const FlushDenormals mode;
  RandomData data(2);
  std::vector<float> x = data.floats(50'000, 130.0F);
  for (size_t i = 0; i < 20'000; ++i) x[i] = std::bit_cast<float>(static_cast<uint32_t>(data.word()));
  std::vector<uint32_t> words(x.size());
  for (uint32_t& word : words) word = static_cast<uint32_t>(data.word());
  const auto all = [&](const Ops& ops) {
    std::vector<std::vector<float>> out(4, std::vector<float>(x.size()));
    ops.exp(x.data(), out[0].data(), x.size());
    ops.exp2(x.data(), out[1].data(), x.size());
    ops.log(x.data(), out[2].data(), x.size());
    ops.gumbel(words.data(), out[3].data(), x.size());
    std::vector<uint32_t> bits;
    for (const auto& part : out) {
      for (const float v : part) bits.push_back(v != v ? 0x7FC00000U : std::bit_cast<uint32_t>(v));
    }
    return bits;
  };
  const auto expected = all(ops_of(Isa::kPortable));
  for (const Isa isa : available_isas()) EXPECT_EQ(all(ops_of(isa)), expected) << isa_name(isa);
}

TEST(Argmax, TakesTheLowestOfEqualsAndNeverNan) {
  EXPECT_EQ(argmax(std::vector<float>{1, 3, 3, 2}), 1);
  EXPECT_EQ(argmax(std::vector<float>{kNan, -kInf, -5}), 2);
  EXPECT_EQ(argmax(std::vector<float>{kNan, -kInf}), std::nullopt);
  EXPECT_EQ(argmax({}), std::nullopt);
  EXPECT_EQ(argmax(std::vector<float>{-0.0F, 0.0F}), 0);
}

TEST(LogSumExp, IsItsFormulaAndTheSameForEverySplitIntoTiles) {
  RandomData data(3);
  for (const size_t n : {1UL, 5UL, 1024UL, 1025UL, 5000UL}) {
    const std::vector<float> logits = data.floats(n, 10.0F);
    const double expected = reference::log_sum_exp(std::vector<double>(logits.begin(), logits.end()));
    EXPECT_NEAR(log_sum_exp(logits), expected, 0x1p-22 * (std::fabs(expected) + 10)) << n;
    const std::span<const float> all(logits);
    ExpSum merged{-kInf, 0};
    for (size_t first = 0; first < n; first += kVocabularyTile) {
      merged = merge(merged, exp_sum_of_tile(all.subspan(first, std::min(kVocabularyTile, n - first))));
    }
    const ExpSum whole = exp_sum(logits);
    EXPECT_EQ(merged.maximum, whole.maximum);
    EXPECT_EQ(merged.sum, whole.sum);
  }
}

TEST(LogSumExp, LeavesOutForbiddenTokensAndPassesNanOn) {
  EXPECT_EQ(log_sum_exp(std::vector<float>(3000, -kInf)), -kInf);
  std::vector<float> one(3000, -kInf);
  one[2500] = 1.5F;
  EXPECT_EQ(log_sum_exp(one), 1.5F);
  one[7] = kNan;
  EXPECT_TRUE(has_nan(one));
  EXPECT_TRUE(std::isnan(log_sum_exp(one)));
}

// The known answers that come with the paper's Random123 library (kat_vectors, philox4x32 10).
TEST(Philox, GivesThePublishedAnswers) {
  using Four = std::array<uint32_t, 4>;
  constexpr uint32_t kOnes = 0xFFFFFFFFU;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Four{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}));
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Four{0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD}));
  EXPECT_EQ(philox4x32({0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}, {0xA4093822, 0x299F31D0}),
            (Four{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1}));
}

TEST(Gumbel, OneTokenHasTheNoiseItHasInEveryRange) {
  std::vector<float> noise(1000);
  gumbel_fill(42, 1, 77, 0, noise);
  for (size_t i = 0; i < noise.size(); ++i) EXPECT_EQ(gumbel(42, 1, 77, static_cast<TokenId>(i)), noise[i]);
  for (const TokenId first : {1, 2, 3, 255, 258}) {
    std::vector<float> part(300);
    gumbel_fill(42, 1, 77, first, part);
    for (size_t i = 0; i < part.size(); ++i) EXPECT_EQ(part[i], noise[static_cast<size_t>(first) + i]);
  }
}

TEST(Gumbel, ChangesWithSeedChoicePositionAndToken) {
  const float base = gumbel(1, 2, 3, 4);
  for (const float other : {gumbel(2, 2, 3, 4), gumbel(1UL + (1UL << 32), 2, 3, 4), gumbel(1, 3, 3, 4),
                            gumbel(1, 2, 4, 4), gumbel(1, 2, 3 + (1UL << 32), 4), gumbel(1, 2, 3, 5)}) {
    EXPECT_NE(base, other);
  }
}

// Mean 0.5772, variance pi^2 / 6; the bounds are five standard errors of 200,000 draws.
TEST(Gumbel, HasTheMomentsOfItsDistribution) {
  std::vector<float> noise(200'000);
  gumbel_fill(9, 0, 0, 0, noise);
  double mean = 0;
  double square = 0;
  for (const float x : noise) {
    ASSERT_TRUE(std::isfinite(x));
    mean += static_cast<double>(x) / static_cast<double>(noise.size());
  }
  for (const float x : noise) square += (x - mean) * (x - mean) / static_cast<double>(noise.size());
  EXPECT_NEAR(mean, 0.5772, 5 * 1.2825 / std::sqrt(200'000.0));
  EXPECT_NEAR(square, 1.6449, 5 * 1.6449 * std::sqrt(4.4 / 200'000.0));
}

// Sampling by the largest logit + noise draws token i with probability softmax(logits)[i].
TEST(Gumbel, TheArgmaxDrawsFromTheSoftmax) {
  const std::vector<float> logits = {0.0F, 1.0F, -1.0F, 2.0F};
  const auto p = reference::softmax(std::vector<double>(logits.begin(), logits.end()));
  std::vector<double> counts(4, 0.0);
  constexpr int kDraws = 40'000;
  for (int i = 0; i < kDraws; ++i) {
    std::vector<float> noisy(4);
    gumbel_fill(5, 0, static_cast<uint64_t>(i), 0, noisy);
    for (size_t t = 0; t < 4; ++t) noisy[t] += logits[t];
    counts[static_cast<size_t>(*argmax(noisy))] += 1;
  }
  for (size_t t = 0; t < 4; ++t) {
    EXPECT_NEAR(counts[t] / kDraws, p[t], 5 * std::sqrt(p[t] * (1 - p[t]) / kDraws));
  }
}

}  // namespace
}  // namespace baton::kernels
