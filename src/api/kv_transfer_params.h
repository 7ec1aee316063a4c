// `kv_transfer_params`: the words that P, proxy and D exchange about one hand-over, inside requests and
// answers of the OpenAI API. Keys of the vllm-ascend MooncakeConnector from v0.11 on (flat or nested block
// ids, sizes as numbers or strings, one object or a list with one per choice), and one nested object "baton"
// for what only Baton instances say. A proxy passes them on as bytes (api/json.h, ObjectBytes); only P and D
// read them.
//
// Nothing in here is authority: what moves is decided by transfer ids that a peer's handshake vouches for.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/json.h"
#include "api/response.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"

namespace baton::api {

inline constexpr int32_t kHandoverProtocol = 2;

// A header of D's answer: the KV that the request's parameters offer was not fetched, the peer still keeps
// it.
inline constexpr std::string_view kKvUnusedHeader = "X-Baton-Kv-Unused";

// The parameters that one token was drawn with. D takes P's token only if these equal its own.
struct DrawnWith {
  float temperature = 1;
  float top_p = 1;
  int32_t top_k = 0;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;
  int32_t choice = 0;     // index among n
  int32_t logprobs = -1;  // -1: none were computed
  std::string
      masks_hash;  // of logit_bias, stop ids, min_tokens, ignore_eos: whatever else shapes the draw; hex
  bool operator==(const DrawnWith&) const = default;
};

// The first token of one choice, as P drew it.
struct FirstToken {
  TokenId token = 0;
  DrawnWith drawn_with = {};
  std::optional<PositionLogprobs> logprobs = {};  // texts are empty: D has the vocabulary
  std::optional<FinishReason>
      finish_reason;  // the answer ends with this token under the client's true limits
  StopReason stop_reason = {};
  bool operator==(const FirstToken&) const = default;
};

// From the proxy to P: what the client asked before max_tokens and min_tokens became 1.
struct ClientLimits {
  std::optional<int32_t> max_tokens = {};  // nothing: the client named none
  int32_t min_tokens = 0;
  bool operator==(const ClientLimits&) const = default;
};

// From P, through the proxy, to D: the identity of the KV that P holds.
struct Offer {
  HandoverId handover_id = {};
  Incarnation incarnation = {};               // of P
  std::string fingerprint = {};               // of the model, hex
  std::string prompt_hash = {};               // of the prompt's token ids, hex
  int64_t num_tokens = 0;                     // prompt tokens whose KV is ready
  int32_t block_size = 0;                     // tokens
  Duration lease{0};                          // from P's answer on; milliseconds on the wire
  std::vector<FirstToken> first_tokens = {};  // by choice
  int64_t prompt_tokens = 0;                  // P's usage
  int64_t cached_tokens = 0;
  bool operator==(const Offer&) const = default;
};

// Layer-wise order, from D, through the proxy, to P: the blocks that D has reserved for one prompt. D's own
// record of the transfer decides what may be stored there.
struct Landing {
  TransferId transfer_id = {};
  Incarnation incarnation = {};  // of D
  std::string fingerprint = {};  // of the model, hex
  std::string prompt_hash = {};  // of the prompt's token ids, hex
  int64_t num_tokens = 0;        // of the prompt
  int64_t cached_tokens = 0;     // of these in D's prefix cache already
  int32_t block_size = 0;        // tokens
  bool operator==(const Landing&) const = default;
};

struct BatonParams {
  int32_t protocol = kHandoverProtocol;
  std::optional<ClientLimits> client = {};
  std::optional<Offer> offer = {};
  std::optional<Landing> landing = {};
  bool operator==(const BatonParams&) const = default;
};

struct KvTransferParams {
  bool do_remote_prefill = false;                           // D: take the KV from remote_*
  bool do_remote_decode = false;                            // P: keep the KV, somebody will take it
  std::vector<std::vector<int64_t>> remote_block_ids = {};  // [group][block]; a flat list is one group
  std::string remote_engine_id = {};                        // empty: not given, as everywhere below
  std::string remote_host = {};
  std::string remote_request_id = {};
  int32_t remote_port = 0;  // side channel of P's rank 0 in its group; 0: not given
  std::optional<TokenId> last_token_id = {};
  std::optional<int32_t> num_prompt_blocks = {};
  std::optional<int32_t> remote_ptp_size = {};  // also accepted as tp_size and remote_tp_size
  std::optional<int32_t> remote_pcp_size = {};
  std::optional<int32_t> remote_dcp_size = {};
  std::optional<int32_t> remote_block_size = {};  // also accepted as a list with one per group: its first
  std::string metaserver = {};            // D, layer-wise order: the URL that waits for its reservation
  std::optional<BatonParams> baton = {};  // nothing: the peer is not a Baton instance

  bool operator==(const KvTransferParams&) const = default;
};

// One object, or a list with one per choice (its first is returned when all hold the same hand-over; Baton
// itself always writes one object for all choices). null gives nothing. Unknown keys are ignored. kInvalid
// names the key: "kv_transfer_params.remote_port: 70000, expected a port from 0 to 65535".
Result<std::optional<KvTransferParams>> parse_kv_transfer_params(const json::value& value);

// JSON text with exactly the keys that real instances write (pd-protocol 3.1), null for what is not given in
// a request to P (the six keys), and "baton" when there is something to say.
std::string render_kv_transfer_params(const KvTransferParams& params);

// The request to P: six keys, do_remote_decode true, everything remote_* null, and the client's true limits
// for a Baton instance (`client` empty: only the six keys).
std::string render_prefill_params(const std::optional<ClientLimits>& client);

// What D posts to the metaserver once it has reserved blocks (layer-wise order): the object that P gets as
// its kv_transfer_params.
struct MetaserverPost {
  std::string request_id;          // "cmpl-<X-Request-Id>-<index of the prompt>" or "chatcmpl-<X-Request-Id>"
  std::vector<int64_t> block_ids;  // D's, of the whole prompt
  std::string engine_id;
  std::string host;  // of D's side channel
  int32_t port = 0;
  int32_t tensor_parallel_size = 1;
  Landing landing;
};
// JSON text with the keys that vllm-ascend's MooncakeLayerwiseConnector writes (pd-protocol 2.3), in its
// order, and "baton".
std::string render_metaserver_post(const MetaserverPost& post);

// The parameters of a request to D in the layer-wise order, as the proxy writes them.
std::string render_metaserver_params(std::string_view metaserver);

// Why `offered` may not be decoded from with `own` (the first key that differs, both values); empty if it
// may.
std::string offer_mismatch(const Offer& offered, const Offer& own);

}  // namespace baton::api
