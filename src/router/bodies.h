// What goes upstream and what comes back, as bytes: the client's body becomes P's and D's (vllm-ascend's
// rewriting, build_prefill_request), and P's part of an answer is merged into D's where only P has it.
// Members that are not touched keep the bytes they were written in.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/json.h"
#include "base/result.h"

namespace baton::router {

enum class Route : uint8_t { kCompletions, kChat };
constexpr std::string_view route_path(Route route) {
  return route == Route::kChat ? "/v1/chat/completions" : "/v1/completions";
}

// A client's body, read as far as the proxy must.
struct ClientBody {
  Route route = Route::kCompletions;
  api::ObjectBytes members;
  size_t bytes = 0;  // of the body as it came
  bool stream = false;
  bool include_usage = false;          // stream_options.include_usage
  bool is_prompt_list = false;         // several prompts in one request
  bool wants_prompt_logprobs = false;  // prompt_logprobs, or echo with logprobs
  bool merges_echo = false;            // the latter: P's logprobs go in front of D's
  bool has_seed = false;
};

// kInvalid with `param`: not a JSON object, or a field of the wrong type among those the proxy reads.
// Everything else is judged by the instances.
Result<ClientBody> read_client_body(Route route, std::string_view body);

// The request to P: do_remote_decode, stream false, max_tokens 1, min_tokens 1, no stream_options. A Baton
// instance also gets the client's true limits and, if the client sent none, the seed that both sides use.
std::string prefill_body(const ClientBody& client, bool to_baton, uint64_t seed);

// The request to D: the client's body with P's kv_transfer_params (JSON text as P wrote it; empty: none,
// whatever the client sent). prompt_logprobs are P's to answer and are left out.
std::string decode_body(const ClientBody& client, std::string_view kv_transfer_params, bool to_baton,
                        uint64_t seed);

// What the proxy needs of P's answer.
struct PrefillAnswer {
  std::string body;                // whole
  std::string kv_transfer_params;  // JSON text; empty when null, missing or empty
  std::string remote_request_id;   // P's name of the hand-over, for aborts; empty if unknown
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
};
// kCorrupt when it is not an answer.
Result<PrefillAnswer> read_prefill_answer(std::string body);

// D's whole answer, with P's prompt_logprobs and cached_tokens if there was a P. kUnavailable when it is not
// a JSON object.
Result<std::string> whole_answer(const ClientBody& client, const PrefillAnswer* p, std::string d_body);

// The prompt's part of completions logprobs, as P wrote it: text_offset, token_logprobs, tokens,
// top_logprobs.
struct PromptLogprobs {
  std::array<std::vector<std::string>, 4> lists;
  int64_t end_offset = -1;  // bytes: where the answer begins; -1 when P does not say
};

// Puts P's part into D's stream: the prompt's logprobs in front of each choice's first, and P's
// cached_tokens.
class EventMerger {
 public:
  EventMerger(const ClientBody& client, const PrefillAnswer& p);
  // The changed data of one event; nothing when it goes to the client as it came.
  std::optional<std::string> merge(std::string_view data);

 private:
  bool merge_choice(api::ObjectBytes& choice);

  bool merges_logprobs_;
  int64_t cached_tokens_;
  PromptLogprobs prompt_logprobs_;
  std::vector<bool> begun_;  // by choice
};

// P's whole answer as the events of a stream (the answer ended with its first token, D is not needed), [DONE]
// included.
std::string as_stream(const ClientBody& client, const PrefillAnswer& p);

}  // namespace baton::router
