#include "api/receipt.h"

#include <gtest/gtest.h>

#include <functional>

namespace baton::api {
namespace {

constexpr ReceiptSides kSides{"in the receipt", "recomputed"};

Receipt example() {
  const std::string hash(kHashDigits, 'a');
  const ReceiptTokens drawn{.count = 2, .hash = hash, .ids = {{5, 6}}};
  return {.baton = "0.1.0",
          .fingerprint = "f0",
          .dtype = "bfloat16",
          .prompts = {{.seed = -7,
                       .sampling = {.temperature = 0.75F,
                                    .logit_bias = {{3, 0.1F}, {9, -2.0F}},
                                    .n = 2,
                                    .max_tokens = 16,
                                    .eos_token_ids = {1, 2},
                                    .logprobs = 0,
                                    .stop = {"\"a\n"}},
                       .tokens = {.count = 3, .hash = hash, .ids = {{1, 2, 3}}},
                       .choices = {{.tokens = drawn,
                                    .finish_reason = FinishReason::kStop,
                                    .stop_reason = std::string("\"a\n"),
                                    .logprobs_hash = hash},
                                   {.tokens = drawn,
                                    .finish_reason = FinishReason::kLength,
                                    .stop_reason = TokenId{6},
                                    .logprobs_hash = hash}}}}};
}

std::string difference(const std::function<void(Receipt&)>& change) {
  Receipt other = example();
  change(other);
  return first_difference(example(), other, kSides).value_or("");
}

std::string refusal(const std::string& text, const std::string& from, const std::string& to) {
  std::string changed = text;
  const size_t at = changed.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  changed.replace(at, from.size(), to);
  const auto parsed = parse_receipt(changed);
  return parsed ? "" : parsed.error().message;
}

TEST(Receipt, ReadBackIsTheSameAloneAndInAnAnswer) {
  const std::string text = render_receipt(example());
  EXPECT_EQ(parse_receipt(text), example());
  EXPECT_EQ(parse_receipt(R"({"id":"cmpl-1","choices":[],"receipt":)" + text + "}"), example());
  Receipt hashes_only = example();
  hashes_only.prompts[0].tokens.ids.reset();
  for (ReceiptChoice& choice : hashes_only.prompts[0].choices) choice.tokens.ids.reset();
  EXPECT_EQ(parse_receipt(render_receipt(hashes_only)), hashes_only);
}

TEST(Receipt, ARefusalNamesThePlaceAndWhatWasExpected) {
  const std::string text = render_receipt(example());
  EXPECT_EQ(refusal(text, R"("version":1)", R"("version":2)"), "receipt.version: 2, expected 1");
  EXPECT_EQ(refusal(text, R"("temperature":0.75,)", ""),
            "receipt.prompts[0].sampling.temperature: missing, expected a value");
  EXPECT_EQ(refusal(text, R"("count":2,)", R"("count":3,)"),
            "receipt.prompts[0].choices[0].tokens.ids: 2, expected as many as count, 3");
  EXPECT_EQ(refusal(text, R"("n":2)", R"("n":3)"),
            "receipt.prompts[0].choices: 2, expected as many as sampling.n, 3");
  EXPECT_EQ(refusal(text, R"("hash":"aa)", R"("hash":"aX)").substr(0, 41),
            "receipt.prompts[0].tokens.hash: \"aXaaaaaa");
  EXPECT_EQ(refusal(text, "[9,-2", "[3,-2"),
            "receipt.prompts[0].sampling.logit_bias: [3,-2], expected ascending token ids");
  EXPECT_EQ(parse_receipt("{}").error().message, "receipt.version: missing, expected a value");
  EXPECT_EQ(parse_receipt(R"({"receipt":[]})").error().message, "receipt: [], expected an object");
  EXPECT_FALSE(parse_receipt("BATONREC").has_value());
}

TEST(Receipt, ADifferenceNamesItsFieldAndPosition) {
  EXPECT_EQ(difference([](Receipt&) {}), "");
  EXPECT_EQ(difference([](Receipt& r) { r.baton = "9"; }), "");
  EXPECT_EQ(difference([](Receipt& r) { r.fingerprint = "f1"; }),
            "fingerprint: f0 in the receipt, f1 recomputed");
  EXPECT_EQ(difference([](Receipt& r) { (*r.prompts[0].choices[1].tokens.ids)[1] = 8; }),
            "prompts[0].choices[1].tokens.ids[1]: 6 in the receipt, 8 recomputed");
  EXPECT_EQ(difference([](Receipt& r) {
              r.prompts[0].choices[0].tokens.ids->push_back(8);
              r.prompts[0].choices[0].tokens.count = 3;
            }),
            "prompts[0].choices[0].tokens.count: 2 in the receipt, 3 recomputed");
  EXPECT_EQ(difference([](Receipt& r) {
              r.prompts[0].choices[0].tokens.ids.reset();
              r.prompts[0].choices[0].tokens.hash = "b";
            }),
            "prompts[0].choices[0].tokens.hash: " + std::string(kHashDigits, 'a') +
                " in the receipt, b recomputed");
  EXPECT_EQ(difference([](Receipt& r) { r.prompts[0].choices[0].finish_reason = FinishReason::kLength; }),
            "prompts[0].choices[0].finish_reason: stop in the receipt, length recomputed");
  EXPECT_EQ(difference([](Receipt& r) { r.prompts[0].choices[1].logprobs_hash = "c"; }).substr(0, 34),
            "prompts[0].choices[1].logprobs_has");
  EXPECT_EQ(difference([](Receipt& r) { r.prompts[0].seed = 8; }),
            "prompts[0].seed: -7 in the receipt, 8 recomputed");
  EXPECT_EQ(difference([](Receipt& r) { r.prompts.push_back(r.prompts[0]); }),
            "prompts: 1 in the receipt, 2 recomputed");
}

}  // namespace
}  // namespace baton::api
