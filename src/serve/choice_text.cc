#include "serve/choice_text.h"

namespace baton::serve {
namespace {

api::Candidate with_text(const engine::TokenLogprob& entry, const text::Tokenizer& tokenizer) {
  return {.token = entry.token,
          .text = std::string(tokenizer.token_bytes(entry.token)),
          .logprob = entry.logprob,
          .rank = static_cast<int32_t>(entry.rank)};
}

api::FinishReason finish_of(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kStop:
      return api::FinishReason::kStop;
    case engine::FinishReason::kLength:
      return api::FinishReason::kLength;
    case engine::FinishReason::kAbort:
      return api::FinishReason::kAbort;
    case engine::FinishReason::kError:
      return api::FinishReason::kError;
  }
  return api::FinishReason::kError;
}

}  // namespace

api::PositionLogprobs with_texts(const engine::PositionLogprobs& position, const text::Tokenizer& tokenizer) {
  api::PositionLogprobs out;
  out.chosen = with_text(position.self, tokenizer);
  out.top.reserve(position.top.size());
  for (const engine::TokenLogprob& entry : position.top) out.top.push_back(with_text(entry, tokenizer));
  return out;
}

ChoiceText::Added ChoiceText::take(const std::vector<engine::DrawnToken>& tokens) {
  Added added;
  for (const engine::DrawnToken& token : tokens) {
    if (finished()) break;
    take_one(token, added);
  }
  return added;
}

void ChoiceText::conclude() {
  if (!finish_) finish_ = api::FinishReason::kStop;
}

void ChoiceText::take_one(const engine::DrawnToken& token, Added& added) {
  ++count_;
  added.token_ids.push_back(token.token);
  if (token.logprobs) added.logprobs.push_back(with_texts(*token.logprobs, *tokenizer_));
  // A token that ends the answer by itself (EOS, a stop token) is counted but, as in vLLM, not part of the
  // text.
  const bool ends_by_token = token.finish == engine::FinishReason::kStop;
  if (!ends_by_token || settings_.include_stop_str_in_output) {
    added.text += stops_.feed(decoder_.push(token.token), count_ >= settings_.min_tokens);
  }
  if (stops_.stopped()) {
    finish_ = api::FinishReason::kStop;
    stop_reason_ = stops_.stop_string();
    added.hit_stop_string = !token.finish;
    return;
  }
  if (!token.finish) return;
  added.text += stops_.feed(decoder_.flush());
  if (stops_.stopped()) {
    finish_ = api::FinishReason::kStop;
    stop_reason_ = stops_.stop_string();
    return;
  }
  added.text += stops_.flush();
  finish_ = finish_of(*token.finish);
  if (token.stop_token) stop_reason_ = *token.stop_token;
}

}  // namespace baton::serve
