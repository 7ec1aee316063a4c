// What a client gets: whole answers, stream chunks, usage, logprobs, lists, errors, in OpenAI's shapes with
// vLLM's additions (token_ids, prompt_token_ids, stop_reason, prompt_logprobs, kv_transfer_params). Pure
// functions that append to strings; ChunkWriter runs once per token and prepares at its start what never
// changes.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace baton::api {

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  std::optional<int64_t> cached_tokens = {};  // prompt_tokens_details.cached_tokens
};

// One token of the vocabulary at one position.
struct Candidate {
  TokenId token = 0;
  std::string text = {};  // its bytes; may be part of a character
  float logprob = 0;      // natural logarithm; below -9999 is shown as -9999 (as vLLM)
  int32_t rank = 0;       // 1 is the most probable
  bool operator==(const Candidate&) const = default;
};

// A position of prompt or answer. `known` is false at a prompt's first position, where there is no
// distribution.
struct PositionLogprobs {
  Candidate chosen = {};
  std::vector<Candidate> top = {};  // best first; as many as were asked for
  bool known = true;
  bool operator==(const PositionLogprobs&) const = default;
};

enum class FinishReason { kStop, kLength, kAbort, kError };
constexpr std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAbort:
      return "abort";
    case FinishReason::kError:
      return "error";
  }
  return "error";
}
std::optional<FinishReason> parse_finish_reason(std::string_view name);

// Which stop token or stop string ended the answer; nothing at end of sequence and at the length limit.
using StopReason = std::variant<std::monostate, TokenId, std::string>;

// One choice of a whole answer.
struct Choice {
  int32_t index = 0;
  std::string text = {};  // with echo: the prompt, then the answer
  FinishReason finish_reason = FinishReason::kStop;
  StopReason stop_reason = {};
  std::optional<std::vector<PositionLogprobs>> logprobs = {};  // with echo: prompt positions first
  int64_t text_offset = 0;                                     // characters before the first of `logprobs`
  std::optional<std::vector<PositionLogprobs>> prompt_logprobs = {};
  std::optional<std::vector<TokenId>> prompt_token_ids = {};  // return_token_ids
  std::optional<std::vector<TokenId>> token_ids = {};         // return_token_ids
};

// What one answer or stream keeps from beginning to end.
struct ResponseHead {
  std::string id = {};         // completion_id() or chat_id()
  int64_t created_s = 0;       // Unix time
  std::string model = {};      // the first served name
  bool tokens_as_ids = false;  // return_tokens_as_token_ids
};

// Characters that begin in `bytes`, which may end or begin inside one. text_offset counts these, as its
// readers' strings do; a token that begins inside a character points at that character.
int64_t characters_begun(std::string_view bytes);

std::string completion_id(std::string_view request_id);  // "cmpl-<id>"
std::string chat_id(std::string_view request_id);        // "chatcmpl-<id>"

// Whole answers. `kv_transfer_params`, `timings` and `receipt` are JSON text, empty for none.
std::string render_completion(const ResponseHead& head, std::span<const Choice> choices, const Usage& usage,
                              std::string_view kv_transfer_params = {}, std::string_view timings = {},
                              std::string_view receipt = {});
std::string render_chat(const ResponseHead& head, std::span<const Choice> choices, const Usage& usage,
                        std::string_view kv_transfer_params = {}, std::string_view timings = {},
                        std::string_view receipt = {});

// What one step adds to one choice of a stream. Views live for the call.
struct Delta {
  int32_t index = 0;
  std::string_view text = {};
  std::optional<FinishReason> finish_reason = {};
  StopReason stop_reason = {};
  const std::vector<PositionLogprobs>* logprobs = nullptr;  // null: not asked for
  int64_t text_offset = 0;                                  // characters before the first of `logprobs`
  const std::vector<TokenId>* token_ids = nullptr;          // return_token_ids
  const std::vector<TokenId>* prompt_token_ids = nullptr;   // return_token_ids, the choice's first chunk only
  const Usage* usage = nullptr;                             // continuous_usage_stats
};

// Writes the events of one stream. Every function appends whole SSE events ("data: {...}\n\n").
class ChunkWriter {
 public:
  enum class Kind { kCompletion, kChat };
  ChunkWriter(Kind kind, const ResponseHead& head);

  // Chat only: the first event of a choice, {"delta":{"role":"assistant","content":""}}.
  void append_role(std::string& out, const Delta& delta) const;
  void append_delta(std::string& out, const Delta& delta) const;
  // stream_options.include_usage: choices empty, usage of all choices.
  void append_usage(std::string& out, const Usage& usage) const;
  // The last event where the client asked for timings or a receipt (JSON text, empty: not asked for): choices
  // empty; `usage` if it asked for that too.
  void append_last(std::string& out, std::string_view timings, std::string_view receipt,
                   const Usage* usage) const;

 private:
  Kind kind_;
  bool tokens_as_ids_;
  std::string prefix_;  // data: {"id":...,"choices":[
};

void append_done(std::string& out);                             // data: [DONE]
void append_error_event(std::string& out, const Error& error);  // after the first byte: an error as an event

// {"error":{"message","type","param","code"}}; code is the status.
std::string render_error(const Error& error);
std::string render_error(const Error& error, int status);

// The one place where failures become HTTP statuses.
int http_status(Code code);

struct ModelCard {
  std::string id = {};
  std::string root = {};  // the path of the checkpoint
  int64_t created_s = 0;
  int32_t max_model_len = 0;
};
// GET /v1/models. `baton` is JSON text of the instance's identity (api/identity.h), empty for none.
std::string render_models(std::span<const ModelCard> cards, std::string_view baton = {});

std::string render_tokenize(std::span<const TokenId> tokens, int32_t max_model_len,
                            const std::vector<std::string>* token_strs = nullptr);
std::string render_detokenize(std::string_view text);

}  // namespace baton::api
