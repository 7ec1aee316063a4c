#include "serve/receipt.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>

#include "engine/engine.h"
#include "engine/testing.h"
#include "model/testing.h"
#include "serve/answer.h"
#include "serve/testing.h"

namespace baton::serve {
namespace {

constexpr api::ReceiptSides kSides{"in the receipt", "recomputed"};

model::FakeModelOptions fake_options() {
  model::FakeModelOptions options;
  options.vocab_size = kTestVocab;
  options.max_position = kTestModelLen;
  return options;
}

// What an instance would say of one prompt, drawn the slow way: no batch, no engine.
class ReceiptTest : public testing::Test {
 protected:
  api::Receipt drawn(api::ReceiptSampling sampling, int64_t seed, std::vector<TokenId> prompt) {
    engine::Request request;
    request.prompt = prompt;
    request.sampling = engine_sampling(sampling, seed);
    api::ReceiptPrompt out{
        .seed = seed, .sampling = sampling, .tokens = receipt_of_tokens(prompt, true), .choices = {}};
    for (uint32_t i = 0; i < request.sampling.n; ++i) {
      DrawnChoice choice;
      const std::vector<TokenId> tokens = engine::slow_answer(request, i, fake_);
      choice.take(tokens, {});
      api::ReceiptChoice one = choice.receipt(true);
      const bool is_cut = tokens.size() == request.sampling.max_tokens;
      one.finish_reason = is_cut ? api::FinishReason::kLength : api::FinishReason::kStop;
      out.choices.push_back(std::move(one));
    }
    return {.baton = "0",
            .fingerprint = fake_.info().fingerprint,
            .dtype = "bfloat16",
            .prompts = {std::move(out)}};
  }

  // How the recomputation of a changed receipt ends: the difference or the refusal; empty: equal.
  std::string replayed(api::Receipt receipt, const std::function<void(api::ReceiptPrompt&)>& change = {}) {
    if (change) change(receipt.prompts[0]);
    const auto again = recompute(receipt, fake_, model_.tokenizer);
    if (!again) return again.error().message;
    return api::first_difference(receipt, *again, kSides).value_or("");
  }

  ServedModel model_ = test_model();
  model::FakeModel fake_{fake_options()};
};

TEST_F(ReceiptTest, WhatWasDrawnIsDrawnAgain) {
  const std::vector<TokenId> prompt = {1, 2, 3, 500};
  for (const float temperature : {0.0F, 1.0F}) {
    for (const int32_t n : {1, 3}) {
      EXPECT_EQ(replayed(drawn({.temperature = temperature,
                                .repetition_penalty = 1.1F,
                                .logit_bias = {{7, 2.5F}},
                                .n = n,
                                .max_tokens = 9},
                               -5, prompt)),
                "");
    }
  }
  EXPECT_EQ(replayed(drawn({.max_tokens = 1}, 5, {9})), "");
}

TEST_F(ReceiptTest, ATokenThatIsAnotherIsNamedByItsPosition) {
  const api::Receipt receipt = drawn({.n = 2, .max_tokens = 6}, 3, {1, 2, 3});
  const TokenId own = (*receipt.prompts[0].choices[1].tokens.ids)[4];
  const TokenId other = own == 8 ? 9 : 8;
  EXPECT_EQ(replayed(receipt,
                     [&](api::ReceiptPrompt& p) {
                       std::vector<TokenId> ids = *p.choices[1].tokens.ids;
                       ids[4] = other;
                       p.choices[1].tokens = receipt_of_tokens(ids, true);
                     }),
            fmt::format("prompts[0].choices[1].tokens.ids[4]: {} in the receipt, {} recomputed", other, own));
}

TEST_F(ReceiptTest, IdsThatTheirHashDoesNotFitAreNamedBeforeAnythingIsComputed) {
  const api::Receipt receipt = drawn({.n = 2, .max_tokens = 6}, 3, {1, 2, 3});
  EXPECT_TRUE(replayed(receipt, [](api::ReceiptPrompt& p) {
                (*p.choices[1].tokens.ids)[0] ^= 1;
              }).starts_with("receipt.prompts[0].choices[1].tokens.hash: "));
  EXPECT_TRUE(replayed(receipt, [](api::ReceiptPrompt& p) {
                (*p.tokens.ids)[0] ^= 1;
              }).starts_with("receipt.prompts[0].tokens.hash: "));
  EXPECT_TRUE(replayed(receipt, [](api::ReceiptPrompt& p) {
                p.tokens.ids.reset();
              }).starts_with("receipt.prompts[0].tokens.ids: missing"));
}

TEST_F(ReceiptTest, ChangedParametersShowInTheTokens) {
  const api::Receipt receipt = drawn({.n = 2, .max_tokens = 12}, 3, {1, 2, 3});
  const auto differs = [&](const std::function<void(api::ReceiptPrompt&)>& change) {
    return replayed(receipt, change).starts_with("prompts[0].choices[");
  };
  EXPECT_TRUE(differs([](api::ReceiptPrompt& p) { p.seed = 4; }));
  EXPECT_TRUE(differs([](api::ReceiptPrompt& p) { p.sampling.temperature = 0.2F; }));
  EXPECT_TRUE(differs([](api::ReceiptPrompt& p) { p.sampling.logit_bias = {{5, 90.0F}}; }));
  EXPECT_TRUE(differs([](api::ReceiptPrompt& p) { std::swap(p.choices[0], p.choices[1]); }));
}

// Hashes alone are enough to know; an answer cut short or said to end otherwise is found too.
TEST_F(ReceiptTest, AnAnswerThatIsCutOrEndsOtherwiseIsAnotherOne) {
  const api::Receipt receipt = drawn({.max_tokens = 12}, 3, {1, 2, 3});
  EXPECT_EQ(replayed(receipt, [](api::ReceiptPrompt& p) { p.choices[0].tokens.ids.reset(); }), "");
  EXPECT_EQ(replayed(receipt,
                     [](api::ReceiptPrompt& p) {
                       std::vector<TokenId> ids = *p.choices[0].tokens.ids;
                       ids.resize(7);
                       p.choices[0].tokens = receipt_of_tokens(ids, true);
                     }),
            "prompts[0].choices[0].tokens.count: 7 in the receipt, 8 recomputed");
  EXPECT_EQ(
      replayed(receipt, [](api::ReceiptPrompt& p) { p.choices[0].finish_reason = api::FinishReason::kStop; }),
      "prompts[0].choices[0].finish_reason: stop in the receipt, length recomputed");
}

TEST_F(ReceiptTest, AStopStringEndsTheAnswerAgainWhereItDid) {
  const std::string stop = "b";
  const std::vector<std::pair<TokenId, float>> always = {{ids_of(model_, stop).front(), 100.0F}};
  api::Receipt receipt =
      drawn({.temperature = 0, .logit_bias = always, .max_tokens = 12, .min_tokens = 4}, 3, {1});
  const std::vector<TokenId> whole = *receipt.prompts[0].choices[0].tokens.ids;
  api::ReceiptPrompt& prompt = receipt.prompts[0];
  prompt.sampling.stop = {stop};
  prompt.choices[0].tokens = receipt_of_tokens({whole.begin(), whole.begin() + 4}, true);
  prompt.choices[0].finish_reason = api::FinishReason::kStop;
  prompt.choices[0].stop_reason = stop;
  EXPECT_EQ(replayed(receipt), "");
  prompt.sampling.stop.clear();
  EXPECT_EQ(replayed(receipt), "prompts[0].choices[0].tokens.count: 4 in the receipt, 5 recomputed");
}

TEST_F(ReceiptTest, WhatTheModelCannotTakeIsRefusedByItsField) {
  const api::Receipt receipt = drawn({.max_tokens = 2}, 3, {1, 2, 3});
  EXPECT_EQ(replayed(receipt, [](api::ReceiptPrompt& p) { p.tokens = receipt_of_tokens({1, 5000}, true); }),
            "receipt.prompts[0]: prompt[1] is 5000, expected 0..1023");
  EXPECT_EQ(replayed(receipt,
                     [](api::ReceiptPrompt& p) {
                       p.sampling.max_tokens = 1 << 30;
                       p.choices[0].tokens = {.count = 1 << 20, .hash = p.choices[0].tokens.hash, .ids = {}};
                     })
                .substr(0, 57),
            "receipt.prompts[0]: prompt has 3 tokens and max_tokens is");
}

// What the door says of an answer is what its tokens are, streamed or not, with their ids or without.
TEST_F(ReceiptTest, AnAnswersReceiptIsOfWhatItsChoicesDrew) {
  const api::ReceiptPrompt expected = drawn({.n = 2, .max_tokens = 5}, 11, {1, 2, 3}).prompts[0];
  for (const bool stream : {false, true}) {
    for (const bool with_ids : {false, true}) {
      api::CommonRequest request;
      request.stream = stream;
      request.receipt = true;
      request.return_token_ids = with_ids;
      request.sampling.n = 2;
      Answer answer(Answer::Kind::kCompletion, request, {.id = "id", .created_s = 1, .model = "m"},
                    model_.tokenizer);
      ASSERT_TRUE(answer.add_prompt({.tokens = {1, 2, 3}, .text = ""}));
      for (uint32_t i = 0; i < 2; ++i) {
        const std::vector<TokenId>& ids = *expected.choices[i].tokens.ids;
        for (size_t k = 0; k < ids.size(); ++k) {
          engine::DrawnToken token{.token = ids[k], .logprobs = {}, .finish = {}, .stop_token = {}};
          if (k + 1 == ids.size()) token.finish = engine::FinishReason::kLength;
          static_cast<void>(answer.take(0, engine::TokensEvent{.choice = i, .tokens = {token}}));
        }
      }
      const api::ReceiptPrompt own = answer.receipt(0, engine_sampling(expected.sampling, 11));
      EXPECT_EQ(own.tokens.ids.has_value(), with_ids);
      EXPECT_EQ(api::first_difference({.prompts = {expected}}, {.prompts = {own}}, kSides), std::nullopt);
      const std::string text =
          stream ? answer.last_events({}, R"({"a":1})") : answer.take_body({}, {}, R"({"a":1})");
      EXPECT_NE(text.find(stream ? R"("choices":[],"receipt":{"a":1}})" : R"(,"receipt":{"a":1}})"),
                std::string::npos)
          << text;
    }
  }
}

TEST(LogprobsHash, DependsOnEveryBitAndOnTheOrderAndNotOnTheCut) {
  const auto position = [](TokenId token, float logprob) {
    api::PositionLogprobs out;
    out.chosen = {.token = token, .text = "t", .logprob = logprob, .rank = 1};
    out.top = {out.chosen};
    return out;
  };
  const std::vector<api::PositionLogprobs> two = {position(1, -0.5F), position(2, -0.25F)};
  const auto hash = [](const std::vector<api::PositionLogprobs>& all, size_t cut) {
    DrawnChoice choice;
    const std::span<const api::PositionLogprobs> span(all);
    choice.take(std::vector<TokenId>(cut), span.first(cut));
    choice.take(std::vector<TokenId>(all.size() - cut), span.subspan(cut));
    return choice.receipt(false).logprobs_hash;
  };
  EXPECT_EQ(hash(two, 0), hash(two, 1));
  EXPECT_EQ(hash(two, 0).size(), api::kHashDigits);
  EXPECT_NE(hash(two, 0), hash({two[1], two[0]}, 0));
  auto changed = two;
  changed[1].top[0].logprob = std::nextafter(changed[1].top[0].logprob, 0.0F);
  EXPECT_NE(hash(two, 0), hash(changed, 0));
  EXPECT_EQ(hash({}, 0), "");
}

TEST(LogprobsHash, IsLeftOutWhereATokenHasNone) {
  api::PositionLogprobs position;
  position.chosen = {.token = 1, .text = "t", .logprob = -0.5F, .rank = 1};
  DrawnChoice choice;
  choice.take(std::vector<TokenId>{7}, {});
  choice.take(std::vector<TokenId>{1}, std::vector{position});
  EXPECT_EQ(choice.receipt(false).logprobs_hash, "");
  EXPECT_EQ(choice.receipt(false).tokens.count, 2);
}

}  // namespace
}  // namespace baton::serve
