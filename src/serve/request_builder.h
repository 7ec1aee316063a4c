// From what a client asked to what the engine shall do: templates, token ids, defaults, limits, the
// hand-over's parameters. Pure: randomness and time come in as arguments.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/kv_transfer_params.h"
#include "api/request.h"
#include "base/result.h"
#include "engine/request.h"
#include "serve/metaserver.h"
#include "serve/served_model.h"

namespace baton::serve {

// The prompt's token ids, with the text that echo needs.
struct TokenizedPrompt {
  std::vector<TokenId> tokens;
  std::string text;  // only where the client sent text
};

// kInvalid: a template that refuses the messages, text that is not UTF-8, ids outside the vocabulary, an
// empty prompt, or one that leaves no room within max_model_len.
Result<TokenizedPrompt> tokenize_chat(const ServedModel& model, const api::ChatRequest& request);
// tokenize_chat without its bounds: for counting, also what is too long to be answered.
Result<TokenizedPrompt> encode_chat(const ServedModel& model, const api::ChatRequest& request);
Result<TokenizedPrompt> tokenize_prompt(const ServedModel& model, const api::Prompt& prompt,
                                        bool add_special_tokens);

// What the role of this instance does with a request's kv_transfer_params.
struct HandoverPart {
  bool hold = false;  // P: keep the KV for a peer
  // P: what the client truly asked for, where a Baton proxy said so. Without it the answer is taken to go on
  // after the first token, as every proxy of this protocol intends when it writes max_tokens: 1.
  std::optional<api::ClientLimits> client;
  std::optional<api::KvTransferParams> remote;  // D: where the KV is, or who is told of the reserved blocks
  std::optional<api::KvTransferParams> landing = {};  // P, layer-wise order: whose blocks the KV is for
  std::optional<Metaserver> metaserver = {};          // D, layer-wise order
};

// kInvalid when the parameters are malformed, or of the other order than the instance's: a proxy of that
// order stands in front of it. `role` without a part in hand-overs ignores them.
Result<HandoverPart> handover_part(const api::CommonRequest& request, const api::InstanceIdentity& identity);

// Random bits and the moment, drawn at the door.
struct DoorDraws {
  uint64_t seed = 0;    // where the client sent none
  HandoverId handover;  // P's name of what it may hold
  TransferId transfer;  // D's name of what it may take
};

// The whole way from a parsed request and one tokenised prompt to the engine's request; its id and deadline
// are the caller's. `why_computed` says why a D that was told of a remote prefill computes the prompt itself;
// empty otherwise.
Result<engine::Request> build_request(const ServedModel& model, const api::CommonRequest& request,
                                      const HandoverPart& handover, const std::vector<TokenId>& prompt,
                                      std::optional<int32_t> fallback_max_tokens, const DoorDraws& draws,
                                      std::string& why_computed);

// This instance, as peers are told of it.
struct HeldBy {
  std::string host;  // where peers dial
  uint16_t port = 0;
  const api::InstanceIdentity* identity = nullptr;
};
// P: the answer's kv_transfer_params as JSON text.
std::string render_held(const engine::HeldEvent& held, const engine::SamplingParams& sampling,
                        const HeldBy& by, const api::Usage& usage);

// D, layer-wise order: the body for the metaserver. `request_id`: "cmpl-<X-Request-Id>-<prompt>" or
// "chatcmpl-<X-Request-Id>".
std::string render_reserved(const engine::ReservedEvent& reserved, std::string request_id, const HeldBy& by);

}  // namespace baton::serve
