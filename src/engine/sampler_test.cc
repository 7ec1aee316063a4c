#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "kernels/sampling.h"

namespace baton::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(std::mt19937& random, uint32_t vocab) {
  std::vector<float> logits(vocab);
  // A coarse grid, so that ties are common.
  for (float& logit : logits) logit = static_cast<float>(random() % 64) / 8.0F - 4.0F;
  return logits;
}

// The definition in engine/sampler.h, word by word: sorts everything.
TokenId slow_draw(std::vector<float> row, const SamplingParams& p, const TokenHistory& history,
                  uint32_t choice, uint64_t position) {
  const auto at = [&](TokenId token) -> float& { return row[static_cast<size_t>(token)]; };
  if (!p.allowed_token_ids.empty()) {
    for (size_t i = 0; i < row.size(); ++i) {
      if (std::ranges::find(p.allowed_token_ids, static_cast<TokenId>(i)) == p.allowed_token_ids.end()) {
        row[i] = -kInfinity;
      }
    }
  }
  if (history.output_tokens < p.min_tokens) {
    for (const TokenId token : p.eos_token_ids) at(token) = -kInfinity;
    for (const TokenId token : p.stop_token_ids) at(token) = -kInfinity;
  }
  for (const auto& [token, bias] : p.logit_bias) at(token) += bias;
  for (size_t i = 0; i < row.size(); ++i) {
    const auto token = static_cast<TokenId>(i);
    const auto found = history.output->find(token);
    const uint32_t times = found == history.output->end() ? 0 : found->second;
    const bool seen =
        times > 0 || std::ranges::find(history.prompt_distinct, token) != history.prompt_distinct.end();
    if (seen && p.repetition_penalty != 1.0F) {
      row[i] = row[i] > 0.0F ? row[i] / p.repetition_penalty : row[i] * p.repetition_penalty;
    }
    if (times > 0) {
      row[i] -= p.frequency_penalty * static_cast<float>(times);
      row[i] -= p.presence_penalty;
    }
  }
  std::vector<TokenId> order;
  for (size_t i = 0; i < row.size(); ++i) {
    if (row[i] != -kInfinity) order.push_back(static_cast<TokenId>(i));
  }
  std::ranges::sort(order, [&](TokenId a, TokenId b) { return at(a) > at(b) || (at(a) == at(b) && a < b); });
  if (p.temperature == 0.0F) return order.front();
  for (float& logit : row) logit /= p.temperature;
  const float highest = at(order.front());
  if (p.min_p > 0.0F) {
    const float least = highest + kernels::log_f32(p.min_p);
    std::erase_if(order, [&](TokenId token) { return at(token) < least; });
  }
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < order.size()) order.resize(static_cast<size_t>(p.top_k));
  if (p.top_p < 1.0F) {
    double total = 0.0;
    for (const TokenId token : order) total += static_cast<double>(kernels::exp_f32(at(token) - highest));
    double reached = 0.0;
    size_t kept = 0;
    while (kept < order.size() && (kept == 0 || reached < static_cast<double>(p.top_p) * total)) {
      reached += static_cast<double>(kernels::exp_f32(at(order[kept++]) - highest));
    }
    order.resize(kept);
  }
  std::ranges::sort(order);
  TokenId best = order.front();
  float score = -kInfinity;
  for (const TokenId token : order) {
    const float mine = at(token) + kernels::gumbel(p.seed, choice, position, token);
    if (mine > score) {
      score = mine;
      best = token;
    }
  }
  return best;
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
    if (random() % 4 == 0) p.logit_bias.clear();
    p.min_tokens = random() % 2 == 0 ? 0 : 5;
    p.eos_token_ids = {token()};
    std::erase_if(p.allowed_token_ids, [&](TokenId t) { return t == p.eos_token_ids[0]; });
    p.seed = random();
    std::vector<TokenId> prompt = {token(), token(), token()};
    std::ranges::sort(prompt);
    prompt.erase(std::ranges::unique(prompt).begin(), prompt.end());
    const std::map<TokenId, uint32_t> output = {{token(), 1}, {token(), 4}};
    const TokenHistory history{.prompt_distinct = prompt, .output = &output, .output_tokens = 3};
    const auto logits = random_logits(random, vocab);
    const auto drawn = sampler.draw(logits, p, history, 2, 99);
    ASSERT_TRUE(drawn) << drawn.error().message;
    ASSERT_EQ(*drawn, slow_draw(logits, p, history, 2, 99)) << "round " << round;
  }
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
