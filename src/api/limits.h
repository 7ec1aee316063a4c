// The bounds of what a client may send, each by name. A request beyond one of them gets a 400 that names the
// field, its value and the bound; a body that is too long a 413.
#pragma once

#include <cstddef>
#include <cstdint>

namespace baton::api {

inline constexpr size_t kJsonDepthMax = 64;                // nesting of objects and arrays in a body
inline constexpr size_t kClientBodyBytesMax = 16UL << 20;  // a request body at the proxy: beyond it a 413
inline constexpr size_t kBodyBytesMax = 18UL
                                        << 20;  // at an instance: a client's body and what the proxy adds
inline constexpr size_t kAbortBytesMax = 64UL << 10;  // the body of /abort_request
inline constexpr int32_t kChoicesPerPromptMax = 128;  // `n`
inline constexpr size_t kPromptsMax = 256;            // prompts of one completion request
inline constexpr size_t kChoicesMax = 1024;           // prompts x n of one request
inline constexpr size_t kPromptTokensMax = 4UL
                                           << 20;    // token ids of one prompt, before max_model_len is known
inline constexpr size_t kMessagesMax = 4096;         // messages of one chat
inline constexpr size_t kContentPartsMax = 4096;     // parts of one message
inline constexpr size_t kToolsMax = 128;             // tools of one chat
inline constexpr size_t kStopStringsMax = 16;        // entries of `stop`
inline constexpr size_t kStopStringBytesMax = 1024;  // bytes of one entry of `stop`
inline constexpr size_t kStopTokenIdsMax = 1024;     // entries of `stop_token_ids`
inline constexpr size_t kLogitBiasMax = 1024;        // entries of `logit_bias`
inline constexpr float kLogitBiasBound = 100.0F;     // a bias beyond +-100 counts as +-100 (as vLLM)
inline constexpr double kTemperatureMax = 1000.0;
inline constexpr double kPenaltyBound = 2.0;            // presence and frequency penalties lie in +-2
inline constexpr double kRepetitionPenaltyMax = 100.0;  // above 0, at most this
inline constexpr int32_t kTokensMax = 1 << 30;          // max_tokens, min_tokens
inline constexpr size_t kNameBytesMax = 512;            // model, request_id, user, cache_salt
inline constexpr size_t kUnknownFieldsMax = 32;         // names kept for the debug log
inline constexpr size_t kBlockIdsMax = 1UL << 20;       // remote_block_ids over all groups
inline constexpr int32_t kCompletionTokensDefault =
    16;  // max_tokens of /v1/completions when not given (OpenAI)

}  // namespace baton::api
