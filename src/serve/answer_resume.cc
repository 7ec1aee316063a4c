// How an answer is noted, and goes on where another instance left it.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "serve/answer.h"

namespace baton::serve {

void Answer::write_notes(const api::ResumeHead& head) {
  writes_notes_ = true;
  unsaid_head_ = head;
  unsaid_head_->id = head_.id;
  unsaid_head_->created = head_.created_s;
}

Result<void> Answer::go_on(const api::Resumption& before) {
  writes_notes_ = true;
  goes_on_ = before.head;
  usage_said_ = before.usage_sent;
  const bool offsets = !is_chat() && request_->sampling.logprobs.has_value();
  int64_t prompt_offset = 0;
  PromptState& prompt = prompts_.front();
  prompt.cached_tokens = before.head.cached_tokens;
  if (offsets && request_->echo) {
    for (const TokenId token : prompt.prompt.tokens)
      prompt_offset += api::characters_begun(tokenizer_->token_bytes(token));
  }
  for (size_t i = 0; i < before.choices.size(); ++i) {
    const api::ResumedChoice& was = before.choices[i];
    ChoiceState& choice = choices_[i];
    choice.has_role = was.begun;
    choice.begun = !was.token_ids.empty() || was.finished;
    choice.text_offset = prompt_offset;
    std::vector<engine::DrawnToken> tokens(was.token_ids.size());
    for (size_t t = 0; t < tokens.size(); ++t) {
      tokens[t].token = was.token_ids[t];
      if (offsets) choice.text_offset += api::characters_begun(tokenizer_->token_bytes(was.token_ids[t]));
    }
    static_cast<void>(choice.text.take(tokens));
    if (request_->receipt) choice.drawn.take(was.token_ids, {});
    if (was.finished) {
      choice.text.conclude();
      choice.is_over = true;
    } else if (choice.text.finished()) {
      return fail(
          Code::kInvalid,
          fmt::format("{}.choices[{}].token_ids: their text has a stop string, expected one that goes on",
                      api::kResumeField, i),
          std::string(api::kResumeField));
    }
  }
  return {};
}

// One token of the choice whose turn it is, as long as there is one: the shortest unfinished one, of those
// the first. One instance draws a token of each choice per step; here those that had fewer catch up first.
Answer::Taken Answer::take_in_order() {
  Taken all;
  while (true) {
    ChoiceState* next = nullptr;
    for (ChoiceState& choice : choices_) {
      if (choice.text.finished()) continue;
      if (next == nullptr || choice.text.tokens() < next->text.tokens()) next = &choice;
    }
    if (next == nullptr || next->ahead.empty()) return all;
    const engine::DrawnToken token = std::move(next->ahead.front());
    next->ahead.pop_front();
    const Taken taken = take_tokens(*next, {token});
    all.tokens += taken.tokens;
    all.hit_stop.insert(all.hit_stop.end(), taken.hit_stop.begin(), taken.hit_stop.end());
  }
}

void Answer::append_note(ChoiceState& choice, bool finished, std::vector<TokenId> ids) {
  api::ResumeNote note;
  note.head = std::exchange(unsaid_head_, std::nullopt);
  note.choices.push_back({.index = static_cast<int32_t>(&choice - choices_.data()),
                          .ids = std::move(ids),
                          .finished = finished});
  api::append_resume_note(events_, note);
}

}  // namespace baton::serve
