// --kv-transfer-config: which side of the hand-over an instance is, and on which port it can be asked
// (vllm/config/kv_transfer.py; vllm_ascend/distributed/mooncake_connector.py).
#pragma once

#include <boost/json/object.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::options {

enum class Connector {
  kPull,       // MooncakeConnector, MooncakeConnectorV1, LLMDataDistCMgrConnector (with a notice)
  kLayerwise,  // MooncakeLayerwiseConnector
};

enum class KvRole {
  kProducer,  // P: prefills and hands over
  kConsumer,  // D: takes over and decodes
  kBoth,      // either, request by request
};
constexpr std::string_view kv_role_name(KvRole role) {
  switch (role) {
    case KvRole::kProducer:
      return "kv_producer";
    case KvRole::kConsumer:
      return "kv_consumer";
    case KvRole::kBoth:
      return "kv_both";
  }
  return "kv_both";
}

// The parallel sizes of one side, as kv_connector_extra_config states them.
struct SideSizes {
  int32_t tp_size = 0;  // 0: not given, as below
  int32_t dp_size = 0;
  int32_t pp_size = 0;
  bool operator==(const SideSizes&) const = default;
};

inline constexpr int32_t kKvPortDefault = 14579;

struct KvTransferConfig {
  Connector connector = Connector::kPull;
  std::string connector_name;  // as given
  KvRole role = KvRole::kBoth;
  int32_t kv_port = kKvPortDefault;
  std::string engine_id;  // empty: the instance's incarnation serves as one
  std::string kv_buffer_device;
  SideSizes prefill;
  SideSizes decode;
  bool recompute_on_load_failure = true;  // kv_load_failure_policy: "recompute" (true) or "fail"
  bool operator==(const KvTransferConfig&) const = default;
};

// Keys with no effect are appended to `no_effect`, remarks to `warnings`. kInvalid names key, value and
// expectation, and for an unknown key the one that was probably meant.
Result<KvTransferConfig> parse_kv_transfer_config(const boost::json::object& config,
                                                  std::vector<std::string>& no_effect,
                                                  std::vector<std::string>& warnings);

// Where an engine group listens: kv_port + dp_rank x tp x pp x pcp, with the global dp_rank.
// kInvalid when it is not a port.
struct RankPlace {
  int32_t dp_rank = 0;
  int32_t tp_size = 1;
  int32_t pp_size = 1;
  int32_t pcp_size = 1;
  int32_t pp_rank = 0;
  int32_t pcp_rank = 0;
  int32_t tp_rank = 0;
};
Result<uint16_t> side_channel_port(int32_t kv_port, const RankPlace& place);

// Where one worker of it listens: side_channel_port + (pp_rank x pcp + pcp_rank) x tp + tp_rank.
Result<uint16_t> handshake_port(int32_t kv_port, const RankPlace& place);

}  // namespace baton::options
