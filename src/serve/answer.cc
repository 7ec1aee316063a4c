#include "serve/answer.h"

#include <algorithm>
#include <utility>

namespace baton::serve {

Answer::Answer(Kind kind, const api::CommonRequest& request, api::ResponseHead head,
               const text::Tokenizer& tokenizer)
    : kind_(kind), request_(&request), head_(std::move(head)), tokenizer_(&tokenizer), chunks_(kind, head_) {}

Result<void> Answer::add_prompt(TokenizedPrompt prompt) {
  const api::SamplingFields& fields = request_->sampling;
  const auto number = static_cast<uint32_t>(prompts_.size());
  prompts_.push_back({.prompt = std::move(prompt), .logprobs = {}});
  for (int32_t i = 0; i < fields.n; ++i) {
    TRY(text::StopStrings stops, text::StopStrings::create(fields.stop, fields.include_stop_str_in_output));
    choices_.push_back({.prompt = number,
                        .text = ChoiceText(*tokenizer_, std::move(stops),
                                           {.skip_special_tokens = fields.skip_special_tokens,
                                            .include_stop_str_in_output = fields.include_stop_str_in_output,
                                            .min_tokens = static_cast<uint32_t>(fields.min_tokens)}),
                        .drawn = {},
                        .unnoted = {},
                        .ahead = {},
                        .whole_text = {},
                        .token_ids = {},
                        .logprobs = {}});
  }
  return {};
}

void Answer::take(uint32_t prompt, const engine::PromptEvent& event) {
  PromptState& state = prompts_[prompt];
  if (unsaid_head_) {
    unsaid_head_->cached_tokens = event.cached_tokens;
    unsaid_head_->handed_over = event.remote;
  }
  state.cached_tokens = goes_on_ ? goes_on_->cached_tokens : event.cached_tokens;
  if (event.prompt_logprobs.empty()) return;
  state.logprobs.emplace();
  for (size_t i = 0; i < event.prompt_logprobs.size(); ++i) {
    if (event.prompt_logprobs[i]) {
      state.logprobs->push_back(with_texts(*event.prompt_logprobs[i], *tokenizer_));
      continue;
    }
    api::PositionLogprobs first;
    first.chosen.token = state.prompt.tokens[i];
    first.chosen.text = std::string(tokenizer_->token_bytes(state.prompt.tokens[i]));
    first.known = false;
    state.logprobs->push_back(std::move(first));
  }
}

Answer::Taken Answer::take(uint32_t prompt, const engine::TokensEvent& event) {
  ChoiceState& choice = choices_[prompt * static_cast<size_t>(request_->sampling.n) + event.choice];
  if (choice.text.finished()) return {};
  if (!goes_on_) return take_tokens(choice, event.tokens);
  choice.ahead.insert(choice.ahead.end(), event.tokens.begin(), event.tokens.end());
  return take_in_order();
}

Answer::Taken Answer::take_tokens(ChoiceState& choice, const std::vector<engine::DrawnToken>& tokens) {
  ChoiceText::Added added = choice.text.take(tokens);
  Taken taken{.tokens = added.token_ids.size(), .hit_stop = {}};
  if (added.hit_stop_string) {
    const auto index = static_cast<size_t>(&choice - choices_.data());
    taken.hit_stop.push_back(static_cast<uint32_t>(index % static_cast<size_t>(request_->sampling.n)));
  }
  if (request_->receipt) choice.drawn.take(added.token_ids, added.logprobs);
  if (writes_notes_)
    choice.unnoted.insert(choice.unnoted.end(), added.token_ids.begin(), added.token_ids.end());
  if (drops_output()) added = {};
  if (request_->stream) {
    append_chunk(choice, std::move(added));
    return taken;
  }
  choice.whole_text += added.text;
  choice.token_ids.insert(choice.token_ids.end(), added.token_ids.begin(), added.token_ids.end());
  for (auto& position : added.logprobs) choice.logprobs.push_back(std::move(position));
  return taken;
}

bool Answer::is_whole() const {
  return std::ranges::all_of(choices_, [](const ChoiceState& choice) { return choice.text.finished(); });
}

bool Answer::can_give_receipt() const {
  return std::ranges::none_of(choices_, [](const ChoiceState& choice) { return choice.is_over; });
}

uint32_t Answer::longest_choice(uint32_t prompt) const {
  uint32_t longest = 0;
  for (const ChoiceState& choice : choices_)
    if (choice.prompt == prompt) longest = std::max(longest, choice.text.tokens());
  return longest;
}

api::Usage Answer::usage() const {
  api::Usage usage;
  int64_t cached = 0;
  for (const PromptState& prompt : prompts_) {
    usage.prompt_tokens += static_cast<int64_t>(prompt.prompt.tokens.size());
    cached += prompt.cached_tokens;
  }
  if (!drops_output()) {
    for (const ChoiceState& choice : choices_) usage.completion_tokens += choice.text.tokens();
  }
  usage.cached_tokens = cached;
  return usage;
}

// As vLLM counts in a chunk: this choice and its prompt alone.
api::Usage Answer::usage_of(const ChoiceState& choice) const {
  const PromptState& prompt = prompts_[choice.prompt];
  return {.prompt_tokens = static_cast<int64_t>(prompt.prompt.tokens.size()),
          .completion_tokens = drops_output() ? 0 : choice.text.tokens(),
          .cached_tokens = prompt.cached_tokens};
}

std::vector<api::FinishReason> Answer::finish_reasons() const {
  std::vector<api::FinishReason> reasons;
  for (const ChoiceState& choice : choices_)
    if (!choice.is_over) reasons.push_back(choice.text.finish().value_or(api::FinishReason::kLength));
  return reasons;
}

// Where the logprobs of an answer begin: behind an echoed prompt whose own are not among them. Counted over
// tokens, as those of the prompt would be.
int64_t Answer::first_offset(const PromptState& prompt) const {
  int64_t offset = 0;
  if (is_chat() || !request_->echo || prompt.logprobs) return offset;
  for (const TokenId token : prompt.prompt.tokens)
    offset += api::characters_begun(tokenizer_->token_bytes(token));
  return offset;
}

void Answer::append_chunk(ChoiceState& choice, ChoiceText::Added added) {
  PromptState& prompt = prompts_[choice.prompt];
  const bool first = !choice.begun;
  if (first && request_->echo) {
    added.text.insert(0, prompt.prompt.text);
    if (request_->sampling.logprobs && prompt.logprobs) {
      added.logprobs.insert(added.logprobs.begin(), prompt.logprobs->begin(), prompt.logprobs->end());
    }
  }
  const auto index = static_cast<int32_t>(&choice - choices_.data());
  api::Usage now = usage_of(choice);
  api::Delta delta{.index = index, .text = {}, .finish_reason = {}, .stop_reason = {}};
  if (request_->continuous_usage_stats) delta.usage = &now;
  if (first && request_->return_token_ids) delta.prompt_token_ids = &prompt.prompt.tokens;
  if (first && is_chat()) {
    if (!choice.has_role) {
      now.completion_tokens = 0;  // the role is none
      if (writes_notes_) append_note(choice, false, {});
      chunks_.append_role(events_, delta);
      now = usage_of(choice);
    }
    delta.prompt_token_ids = nullptr;
  }
  choice.begun = true;
  delta.text = added.text;
  if (choice.text.finished()) {
    delta.finish_reason = choice.text.finish();
    delta.stop_reason = choice.text.stop_reason();
  }
  if (request_->sampling.logprobs) delta.logprobs = &added.logprobs;
  if (request_->return_token_ids) delta.token_ids = &added.token_ids;
  if (first) choice.text_offset = first_offset(prompt);
  delta.text_offset = choice.text_offset;
  for (const auto& position : added.logprobs)
    choice.text_offset += api::characters_begun(position.chosen.text);
  // Text that is held back (half a character, the beginning of a stop string) makes no chunk of its own
  // unless the client counts tokens.
  const bool says_something = !added.text.empty() || delta.finish_reason || delta.logprobs != nullptr ||
                              delta.token_ids != nullptr || delta.usage != nullptr;
  if (!says_something) return;
  if (writes_notes_) append_note(choice, delta.finish_reason.has_value(), std::exchange(choice.unnoted, {}));
  chunks_.append_delta(events_, delta);
}

std::string Answer::take_events() { return std::exchange(events_, {}); }

std::string Answer::last_events(std::string_view timings, std::string_view receipt) const {
  std::string events;
  const api::Usage all = usage();
  const bool has_more = !timings.empty() || !receipt.empty();
  const bool is_due = (has_more || request_->include_usage) && !usage_said_;
  if (is_due && writes_notes_) api::append_resume_note(events, {});
  if (is_due && !has_more) chunks_.append_usage(events, all);
  if (is_due && has_more)
    chunks_.append_last(events, timings, receipt, request_->include_usage ? &all : nullptr);
  api::append_done(events);
  return events;
}

api::Choice Answer::whole(int32_t index, ChoiceState& choice) const {
  const PromptState& prompt = prompts_[choice.prompt];
  api::Choice out;
  out.index = index;
  out.text = request_->echo ? prompt.prompt.text + choice.whole_text : std::move(choice.whole_text);
  out.finish_reason = choice.text.finish().value_or(api::FinishReason::kLength);
  out.stop_reason = choice.text.stop_reason();
  if (request_->sampling.logprobs) {
    out.logprobs.emplace();
    out.text_offset = first_offset(prompt);
    if (request_->echo && prompt.logprobs) *out.logprobs = *prompt.logprobs;
    for (auto& position : choice.logprobs) out.logprobs->push_back(std::move(position));
  }
  if (request_->sampling.prompt_logprobs) out.prompt_logprobs = prompt.logprobs;
  if (request_->return_token_ids) {
    out.prompt_token_ids = prompt.prompt.tokens;
    out.token_ids = std::move(choice.token_ids);
  }
  return out;
}

std::string Answer::take_body(std::string_view kv_transfer_params, std::string_view timings,
                              std::string_view receipt) {
  std::vector<api::Choice> choices;
  for (size_t i = 0; i < choices_.size(); ++i) choices.push_back(whole(static_cast<int32_t>(i), choices_[i]));
  return is_chat() ? api::render_chat(head_, choices, usage(), kv_transfer_params, timings, receipt)
                   : api::render_completion(head_, choices, usage(), kv_transfer_params, timings, receipt);
}

api::ReceiptPrompt Answer::receipt(uint32_t prompt, const engine::SamplingParams& sampling) const {
  const bool with_ids = request_->return_token_ids;
  api::ReceiptPrompt out{.seed = static_cast<int64_t>(sampling.seed),
                         .sampling = receipt_sampling(sampling, request_->sampling),
                         .tokens = receipt_of_tokens(prompts_[prompt].prompt.tokens, with_ids),
                         .choices = {}};
  for (const ChoiceState& choice : choices_) {
    if (choice.prompt != prompt) continue;
    api::ReceiptChoice one = choice.drawn.receipt(with_ids);
    one.finish_reason = choice.text.finish().value_or(api::FinishReason::kLength);
    one.stop_reason = choice.text.stop_reason();
    out.choices.push_back(std::move(one));
  }
  return out;
}

}  // namespace baton::serve
