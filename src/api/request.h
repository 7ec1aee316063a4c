// What a client may ask: /v1/completions, /v1/chat/completions, /tokenize, /detokenize, /abort_request as
// structs. Field names and meanings are OpenAI's and vLLM's (vllm/entrypoints/openai/protocol.py). Every
// value is checked for type and range here; what needs the model (lengths, vocabulary) is checked where the
// model is.
//
// Errors are kInvalid with `param` set: "temperature: -1, expected a number from 0 to 1000". Fields that
// nobody knows are ignored as vLLM does, and named in `unknown_fields` for a debug log. Fields that vLLM
// knows and Baton cannot honour yet are refused when they ask for something ("response_format: type
// json_schema is not supported yet").
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "api/json.h"
#include "api/limits.h"
#include "base/ids.h"
#include "base/result.h"

namespace baton::api {

// What the server allows, beyond the constants of limits.h.
struct RequestLimits {
  int32_t max_logprobs = 20;         // --max-logprobs: bound of logprobs, top_logprobs, prompt_logprobs
  int32_t vocab_size = INT32_MAX;    // token ids lie in [0, vocab_size)
  bool trust_chat_template = false;  // --trust-request-chat-template
  size_t body_bytes_max = kBodyBytesMax;
};

struct LogitBias {
  TokenId token = 0;
  float bias = 0;  // added to the logit; within +-kLogitBiasBound
  bool operator==(const LogitBias&) const = default;
};

// What the client says about drawing tokens. Nothing means "not said": the server's default counts
// (resolve()).
struct SamplingFields {
  std::optional<float> temperature = {};         // [0, kTemperatureMax]; 0 is greedy
  std::optional<float> top_p = {};               // (0, 1]
  std::optional<int32_t> top_k = {};             // -1 and 0 mean "all"
  std::optional<float> min_p = {};               // [0, 1]
  std::optional<float> repetition_penalty = {};  // (0, kRepetitionPenaltyMax]
  float presence_penalty = 0;                    // +-kPenaltyBound
  float frequency_penalty = 0;                   // +-kPenaltyBound
  std::vector<LogitBias> logit_bias = {};        // ascending token, no two the same
  std::optional<int64_t> seed = {};
  int32_t n = 1;                       // [1, kChoicesPerPromptMax]
  std::vector<std::string> stop = {};  // none empty
  std::vector<TokenId> stop_token_ids = {};
  bool include_stop_str_in_output = false;
  bool ignore_eos = false;
  bool skip_special_tokens = true;
  bool spaces_between_special_tokens = true;
  int32_t min_tokens = 0;
  std::optional<int32_t> max_tokens;            // max_completion_tokens, else max_tokens; 0 only with echo
  std::optional<int32_t> logprobs = {};         // how many beside the chosen token; 0: only the chosen one
  std::optional<int32_t> prompt_logprobs = {};  // the same for each prompt position but the first

  bool operator==(const SamplingFields&) const = default;
};

// generation_config.json as server defaults, and the cap on answers that it may name.
struct SamplingDefaults {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int32_t> top_k = {};
  std::optional<int32_t> max_new_tokens = {};
};

// Every value decided: the client's, else the server's, else vLLM's neutral ones.
struct Sampling {
  float temperature = 1;
  float top_p = 1;
  int32_t top_k = 0;  // 0: all
  float min_p = 0;
  float repetition_penalty = 1;
  int32_t max_tokens = 0;
};

// Fills what the client left open. `room_tokens` is max_model_len minus the prompt's tokens;
// `fallback_max_tokens` counts when neither client nor server names a maximum. Never more than room_tokens.
Sampling resolve(const SamplingFields& fields, const SamplingDefaults& defaults, int32_t room_tokens,
                 std::optional<int32_t> fallback_max_tokens);

// What both kinds of completion share.
struct CommonRequest {
  std::string model = {};  // empty: not given
  SamplingFields sampling = {};
  bool stream = false;
  bool include_usage = false;           // stream_options.include_usage: a last chunk with the usage
  bool continuous_usage_stats = false;  // stream_options.continuous_usage_stats: usage in every chunk
  bool return_token_ids = false;
  bool return_tokens_as_token_ids = false;  // logprobs name tokens "token_id:N"
  bool timings = false;                     // the answer says where its time went (api/timings.h)
  bool receipt = false;                     // the answer can be computed again (api/receipt.h)
  bool echo = false;
  std::string cache_salt = {};  // empty: none
  int32_t priority = 0;         // lower is served first
  std::string user = {};
  std::string request_id = {};                    // empty: the server draws one
  std::optional<json::value> kv_transfer_params;  // object or list, as it came; see api/kv_transfer_params.h
  std::optional<json::value> resume;              // baton_resume, as it came; see api/resume.h
  std::vector<std::string> unknown_fields = {};   // at most kUnknownFieldsMax
};

// A prompt as text or as token ids.
using Prompt = std::variant<std::string, std::vector<TokenId>>;

struct CompletionRequest : CommonRequest {
  std::vector<Prompt> prompts = {};  // at least one; several only when the client sent a list
  bool add_special_tokens = true;    // of text prompts
};

struct ChatRequest : CommonRequest {
  json::array messages = {};  // objects with a string `role`; content is a string, null or parts of type text
  std::optional<json::array> tools = {};  // for the template; present and non-empty, or nothing
  bool tool_choice_none = false;          // tool_choice "none" (also when there are no tools)
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  bool add_special_tokens = false;
  json::object chat_template_kwargs = {};
  std::string chat_template = {};  // empty: the model's own
};

Result<CompletionRequest> parse_completion_request(std::string_view body, const RequestLimits& limits);
Result<ChatRequest> parse_chat_request(std::string_view body, const RequestLimits& limits);

// What templates that were written for strings expect (as vLLM's chat_utils): parts of type text become one
// string joined by newlines, no content is an empty string, and the arguments of earlier tool calls, sent as
// JSON text, become values.
void normalise_messages(json::array& messages);

// POST /tokenize: a prompt, or the messages of a chat.
struct TokenizeRequest {
  std::string model = {};
  std::variant<std::string, ChatRequest> input = {};
  bool add_special_tokens = true;
  bool return_token_strs = false;
};
Result<TokenizeRequest> parse_tokenize_request(std::string_view body, const RequestLimits& limits);

// POST /detokenize: {"model", "tokens": [ids]}.
struct DetokenizeRequest {
  std::string model = {};
  std::vector<TokenId> tokens = {};
};
Result<DetokenizeRequest> parse_detokenize_request(std::string_view body, const RequestLimits& limits);

// POST /abort_request: {"request_id": "..."} or {"request_id": ["...", ...]}.
Result<std::vector<std::string>> parse_abort_request(std::string_view body);

}  // namespace baton::api
