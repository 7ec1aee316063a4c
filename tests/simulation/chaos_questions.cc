#include "tests/simulation/chaos_questions.h"

#include <fmt/format.h>

#include <random>

#include "api/request.h"
#include "api/response.h"
#include "base/check.h"
#include "engine/engine.h"
#include "kv/arena.h"
#include "serve/request_builder.h"

namespace baton::simulation::chaos {
namespace {

constexpr uint32_t kVocab = 32;
constexpr size_t kFamilies = 12;  // of prompts with a common beginning
constexpr int kPromptMax = 56;

class Alone {
 public:
  Alone() : model_(fake_options(16)), served_(make_served()) {
    arena_ = std::move(*kv::KvArena::create(model_.info().kv_layout, 64, Incarnation{{1}}));
    engine_.emplace(engine::EngineConfig{}, model_, *arena_);
  }

  void answer(Question& question) {
    const auto parsed = api::parse_completion_request(question.body, {.vocab_size = served_->vocab_size});
    CHECK(parsed.has_value(), "{}", parsed.error().message);
    const auto prompt = serve::tokenize_prompt(*served_, parsed->prompts.front(), true);
    std::string why;
    auto request = serve::build_request(*served_, *parsed, {}, prompt->tokens, 16, {}, why);
    CHECK(request.has_value(), "{}", request.error().message);
    request->id = RequestId{next_++};
    std::vector<std::vector<TokenId>> tokens(request->sampling.n);
    question.reasons.resize(request->sampling.n);
    std::vector<engine::Inbox> inbox;
    inbox.emplace_back(engine::Submit{std::move(*request)});
    for (bool done = false; !done;) {
      now_ = now_ + std::chrono::milliseconds(1);
      for (const auto& answer : engine_->step(std::exchange(inbox, {}), now_).answers) {
        CHECK(!std::holds_alternative<engine::FailedEvent>(answer));
        done = done || std::holds_alternative<engine::FinishedEvent>(answer);
        const auto* const drawn = std::get_if<engine::TokensEvent>(&answer);
        if (drawn == nullptr) continue;
        for (const auto& token : drawn->tokens) {
          tokens[drawn->choice].push_back(token.token);
          if (token.finish)
            question.reasons[drawn->choice] =
                *token.finish == engine::FinishReason::kStop ? "stop" : "length";
        }
      }
    }
    for (const auto& choice : tokens) question.texts.push_back(text_of(choice));
  }

 private:
  model::FakeModel model_;
  std::unique_ptr<serve::ServedModel> served_;
  std::unique_ptr<kv::KvArena> arena_;
  std::optional<engine::Engine> engine_;
  Time now_{std::chrono::seconds(1)};
  uint64_t next_ = 1;
};

}  // namespace

model::FakeModelOptions fake_options(uint32_t block_tokens) {
  return {.vocab_size = kVocab,
          .max_position = kMaxModelLen,
          .batch_rows_max = 256,
          .layout = {.layers = 2, .kv_heads = 1, .head_dim = 4, .block_tokens = block_tokens}};
}

std::unique_ptr<serve::ServedModel> make_served() {
  auto tokenizer = text::Tokenizer::load(std::string(BATON_SOURCE_DIR) + "/tests/golden/checkpoints/qwen3");
  CHECK(tokenizer.has_value(), "{}", tokenizer.error().message);
  auto served = std::make_unique<serve::ServedModel>(std::move(*tokenizer));
  served->names = {"m"};
  served->vocab_size = kVocab;
  served->max_model_len = kMaxModelLen;
  served->eos_token_ids = {kVocab / 2};
  return served;
}

std::string text_of(const std::vector<TokenId>& tokens) {
  return tokens.empty() ? std::string() : fmt::format("{} ", fmt::join(tokens, " "));
}

Questions::Questions(size_t count) {
  std::mt19937_64 random(1);
  const auto number = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<uint64_t>(high - low + 1));
  };
  std::vector<std::vector<int>> families(kFamilies);
  for (auto& family : families) {
    for (int i = 0; i < kPromptMax; ++i) family.push_back(number(0, kVocab - 1));
  }
  Alone alone;
  for (size_t i = 0; i < count; ++i) {
    std::vector<int> prompt = families[random() % kFamilies];
    prompt.resize(static_cast<size_t>(number(1, kPromptMax)));
    for (size_t at = prompt.size() - static_cast<size_t>(number(0, 3)) % prompt.size(); at < prompt.size();
         ++at)
      prompt[at] = number(0, kVocab - 1);
    Question question;
    question.stream = random() % 2 == 0;
    question.body = fmt::format(
        R"({{"model":"m","prompt":[{}],"max_tokens":{},"seed":{},"temperature":{},"n":{}{}}})",
        fmt::join(prompt, ","), number(1, number(0, 4) == 0 ? 40 : 8), number(0, 99),
        number(0, 2) == 0 ? 0 : 1, number(0, 9) == 0 ? 2 : 1, question.stream ? R"(,"stream":true)" : "");
    alone.answer(question);
    all_.push_back(std::move(question));
  }
}

}  // namespace baton::simulation::chaos
