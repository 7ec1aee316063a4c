// What a client gets of one HTTP request: its prompts and their choices as they grow, and how they become the
// events of a stream or one whole body. No sockets, no clock, no engine: a value with one owner, the session.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/request.h"
#include "api/response.h"
#include "api/resume.h"
#include "base/result.h"
#include "engine/request.h"
#include "serve/choice_text.h"
#include "serve/receipt.h"
#include "serve/request_builder.h"
#include "text/tokenizer.h"

namespace baton::serve {

class Answer {
 public:
  using Kind = api::ChunkWriter::Kind;

  // `request` and `tokenizer` outlive it.
  Answer(Kind kind, const api::CommonRequest& request, api::ResponseHead head,
         const text::Tokenizer& tokenizer);

  // One more prompt and its n choices. kInvalid names the stop string that cannot be.
  Result<void> add_prompt(TokenizedPrompt prompt);

  // Of a stream with one prompt, before its first token: a note in front of each event (api/resume.h). Of
  // `head` only seed and digest are looked at.
  void write_notes(const api::ResumeHead& head);
  // As write_notes, and the answer goes on behind what other instances have said of it: nothing of that is
  // said again, and the choices' events come in the order in which one instance would have sent them.
  // kInvalid if it is no part of an answer that goes on.
  Result<void> go_on(const api::Resumption& before);

  // Answers of the engine to prompt number `prompt`, in order.
  void take(uint32_t prompt, const engine::PromptEvent& event);
  struct Taken {
    size_t tokens = 0;               // that count; the engine may have run ahead of a stop string
    std::vector<uint32_t> hit_stop;  // the engine shall stop these choices: their text hit a stop string
  };
  Taken take(uint32_t prompt, const engine::TokensEvent& event);

  // Of a stream: the events since the last call, and those behind the last choice.
  std::string take_events();
  // `timings` and `receipt` are JSON text, as api/timings.h and api/receipt.h; empty if nobody asked.
  std::string last_events(std::string_view timings, std::string_view receipt = {}) const;
  // Of no stream: the whole body. `kv_transfer_params` is JSON text, empty for none. Once.
  std::string take_body(std::string_view kv_transfer_params, std::string_view timings,
                        std::string_view receipt = {});

  // What a receipt says of prompt number `prompt`, drawn with `sampling`; if the request asks for one, and
  // before take_body.
  api::ReceiptPrompt receipt(uint32_t prompt, const engine::SamplingParams& sampling) const;
  // Not of an answer one of whose choices ended at another instance, which alone knows why.
  bool can_give_receipt() const;

  // Every choice has ended.
  bool is_whole() const;

  // Tokens of the longest choice of prompt number `prompt`.
  uint32_t longest_choice(uint32_t prompt) const;

  api::Usage usage() const;
  // Why each choice ended that did so here, by index; one that did not end is cut at the length.
  std::vector<api::FinishReason> finish_reasons() const;

 private:
  struct PromptState {
    TokenizedPrompt prompt;
    int64_t cached_tokens = 0;
    std::optional<std::vector<api::PositionLogprobs>> logprobs;  // prompt_logprobs, once known
  };
  struct ChoiceState {
    uint32_t prompt = 0;  // index into prompts_
    ChoiceText text;
    DrawnChoice drawn;                     // where a receipt is asked for
    bool has_role = false;                 // a chat's: its role was said
    bool begun = false;                    // its first chunk was made
    bool is_over = false;                  // ended at another instance
    int64_t text_offset = 0;               // characters before its next token, where logprobs are asked for
    std::vector<TokenId> unnoted;          // consumed since its last note
    std::deque<engine::DrawnToken> ahead;  // of an answer that goes on: wait for the other choices
    // Kept only for whole answers:
    std::string whole_text;
    std::vector<TokenId> token_ids;
    std::vector<api::PositionLogprobs> logprobs;
  };

  bool is_chat() const { return kind_ == Kind::kChat; }
  // echo with max_tokens 0 asks for the prompt alone; the engine draws a token all the same.
  bool drops_output() const { return request_->echo && request_->sampling.max_tokens == 0; }
  api::Usage usage_of(const ChoiceState& choice) const;
  int64_t first_offset(const PromptState& prompt) const;
  Taken take_tokens(ChoiceState& choice, const std::vector<engine::DrawnToken>& tokens);
  Taken take_in_order();
  void append_note(ChoiceState& choice, bool finished, std::vector<TokenId> ids);
  void append_chunk(ChoiceState& choice, ChoiceText::Added added);
  api::Choice whole(int32_t index, ChoiceState& choice) const;

  Kind kind_;
  const api::CommonRequest* request_;
  api::ResponseHead head_;
  const text::Tokenizer* tokenizer_;
  api::ChunkWriter chunks_;
  std::vector<PromptState> prompts_;
  std::vector<ChoiceState> choices_;  // [prompt][n]
  std::string events_;
  bool writes_notes_ = false;
  std::optional<api::ResumeHead> unsaid_head_;  // for the first note
  std::optional<api::ResumeHead> goes_on_;      // what the first instance said of the answer
  bool usage_said_ = false;                     // by another instance
};

}  // namespace baton::serve
