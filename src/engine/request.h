// What the engine is asked to do, and what it answers: plain values that pass through its mailboxes. The
// engine knows tokens, never text, JSON or sockets. Every random bit it uses (seeds, ids) comes in with the
// request, so that a recorded inbox replays bit for bit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "base/timeline.h"

namespace baton::engine {

inline constexpr uint32_t kChoicesMax = 128;
inline constexpr uint32_t kLogprobsMax = 20;

// Resolved: defaults of the server and of generation_config.json are already filled in. vLLM's names and
// ranges.
struct SamplingParams {
  float temperature = 1.0F;                           // 0 is greedy; >= 0
  float top_p = 1.0F;                                 // (0, 1]
  int32_t top_k = 0;                                  // 0 or -1: all
  float min_p = 0.0F;                                 // [0, 1]
  float repetition_penalty = 1.0F;                    // > 0; over prompt and output
  float presence_penalty = 0.0F;                      // [-2, 2]; over output
  float frequency_penalty = 0.0F;                     // [-2, 2]; over output
  std::vector<std::pair<TokenId, float>> logit_bias;  // ascending token id
  std::vector<TokenId> allowed_token_ids;             // empty: all
  uint64_t seed = 0;                    // always present; drawn at the door if the client sent none
  uint32_t n = 1;                       // choices; they share one prefill
  uint32_t max_tokens = 16;             // per choice, >= 1
  uint32_t min_tokens = 0;              // EOS and stop tokens are masked before this many
  std::vector<TokenId> eos_token_ids;   // of the model
  std::vector<TokenId> stop_token_ids;  // of the request
  bool ignore_eos = false;
  std::optional<uint32_t> logprobs;         // how many alternatives beside the sampled token's own
  std::optional<uint32_t> prompt_logprobs;  // the same for each prompt token but the first

  bool operator==(const SamplingParams&) const = default;
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0.0F;  // natural logarithm, of the distribution before temperature and masks (vLLM's "raw")
  uint32_t rank = 0;     // 1 is the most likely

  bool operator==(const TokenLogprob&) const = default;
};

// The logprob of one position: of the token that stands there, and of the `top` most likely ones.
struct PositionLogprobs {
  TokenLogprob self;
  std::vector<TokenLogprob> top;  // by rank

  bool operator==(const PositionLogprobs&) const = default;
};

enum class FinishReason { kStop, kLength, kAbort, kError };

// A drawn token of one choice.
struct DrawnToken {
  TokenId token = 0;
  std::optional<PositionLogprobs> logprobs;
  std::optional<FinishReason> finish;  // set on the last token of the choice
  std::optional<TokenId> stop_token;   // the stop_token_ids entry (not EOS) that ended it

  bool operator==(const DrawnToken&) const = default;
};

// The first tokens that P drew, one per choice, and a digest of what they were drawn with. D uses them only
// if the digest equals its own request's (sampling_digest), else it computes the last prompt position itself.
struct FirstTokens {
  std::vector<DrawnToken> choices;  // [n]
  uint64_t digest = 0;

  bool operator==(const FirstTokens&) const = default;
};

// Everything of `params` that influences the draw of the first token and whether it ends the answer, plus the
// prompt: equal digests draw equal first tokens. max_tokens takes part only as "is it 1".
uint64_t sampling_digest(const SamplingParams& params, const std::vector<TokenId>& prompt);

// xxh3-128 of the prompt's token ids as little-endian int32, in hexadecimal: which prompt a held KV belongs
// to.
std::string prompt_hash(const std::vector<TokenId>& prompt);

// As sampling_digest, and of how long the answer may get: equal digests draw equal answers.
uint64_t answer_digest(const SamplingParams& params, const std::vector<TokenId>& prompt);

struct Request;
// kInvalid names the field that an engine of this vocabulary and context cannot serve.
Result<void> check_request(const Request& request, uint32_t vocab_size, uint32_t model_tokens_max);

// Where the KV of this request's prompt waits: what P answered, read from kv_transfer_params. Never
// authority: it is used only to ask the peer, whose handshake and whose own record of the hand-over decide.
// In the layer-wise order nobody has it yet: a prefill instance that learns of the ReservedEvent connects to
// this one and fills the reserved blocks. Host, port, engine_id, incarnation, handover and first_tokens are
// then empty.
struct RemotePrefill {
  bool is_layerwise = false;
  std::string host;
  uint16_t port = 0;
  std::string engine_id;
  Incarnation incarnation;  // of P, as P stated it; zero: unknown
  HandoverId handover;
  uint32_t tokens = 0;  // positions whose KV is held: the whole prompt
  std::string prompt_hash;
  std::optional<FirstTokens> first_tokens;
};

// P, layer-wise order: whose blocks this request's KV is to fill while it is computed; what D said in its
// ReservedEvent. Never authority, as above: D's own record of the transfer decides.
struct RemoteLanding {
  std::string host;
  uint16_t port = 0;
  std::string engine_id;
  Incarnation incarnation;  // of D; zero: unknown
  TransferId transfer;

  bool operator==(const RemoteLanding&) const = default;
};

// What other instances have drawn of one choice of an answer that goes on here (docs/resume.md).
struct DrawnBefore {
  std::vector<TokenId> tokens;
  bool finished = false;  // no more tokens; else none of them ends the answer

  bool operator==(const DrawnBefore&) const = default;
};

struct Request {
  RequestId id{};
  std::string external_id;      // X-Request-Id based, for logs and /debug/requests
  std::vector<TokenId> prompt;  // at least 1
  SamplingParams sampling;
  int32_t priority = 0;    // lower first (--scheduling-policy priority), ties by arrival
  std::string cache_salt;  // part of every prefix hash
  Time deadline = kNever;  // the request fails with kTimeout when it passes
  // On P (do_remote_decode): stop after the first token and keep the KV under a lease for D. `sampling` then
  // holds the client's true limits, so that an answer which ends with its first token is known to; where they
  // are unknown (a foreign proxy rewrites max_tokens to 1) max_tokens is the room that the context leaves.
  std::optional<HandoverId> hold;
  // On P in the layer-wise order, beside `hold`: the prompt is computed once D's Landing is here, each layer
  // is announced as it is ready, and the first tokens go to D with the last one. No HeldEvent is made.
  std::optional<RemoteLanding> remote_landing;
  // On D (do_remote_prefill): take the KV from there instead of computing it.
  std::optional<RemotePrefill> remote;
  TransferId transfer;  // random bits for this request's Landing; set when `remote` is
  // An answer that goes on here: empty, or one per choice. Positions, penalties and draws go on where they
  // were, and only what follows is answered. Not beside hold or remote.
  std::vector<DrawnBefore> drawn_before;
  // Whoever asked can have the answer go on elsewhere: see ScheduleLimits::returns.
  bool is_returnable = false;
};

// ---- answers ----

// Tokens of one choice, in order. With speculation a burst holds several.
struct TokensEvent {
  RequestId request{};
  uint32_t choice = 0;
  std::vector<DrawnToken> tokens;
};

// Once per request, before its first TokensEvent, when the prompt is in the cache. prompt_logprobs stay empty
// when the prompt came from a peer: that peer computed them.
struct PromptEvent {
  RequestId request{};
  uint32_t cached_tokens = 0;  // prompt positions served by this instance's prefix cache
  bool remote = false;         // D: the KV came from P
  bool recomputed = false;     // D: the hand-over failed and the prompt was computed here
  std::vector<std::optional<PositionLogprobs>> prompt_logprobs;  // [prompt] if asked for, entry 0 empty
};

// What D needs to fetch the KV: goes into kv_transfer_params. Only for requests with `hold`, after the
// TokensEvents of the first tokens and before FinishedEvent; not made if every choice ended with its first
// token.
struct HeldEvent {
  RequestId request{};
  HandoverId handover;
  std::vector<BlockId> blocks;  // P's, for the vllm-ascend field remote_block_ids
  uint32_t tokens = 0;
  std::string prompt_hash;
  FirstTokens first_tokens;
  Duration lease{0};
};

// D, layer-wise order: the blocks are there, a prefill instance may be sent. Once per request, before its
// PromptEvent; not made if the prefix cache has the whole prompt: then nobody is needed.
struct ReservedEvent {
  RequestId request{};
  TransferId transfer;
  std::vector<BlockId> blocks;  // D's, all of the prompt's, for the vllm-ascend field remote_block_ids
  uint32_t tokens = 0;          // of the prompt
  uint32_t tokens_present = 0;  // in D's prefix cache already
  std::string prompt_hash;
};

// The end of a request: exactly one of these three per Submit. Their timelines go from the step that took the
// request in to the end of the one that ended it.
struct FinishedEvent {
  RequestId request{};
  uint32_t output_tokens = 0;  // over all choices
  Timeline timeline = {};
  // P, layer-wise order: how long layers were moving while later ones were computed. By the clock that the
  // engine was lent, so no record has it.
  Duration handover_hidden{0};
};
struct FailedEvent {
  RequestId request{};
  Error error;
  Timeline timeline = {};  // not begun if it was never taken in
};

// D: blocks were short, and the request goes back to whoever can have it go on elsewhere. Its tokens so far
// were answered.
struct ReturnedEvent {
  RequestId request{};
  Timeline timeline = {};
};

using Answer = std::variant<PromptEvent, TokensEvent, HeldEvent, FinishedEvent, FailedEvent, ReservedEvent,
                            ReturnedEvent>;

// ---- inbox ----

struct Submit {
  Request request;
};
// The client left, or an operator said so. Answers with FailedEvent{kCancelled} unless already ended.
struct Abort {
  RequestId request{};
  std::string reason;
};
// The text of one choice hit a stop string: no more tokens for it. The request finishes when all choices
// have.
struct StopChoice {
  RequestId request{};
  uint32_t choice = 0;
};
// A hand-over that nobody will fetch: P frees its blocks at once (/abort_request by the proxy).
struct ReleaseHeld {
  HandoverId handover;
  std::string reason;
};
// D, layer-wise order: no prefill instance will come for this transfer (the metaserver's answer says so).
// Ends like a hand-over that failed; no effect if one has come already.
struct ReservationRefused {
  TransferId transfer;
  Error error;
};
// Cached prefixes are forgotten; blocks in use stay as they are.
struct ResetPrefixCache {};
// No further Submit is taken (kUnavailable); what runs may end.
struct Drain {};

}  // namespace baton::engine
