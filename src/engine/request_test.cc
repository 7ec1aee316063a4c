#include "engine/request.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

namespace baton::engine {
namespace {

// Every field of the sampling parameters, and another value for it. A new field does not compile here until
// it has been thought about.
TEST(SamplingDigest, CoversEveryFieldThatTheFirstTokenDependsOn) {
  const std::vector<TokenId> prompt = {1, 2, 3};
  SamplingParams base;
  base.max_tokens = 16;
  std::set<uint64_t> seen = {sampling_digest(base, prompt)};
  SamplingParams changed = base;
  int walked = 0;
  const auto expect_another = [&](const char* name, auto& field, const auto& value) {
    const auto before = field;
    field = value;
    EXPECT_NE(changed, base) << name << " has this value already";
    EXPECT_TRUE(seen.insert(sampling_digest(changed, prompt)).second) << name << " is not in the digest";
    field = before;
    ++walked;
  };
  const auto expect_same = [&](const char* name, auto& field, const auto& value) {
    const auto before = field;
    field = value;
    EXPECT_NE(changed, base) << name << " has this value already";
    EXPECT_TRUE(seen.contains(sampling_digest(changed, prompt))) << name << " is in the digest";
    field = before;
    ++walked;
  };
  auto& [temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty,
         logit_bias, allowed_token_ids, seed, n, max_tokens, min_tokens, eos_token_ids, stop_token_ids,
         ignore_eos, logprobs, prompt_logprobs] = changed;
  expect_another("temperature", temperature, 0.5F);
  expect_another("top_p", top_p, 0.5F);
  expect_another("top_k", top_k, 5);
  expect_another("min_p", min_p, 0.5F);
  expect_another("repetition_penalty", repetition_penalty, 0.5F);
  expect_another("presence_penalty", presence_penalty, 0.5F);
  expect_another("frequency_penalty", frequency_penalty, 0.5F);
  expect_another("logit_bias", logit_bias, std::vector<std::pair<TokenId, float>>{{4, 0.5F}});
  expect_another("a bias's token", logit_bias, std::vector<std::pair<TokenId, float>>{{5, 0.5F}});
  expect_another("a bias's value", logit_bias, std::vector<std::pair<TokenId, float>>{{4, 0.25F}});
  expect_another("allowed_token_ids", allowed_token_ids, std::vector<TokenId>{4});
  expect_another("seed", seed, uint64_t{5});
  expect_another("n", n, 2U);
  expect_another("max_tokens", max_tokens, 1U);
  expect_another("min_tokens", min_tokens, 1U);
  expect_another("eos_token_ids", eos_token_ids, std::vector<TokenId>{4});
  expect_another("stop_token_ids", stop_token_ids, std::vector<TokenId>{4});
  expect_another("ignore_eos", ignore_eos, true);
  expect_another("logprobs", logprobs, 0U);
  expect_another("logprobs' number", logprobs, 1U);
  // The first token is the same whatever these are: P may be told other limits than D.
  expect_same("max_tokens above 1", max_tokens, 17U);
  expect_same("prompt_logprobs", prompt_logprobs, 1U);
  expect_same("top_k -1", top_k, -1);
  EXPECT_EQ(walked, 23);
  EXPECT_TRUE(seen.insert(sampling_digest(base, {1, 2, 4})).second) << "the prompt is not in the digest";
}

TEST(AnswerDigest, CoversTheFirstTokenAndHowLongTheAnswerGets) {
  SamplingParams params;
  std::set<uint64_t> seen = {answer_digest(params, {1, 2})};
  EXPECT_TRUE(seen.insert(answer_digest(params, {1, 3})).second) << "the prompt";
  params.seed = 5;
  EXPECT_TRUE(seen.insert(answer_digest(params, {1, 2})).second) << "what the first token depends on";
  params.max_tokens = 17;
  EXPECT_TRUE(seen.insert(answer_digest(params, {1, 2})).second) << "max_tokens";
  params.min_tokens = 1;
  EXPECT_TRUE(seen.insert(answer_digest(params, {1, 2})).second) << "min_tokens";
  params.min_tokens = 2;
  EXPECT_TRUE(seen.insert(answer_digest(params, {1, 2})).second) << "min_tokens above 1";
}

}  // namespace
}  // namespace baton::engine
