#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "engine/testing.h"

namespace baton::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(std::mt19937& random, uint32_t vocab) {
  std::vector<float> logits(vocab);
  // A coarse grid, so that ties are common.
  for (float& logit : logits) logit = static_cast<float>(random() % 64) / 8.0F - 4.0F;
  return logits;
}

TEST(Sampler, DrawsWhatTheSlowDefinitionDraws) {
  std::mt19937 random(7);
  for (int round = 0; round < 4000; ++round) {
    const uint32_t vocab = round % 5 == 0 ? 3000 : 40 + random() % 100;
    Sampler sampler(vocab);
    const auto token = [&] { return static_cast<TokenId>(random() % vocab); };
    SamplingParams p;
    p.temperature = random() % 4 == 0 ? 0.0F : 0.25F * static_cast<float>(1 + random() % 8);
    p.top_k = random() % 2 == 0 ? 0 : static_cast<int32_t>(1 + random() % 50);
    // Away from sums that the grid can hit exactly: there the order of summation would decide.
    p.top_p = random() % 2 == 0 ? 1.0F : 0.0137F + 0.97F * static_cast<float>(random() % 1000) / 1000.0F;
    p.min_p = random() % 3 == 0 ? 0.0371F : 0.0F;
    p.repetition_penalty = random() % 3 == 0 ? 1.3F : 1.0F;
    p.presence_penalty = random() % 3 == 0 ? 0.7F : 0.0F;
    p.frequency_penalty = random() % 3 == 0 ? -0.4F : 0.0F;
    if (random() % 4 == 0) p.logit_bias = {{token(), 3.5F}};
    if (random() % 4 == 0) p.allowed_token_ids = {token(), token(), token()};
    p.min_tokens = random() % 2 == 0 ? 0 : 5;
    p.eos_token_ids = {token()};
    p.stop_token_ids = {token(), token()};
    std::erase_if(p.allowed_token_ids, [&](TokenId t) {
      return t == p.eos_token_ids[0] || t == p.stop_token_ids[0] || t == p.stop_token_ids[1];
    });
    p.seed = random();
    // Some tokens stand in both, some several times in one.
    const std::vector<TokenId> prompt = {token(), token(), token(), 7, 7, 9};
    std::vector<TokenId> answer = {token(), token(), 9, token()};
    answer.resize(random() % 8, answer[0]);
    std::vector<TokenId> distinct = prompt;
    std::ranges::sort(distinct);
    distinct.erase(std::ranges::unique(distinct).begin(), distinct.end());
    std::map<TokenId, uint32_t> output;
    for (const TokenId drawn : answer) ++output[drawn];
    const TokenHistory history{.prompt_distinct = distinct,
                               .output = &output,
                               .output_tokens = static_cast<uint32_t>(answer.size())};
    const auto logits = random_logits(random, vocab);
    const auto drawn = sampler.draw(logits, p, history, 2, prompt.size() + answer.size());
    ASSERT_TRUE(drawn) << drawn.error().message;
    ASSERT_EQ(*drawn, slow_draw(logits, p, prompt, answer, 2)) << "round " << round;
  }
}

TEST(Sampler, OfEqualLogitsTopKKeepsTheLowestTokens) {
  Sampler sampler(8);
  SamplingParams p;
  p.top_k = 3;
  std::set<TokenId> drawn;
  for (uint64_t position = 0; position < 400; ++position)
    drawn.insert(
        *sampler.draw(std::vector{0.0F, 1.0F, 1.0F, 2.0F, 1.0F, 1.0F, 1.0F, 0.0F}, p, {}, 0, position));
  EXPECT_EQ(drawn, (std::set<TokenId>{1, 2, 3}));
}

TEST(Sampler, ATemperatureThatTakesLogitsOutOfRangeIsGreedyAndNeverNan) {
  struct Row {
    const char* name;
    std::vector<float> logits;
    float temperature;
    TokenId expected;
  };
  for (const Row& row : {
           Row{"below the greedy bound", {1, 3, 2}, 0.5F * kGreedyBelow, 1},
           Row{"the smallest float", {1, 3, 2}, std::numeric_limits<float>::denorm_min(), 1},
           Row{"at the bound", {1, 3, 2}, kGreedyBelow, 1},
           Row{"over the top", {1e34F, 3e34F, 2e34F}, kGreedyBelow, 1},
           Row{"over the top, with ties", {1, 3e34F, 3e34F}, kGreedyBelow, 1},
           Row{"below the bottom", {-2e34F, -3e34F, -1e34F}, kGreedyBelow, 2},
           Row{"both", {-2e34F, 3e34F, -1e34F}, kGreedyBelow, 1},
       }) {
    for (const bool some_k : {false, true}) {
      for (const float top_p : {0.5F, 1.0F}) {
        for (const float min_p : {0.0F, 0.1F}) {
          SamplingParams p;
          p.temperature = row.temperature;
          p.top_k = some_k ? 2 : 0;
          p.top_p = top_p;
          p.min_p = min_p;
          const auto drawn = Sampler(3).draw(row.logits, p, {}, 0, 5);
          ASSERT_TRUE(drawn) << row.name;
          EXPECT_EQ(*drawn, row.expected) << row.name << ", top_p " << top_p << ", min_p " << min_p;
        }
      }
    }
  }
  // A bias that leaves float's range does the same.
  SamplingParams biased;
  biased.logit_bias = {{2, 3e38F}};
  EXPECT_EQ(*Sampler(3).draw(std::vector{0.0F, 1.0F, 3e38F}, biased, {}, 0, 5), 2);
}

// Pearson's chi-square over 12 tokens (11 degrees of freedom): 31.3 is exceeded with probability 0.001.
TEST(Sampler, DrawsTokensAsOftenAsTheSoftmaxSays) {
  const std::vector<float> logits = {1, 0.5, 0, -0.5, -1, 2, 1.5, 0.25, -0.25, 0.75, -2, 1.25};
  Sampler sampler(12);
  constexpr int kDraws = 60000;
  SamplingParams p;
  p.temperature = 1.5F;
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit) / 1.5);
  for (const bool over_positions : {true, false}) {
    std::vector<int> seen(12);
    for (int i = 0; i < kDraws; ++i) {
      p.seed = over_positions ? 5 : static_cast<uint64_t>(i);
      const auto position = over_positions ? static_cast<uint64_t>(i) : 17;
      ++seen[static_cast<size_t>(*sampler.draw(logits, p, {}, 0, position))];
    }
    double chi_square = 0;
    for (size_t i = 0; i < 12; ++i) {
      const double expected = kDraws * std::exp(static_cast<double>(logits[i]) / 1.5) / total;
      chi_square += (seen[i] - expected) * (seen[i] - expected) / expected;
    }
    EXPECT_LT(chi_square, 31.3) << "over positions: " << over_positions;
  }
}

TEST(Sampler, NeverDrawsFromLogitsThatAreNotNumbers) {
  Sampler sampler(4);
  for (const float bad : {std::nanf(""), kInfinity}) {
    const auto drawn = sampler.draw(std::vector{0.0F, bad, 1.0F, 2.0F}, {}, {}, 0, 0);
    ASSERT_FALSE(drawn);
    EXPECT_EQ(drawn.error().code, Code::kCorrupt);
    EXPECT_NE(drawn.error().message.find("token 1"), std::string::npos) << drawn.error().message;
  }
  SamplingParams none;
  none.allowed_token_ids = {2};
  none.eos_token_ids = {2};
  none.min_tokens = 1;
  EXPECT_EQ(sampler.draw(std::vector<float>(4), none, {}, 0, 0).error().code, Code::kInvalid);
}

TEST(Logprobs, AreThoseOfTheRawLogitsRankedWithTiesToTheLowestToken) {
  const std::vector<float> logits = {1, 3, 3, 0, 2};
  const PositionLogprobs found = logprobs_of(logits, 2, 3);
  EXPECT_EQ(found.self.rank, 2U);
  ASSERT_EQ(found.top.size(), 3U);
  EXPECT_EQ(found.top[0].token, 1);
  EXPECT_EQ(found.top[1].token, 2);
  EXPECT_EQ(found.top[2].token, 4);
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit));
  // Two float32 roundings and the kernel's 2 ulp, around values below 4.
  EXPECT_NEAR(found.self.logprob, 3 - std::log(total), 8 * 4 * 0x1p-24);
  EXPECT_EQ(logprobs_of(logits, 3, 0).self.rank, 5U);
  EXPECT_EQ(logprobs_of(logits, 3, 20).top.size(), 5U);
}

}  // namespace
}  // namespace baton::engine
