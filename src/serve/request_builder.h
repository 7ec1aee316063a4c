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
Result<TokenizedPrompt> tokenize_prompt(const ServedModel& model, const api::Prompt& prompt,
                                        bool add_special_tokens);

// What the client's and the server's wishes come to. `drawn_seed` counts where the client sent none.
engine::SamplingParams resolve_sampling(const ServedModel& model, const api::SamplingFields& fields,
                                        size_t prompt_tokens, std::optional<int32_t> fallback_max_tokens,
                                        uint64_t drawn_seed);

// What the role of this instance does with a request's kv_transfer_params.
struct HandoverPart {
  bool hold = false;  // P: keep the KV for a peer
  // P: what the client truly asked for, where a Baton proxy said so. Without it the answer is taken to go on
  // after the first token, as every proxy of this protocol intends when it writes max_tokens: 1.
  std::optional<api::ClientLimits> client;
  std::optional<api::KvTransferParams> remote;  // D: where the KV is
};

// kInvalid when the parameters are malformed. `role` without a part in hand-overs ignores them.
Result<HandoverPart> handover_part(const api::CommonRequest& request, const api::InstanceIdentity& identity);

// Puts P's part into `sampling`: the first token is drawn under the client's true limits.
void apply_client_limits(const HandoverPart& part, const ServedModel& model, size_t prompt_tokens,
                         std::optional<int32_t> fallback_max_tokens, engine::SamplingParams& sampling);

// D: where to fetch the KV of `prompt`, or nothing when the parameters name no Baton peer (its KV cannot be
// read here: the prompt is computed) or another prompt (`why` says which). P's first tokens come along only
// if they were drawn with exactly `sampling`.
std::optional<engine::RemotePrefill> remote_prefill(const api::KvTransferParams& params,
                                                    const engine::SamplingParams& sampling,
                                                    const std::vector<TokenId>& prompt, std::string& why);

// P: the answer's kv_transfer_params as JSON text.
struct HeldBy {
  std::string host;  // where peers dial
  uint16_t port = 0;
  const api::InstanceIdentity* identity = nullptr;
};
std::string render_held(const engine::HeldEvent& held, const engine::SamplingParams& sampling,
                        const HeldBy& by, const api::Usage& usage);

}  // namespace baton::serve
