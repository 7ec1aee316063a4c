// What a client reads of one choice depends on its tokens alone, never on how many a step brought.
#include "serve/choice_text.h"

#include <gtest/gtest.h>

#include "serve/testing.h"

namespace baton::serve {
namespace {

const ServedModel& shared_model() {
  static const ServedModel model = test_model();
  return model;
}

struct Case {
  const char* name;
  std::vector<TokenId> tokens;
  std::vector<std::string> stops;
  ChoiceText::Settings settings;
  engine::FinishReason end;  // of the last token
  std::optional<TokenId> stop_token;
  // what the client gets
  std::string text;
  api::FinishReason finish;
  api::StopReason stop_reason;
  uint32_t counted;
};

std::vector<TokenId> joined(std::vector<TokenId> a, std::initializer_list<TokenId> b) {
  a.insert(a.end(), b);
  return a;
}

std::vector<Case> cases() {
  const auto ids = [](std::string_view text) { return ids_of(shared_model(), text); };
  const auto count = [](const std::vector<TokenId>& tokens) { return static_cast<uint32_t>(tokens.size()); };
  constexpr auto kLength = engine::FinishReason::kLength;
  constexpr auto kStop = engine::FinishReason::kStop;
  const auto plain = ids("a\u20ac\u00e9x");
  auto half = ids("a\u20ac");
  half.pop_back();
  const auto xyz = ids("x7y7z");
  return {
      {"to the limit",
       plain,
       {},
       {},
       kLength,
       {},
       "a\u20ac\u00e9x",
       api::FinishReason::kLength,
       {},
       count(plain)},
      {"cut inside a character",
       half,
       {},
       {},
       kLength,
       {},
       "a\ufffd",
       api::FinishReason::kLength,
       {},
       count(half)},
      {"the end token is counted and not shown",
       joined(plain, {kTestEos}),
       {},
       {},
       kStop,
       {},
       "a\u20ac\u00e9x",
       api::FinishReason::kStop,
       {},
       count(plain) + 1},
      {"a special token is shown on request",
       joined(plain, {kTestImStart, plain[0]}),
       {},
       {.skip_special_tokens = false},
       kLength,
       {},
       "a\u20ac\u00e9x<|im_start|>a",
       api::FinishReason::kLength,
       {},
       count(plain) + 2},
      {"a stop token is named",
       joined(plain, {plain[0]}),
       {},
       {},
       kStop,
       plain[0],
       "a\u20ac\u00e9x",
       api::FinishReason::kStop,
       plain[0],
       count(plain) + 1},
      {"a stop string ends before itself",
       xyz,
       {"7y"},
       {},
       kLength,
       {},
       "x",
       api::FinishReason::kStop,
       "7y",
       3},
      {"or behind itself",
       xyz,
       {"7y"},
       {.include_stop_str_in_output = true},
       kLength,
       {},
       "x7y",
       api::FinishReason::kStop,
       "7y",
       3},
      {"the beginning of one that never completes comes out at the end",
       ids("x7"),
       {"7y"},
       {},
       kLength,
       {},
       "x7",
       api::FinishReason::kLength,
       {},
       2},
      {"min_tokens outlives a stop string",
       xyz,
       {"7"},
       {.min_tokens = 4},
       kLength,
       {},
       "x7y",
       api::FinishReason::kStop,
       "7",
       4},
  };
}

std::vector<engine::DrawnToken> drawn(const Case& c) {
  std::vector<engine::DrawnToken> out;
  for (const TokenId token : c.tokens) {
    const engine::TokenLogprob self{.token = token, .logprob = -1, .rank = 1};
    out.push_back({.token = token,
                   .logprobs = engine::PositionLogprobs{.self = self, .top = {self}},
                   .finish = {},
                   .stop_token = {}});
  }
  out.back().finish = c.end;
  out.back().stop_token = c.stop_token;
  return out;
}

TEST(ChoiceText, IsTheSameHoweverTheTokensAreCutIntoSteps) {
  for (const Case& c : cases()) {
    const auto tokens = drawn(c);
    ASSERT_LE(tokens.size(), 10U) << c.name;
    for (uint32_t cuts = 0; cuts < 1U << (tokens.size() - 1); ++cuts) {
      auto stops = text::StopStrings::create(c.stops, c.settings.include_stop_str_in_output);
      ASSERT_TRUE(stops);
      ChoiceText choice(shared_model().tokenizer, std::move(*stops), c.settings);
      std::string text;
      std::vector<TokenId> ids;
      size_t logprobs = 0;
      for (size_t from = 0; from < tokens.size();) {
        size_t to = from + 1;
        while (to < tokens.size() && (cuts >> (to - 1) & 1U) == 0) ++to;
        const auto added = choice.take(
            {tokens.begin() + static_cast<ptrdiff_t>(from), tokens.begin() + static_cast<ptrdiff_t>(to)});
        text += added.text;
        ids.insert(ids.end(), added.token_ids.begin(), added.token_ids.end());
        logprobs += added.logprobs.size();
        from = to;
      }
      ASSERT_EQ(text, c.text) << c.name << ", cut " << cuts;
      ASSERT_EQ(choice.finish(), c.finish) << c.name;
      ASSERT_EQ(choice.stop_reason(), c.stop_reason) << c.name;
      ASSERT_EQ(choice.tokens(), c.counted) << c.name;
      ASSERT_EQ(logprobs, c.counted) << c.name;
      ASSERT_TRUE(std::equal(ids.begin(), ids.end(), c.tokens.begin())) << c.name;
    }
  }
}

TEST(ChoiceText, TellsTheEngineToStopOnlyWhereItWouldGoOn) {
  const auto tokens = ids_of(shared_model(), "x7");
  for (const bool ends : {false, true}) {
    auto stops = text::StopStrings::create({"7"}, false);
    ASSERT_TRUE(stops);
    ChoiceText choice(shared_model().tokenizer, std::move(*stops), {});
    std::vector<engine::DrawnToken> last(1);
    last[0].token = tokens.back();
    if (ends) last[0].finish = engine::FinishReason::kLength;
    EXPECT_EQ(choice.take(last).hit_stop_string, !ends);
    EXPECT_EQ(choice.finish(), api::FinishReason::kStop);
  }
}

TEST(ChoiceText, LogprobsCarryTheBytesOfEachToken) {
  const auto euro = ids_of(shared_model(), "\u20ac");
  std::string bytes;
  for (const TokenId token : euro) {
    const engine::TokenLogprob self{.token = token, .logprob = -2, .rank = 3};
    const auto position = with_texts({.self = self, .top = {self}}, shared_model().tokenizer);
    bytes += position.chosen.text;
    EXPECT_EQ(position.top, std::vector<api::Candidate>{position.chosen});
    EXPECT_EQ(position.chosen.rank, 3);
  }
  EXPECT_EQ(bytes, "\u20ac");
}

}  // namespace
}  // namespace baton::serve
