// The dialect of upstream vLLM's MooncakeConnector (vllm/distributed/kv_transfer/kv_connector/v1/mooncake,
// examples/disaggregated/mooncake_connector/mooncake_connector_proxy.py): P's answer names no KV. Instead the
// proxy makes up a transfer id, tells it to both sides, and tells D where P's bootstrap server listens and
// which engine id the chosen data-parallel rank of P has. D asks the bootstrap server for the rank's address
// and fetches the KV by the transfer id. That proxy asks P and D at once; here D is asked when P has
// answered, so that a P that fails or an answer that ends with its first token costs D nothing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::router {

inline constexpr size_t kBootstrapAnswerBytesMax = 1 << 20;  // of GET /query
inline constexpr size_t kBootstrapRanksMax = 4096;

// A data-parallel rank of P.
struct BootstrapRank {
  int32_t rank = 0;
  std::string engine_id;
  bool operator==(const BootstrapRank&) const = default;
};

// The answer of a bootstrap server's GET /query, {"0":{"engine_id":"...","worker_addr":{...}},...}, by rank.
// kCorrupt names the rank and what was expected; kUnavailable: no rank has registered yet.
Result<std::vector<BootstrapRank>> read_bootstrap_answer(std::string_view body);

// One request's meeting of P and D.
struct Rendezvous {
  std::string transfer_id;  // "xfer-<X-Request-Id>"
  std::string bootstrap;    // "http://host:port"
  BootstrapRank p;

  std::string prefill_params() const;  // P's kv_transfer_params, JSON text
  std::string decode_params() const;   // D's
};

// Whether P keeps KV for D: it does only if its one token ended at the limit. After an end by itself (the
// end-of-sequence token, a stop string) a D that came for the KV would wait until its timeout. `answer`: P's,
// whole.
bool keeps_kv(std::string_view answer);

}  // namespace baton::router
