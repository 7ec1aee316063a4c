// Who an instance is, as it says under "baton" in GET /v1/models: the proxy pairs only instances that fit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "api/json.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"

namespace baton::api {

enum class Role { kPrefill, kDecode, kBoth };
constexpr std::string_view role_name(Role role) {
  switch (role) {
    case Role::kPrefill:
      return "prefill";
    case Role::kDecode:
      return "decode";
    case Role::kBoth:
      return "both";
  }
  return "both";
}

// Who begins a hand-over: P, which keeps its KV until D fetches it (pull), or D, which reserves blocks that P
// fills while it computes (layer-wise).
enum class HandoverOrder : uint8_t { kPull, kLayerwise };
constexpr std::string_view order_name(HandoverOrder order) {
  return order == HandoverOrder::kLayerwise ? "layerwise" : "pull";
}

// What an instance measured of itself while it started: what a proxy weighs a hand-over with. A step that
// computes n tokens of a prompt takes prefill_step + n / prefill_tokens_per_s; a hand-over of b bytes between
// two processes of the instance's host takes handover + b / handover_bytes_per_s.
struct Speeds {
  Duration prefill_step{0};
  double prefill_tokens_per_s = 0;  // above 0
  Duration handover{0};
  double handover_bytes_per_s = 0;  // above 0
  int64_t kv_bytes_per_token = 0;
  bool operator==(const Speeds&) const = default;
};
inline constexpr int64_t kSpeedMax = 1'000'000'000'000'000;  // tokens or bytes per second, bytes of a token
inline constexpr Duration kSpeedStepMax = std::chrono::hours(1);

struct InstanceIdentity {
  int32_t protocol = 0;      // kHandoverProtocol of its build
  std::string version = {};  // of its build
  Role role = Role::kBoth;
  bool hands_over = false;  // has a --kv-transfer-config
  Incarnation incarnation = {};
  std::string engine_id = {};
  std::string fingerprint = {};  // of the model, hex
  std::string kv_dtype = {};     // base/dtype.h names
  int32_t block_size = 0;        // tokens
  int32_t max_model_len = 0;     // tokens
  int32_t tensor_parallel_size = 1;
  int32_t kv_port = 0;                         // side channel port of this rank; 0: none
  HandoverOrder order = HandoverOrder::kPull;  // absent in JSON: pull
  std::optional<Speeds> speeds = {};           // nothing: not measured, or an older build
  int32_t resume = 0;                          // kResumeProtocol (api/resume.h); absent in JSON: 0, cannot
  bool operator==(const InstanceIdentity&) const = default;
};

std::string render_identity(const InstanceIdentity& identity);

// From the body of GET /v1/models. Nothing when the instance does not speak Baton (a vLLM).
Result<std::optional<InstanceIdentity>> parse_models_identity(std::string_view body);

// Why prefill instance `p` cannot hand over to `d`: the field and both values; empty if it can.
std::string pairing_mismatch(const InstanceIdentity& p, const InstanceIdentity& d);

// Why `other` cannot go on with an answer that `lost` began (api/resume.h): the field and both values; empty
// if it can, because it reads the same tokens, draws the same ones and stops at the same length.
std::string resumption_mismatch(const InstanceIdentity& lost, const InstanceIdentity& other);

}  // namespace baton::api
