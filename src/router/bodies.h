// What goes upstream and what comes back, as bytes: the client's body becomes P's and D's (vllm-ascend's
// rewriting, build_prefill_request), and P's part of an answer is merged into D's where only P has it.
// Members that are not touched keep the bytes they were written in.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/json.h"
#include "api/kv_transfer_params.h"
#include "base/result.h"

namespace baton::router {

inline constexpr size_t kAnswerBytesMax = 64UL << 20;  // an instance's whole answer, and the client's

enum class Route : uint8_t { kCompletions, kChat };
constexpr std::string_view route_path(Route route) {
  return route == Route::kChat ? "/v1/chat/completions" : "/v1/completions";
}

// Id and time of an answer that is joined from parts, as JSON text: those of the part that speaks first.
struct AnswerHead {
  std::string id;
  std::string created;
};

// What a part of a client's request knows of the whole (router/parts.h).
struct PartOf {
  int32_t first_choice = 0;          // its choice 0 is this one of the whole
  std::string id;                    // of the whole request; the part's own has a suffix
  std::shared_ptr<AnswerHead> head;  // shared by the parts
};

// A client's body, read as far as the proxy must.
struct ClientBody {
  Route route = Route::kCompletions;
  api::ObjectBytes members;
  size_t bytes = 0;  // of the body as it came
  bool stream = false;
  bool include_usage = false;                  // stream_options.include_usage
  std::vector<std::string_view> prompts = {};  // of a list of several prompts, as written; else empty
  int32_t choices = 1;                         // `n`
  bool choices_are_separable = false;          // several, each drawn for itself: no beams
  std::optional<PartOf> part = {};
  bool wants_prompt_logprobs = false;  // prompt_logprobs, or echo with logprobs
  bool merges_echo = false;            // the latter: P's logprobs go in front of D's
  bool has_seed = false;
  std::optional<int32_t> max_tokens = {};  // the client's, under either name
  bool must_call_tool = false;             // tool_choice is "required" or names a tool
};

// kInvalid with `param`: not a JSON object, or a field of the wrong type among those the proxy reads.
// Everything else is judged by the instances.
Result<ClientBody> read_client_body(Route route, std::string_view body);

// The request to P: do_remote_decode, stream false, max_tokens 1, min_tokens 1, no stream_options (limits
// that make no sense stay as they are, for P to refuse). A Baton instance also gets the client's true limits
// and, if the client sent none, the seed that both sides use.
std::string prefill_body(const ClientBody& client, bool to_baton, uint64_t seed);

// The client's limits, which the request to P hides behind its own; nothing where they make no sense.
std::optional<api::ClientLimits> client_limits(const ClientBody& client);
// The same with other kv_transfer_params (JSON text; nothing: none), whoever they are for.
std::string prefill_body_with(const ClientBody& client, std::optional<std::string> kv_transfer_params,
                              bool to_baton, uint64_t seed);

// The request to D: the client's body with P's kv_transfer_params (JSON text as P wrote it; empty: none,
// whatever the client sent). prompt_logprobs are P's to answer and are left out.
std::string decode_body(const ClientBody& client, std::string_view kv_transfer_params, bool to_baton,
                        uint64_t seed);

// What the proxy needs of P's answer.
struct PrefillAnswer {
  std::string body;                // whole
  std::string kv_transfer_params;  // JSON text; empty when null, missing or empty
  std::string remote_request_id;   // P's name of the hand-over, for aborts; empty if unknown
  std::string timings;             // JSON text (api/timings.h); empty: it says none
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  bool says_cached_tokens = false;
};
// kCorrupt when it is not an answer.
Result<PrefillAnswer> read_prefill_answer(std::string body);

// What a usage says of the prompt.
struct PromptUsage {
  int64_t prompt_tokens = 0;
  std::optional<int64_t> cached_tokens = {};
};
// Of a whole answer or an event; nothing if it has no usage.
std::optional<PromptUsage> read_prompt_usage(std::string_view answer);

// D's whole answer, with P's prompt_logprobs and cached_tokens if there was a P. kUnavailable when it is not
// a JSON object that has choices.
Result<std::string> whole_answer(const ClientBody& client, const PrefillAnswer* p, std::string d_body);

// The prompt's part of completions logprobs, as P wrote it: text_offset, token_logprobs, tokens,
// top_logprobs.
struct PromptLogprobs {
  std::array<std::vector<std::string>, 4> lists;
  int64_t end_offset = -1;  // bytes: where the answer begins; -1 when P does not say
};

// What an event of D's stream is by its data.
enum class EventKind : uint8_t {
  kNone,     // no part of an answer
  kRest,     // its `choices` are an empty list: it says what belongs to no choice (usage)
  kChoices,  // it says something of the answer
};
EventKind kind_of(std::string_view data);

// Puts P's part (if there was a P) into D's stream: the prompt's logprobs in front of each choice's first,
// and P's cached_tokens. Numbers the choices of a part.
class EventMerger {
 public:
  EventMerger(const ClientBody& client, const PrefillAnswer* p);
  // The changed data of one event; empty when the client gets nothing (the usage and the receipt of a part),
  // nothing when it gets the event as it came.
  std::optional<std::string> merge(std::string_view data);
  // P's, where its answer comes later than D's.
  void set_cached_tokens(int64_t cached_tokens) { cached_tokens_ = cached_tokens; }
  // Of a part: the data of its event with the usage, the receipt or both, once that has come.
  const std::string& usage_event() const { return usage_event_; }

 private:
  bool merge_prompt(api::ObjectBytes& choice);

  bool merges_logprobs_;
  std::optional<PartOf> part_;
  std::string usage_event_;
  std::optional<int64_t> cached_tokens_;  // P's
  PromptLogprobs prompt_logprobs_;
  std::vector<bool> begun_;  // by choice
};

// P's whole answer as the data of a stream's events without [DONE] (the answer ended with its first token, D
// is not needed).
std::vector<std::string> as_events(const ClientBody& client, const PrefillAnswer& p);

// What makes an answer or event of a part one of the whole: its id and time, the numbers of its choices.
void renumber(const PartOf& part, api::ObjectBytes& answer);

// The client's object with some members set to other JSON text, or left out (nothing).
using Changes = std::vector<std::pair<std::string_view, std::optional<std::string>>>;
std::string changed(const api::ObjectBytes& members, const Changes& changes);

// Whether a whole answer or an event of D already holds what the client asked about the prompt itself
// (prompt_logprobs, echo with logprobs): D computed the prompt.
bool has_prompt_part(const ClientBody& client, std::string_view answer);

}  // namespace baton::router
