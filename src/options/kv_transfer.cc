#include "options/kv_transfer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "options/keys.h"
#include "options/spelling.h"

namespace baton::options {
namespace {

constexpr std::string_view kPlace = "--kv-transfer-config";
constexpr std::string_view kExtraPlace = "--kv-transfer-config.kv_connector_extra_config";
constexpr int32_t kRanksMax = 65536;

constexpr auto kKeys = std::to_array<Key>({
    {"kv_connector"},
    {"kv_connector_module_path", Treatment::kNoEffect, "never loaded: connectors are built in"},
    {"kv_role"},
    {"kv_port"},
    {"kv_ip", Treatment::kNoEffect},
    {"kv_rank", Treatment::kNoEffect},
    {"kv_buffer_size", Treatment::kNoEffect},
    {"kv_buffer_device", Treatment::kMapped},
    {"kv_parallel_size", Treatment::kNoEffect},
    {"kv_load_failure_policy"},
    {"engine_id"},
    {"kv_connector_extra_config"},
});
constexpr auto kExtraKeys = std::to_array<Key>({
    {"prefill"},
    {"decode"},
    {"use_ascend_direct", Treatment::kNoEffect, "--kv-transport chooses"},
    {"kv_lease_duration", Treatment::kNoEffect, "--kv-lease-ms"},
});
constexpr auto kSideKeys =
    std::to_array<Key>({{"tp_size"}, {"dp_size"}, {"pp_size"}, {"pp_layer_partition"}});

struct KnownConnector {
  std::string_view name;
  Connector connector;
};
constexpr auto kConnectors = std::to_array<KnownConnector>({
    {"MooncakeConnector", Connector::kPull},
    {"MooncakeConnectorV1", Connector::kPull},
    {"MooncakeLayerwiseConnector", Connector::kLayerwise},
    {"LLMDataDistCMgrConnector", Connector::kPull},
});

Result<void> read_connector(const boost::json::object& config, KvTransferConfig& read,
                            std::vector<std::string>& warnings) {
  TRY(const auto name, key_text(config, kPlace, "kv_connector"));
  std::vector<std::string_view> names;
  for (const KnownConnector& known : kConnectors) {
    if (name == known.name) read.connector = known.connector;
    names.push_back(known.name);
  }
  if (!name) {
    return fail(Code::kInvalid,
                fmt::format("{}.kv_connector: missing, expected one of {}", kPlace, fmt::join(names, ", ")));
  }
  if (std::ranges::find(names, *name) == names.end()) {
    return fail(Code::kInvalid, fmt::format("{}.kv_connector: {}, expected one of {}", kPlace, excerpt(*name),
                                            fmt::join(names, ", ")));
  }
  read.connector_name = *name;
  if (*name == "LLMDataDistCMgrConnector") {
    warnings.push_back("LLMDataDistCMgrConnector is served by the pull connector; no rank table is read");
  }
  TRY(const auto module, key_text(config, kPlace, "kv_connector_module_path"));
  if (!module) return {};
  const bool layerwise_module = module->find("layerwise") != std::string::npos;
  if (layerwise_module != (read.connector == Connector::kLayerwise)) {
    return fail(Code::kInvalid, fmt::format("{}.kv_connector_module_path: {}, expected the module of {}",
                                            kPlace, excerpt(*module), *name));
  }
  return {};
}

Result<KvRole> read_role(const boost::json::object& config) {
  TRY(const auto name, key_text(config, kPlace, "kv_role"));
  for (const KvRole role : {KvRole::kProducer, KvRole::kConsumer, KvRole::kBoth}) {
    if (name == kv_role_name(role)) return role;
  }
  return fail(Code::kInvalid, fmt::format("{}.kv_role: {}, expected one of kv_producer, kv_consumer, kv_both",
                                          kPlace, name ? excerpt(*name) : "missing"));
}

Result<SideSizes> read_side(const boost::json::object& extra, std::string_view side, Remarks remarks) {
  SideSizes sizes;
  TRY(const boost::json::object* object, key_object(extra, kExtraPlace, side));
  if (object == nullptr) return sizes;
  const std::string place = fmt::format("{}.{}", kExtraPlace, side);
  TRY_DO(check_keys(*object, place, kSideKeys, true, remarks));
  TRY(const auto tp, key_integer(*object, place, "tp_size", 1, kRanksMax));
  TRY(const auto dp, key_integer(*object, place, "dp_size", 1, kRanksMax));
  TRY(const auto pp, key_integer(*object, place, "pp_size", 1, kRanksMax));
  sizes.tp_size = static_cast<int32_t>(tp.value_or(0));
  sizes.dp_size = static_cast<int32_t>(dp.value_or(0));
  sizes.pp_size = static_cast<int32_t>(pp.value_or(0));
  return sizes;
}

Result<uint16_t> as_port(int64_t port, int32_t kv_port, const RankPlace& place) {
  if (port >= 1 && port <= 65535) return static_cast<uint16_t>(port);
  return fail(Code::kInvalid,
              fmt::format("{}.kv_port: {} gives port {} to data-parallel rank {}, expected at most 65535",
                          kPlace, kv_port, port, place.dp_rank));
}

int64_t group_port(int32_t kv_port, const RankPlace& place) {
  const int64_t ranks = int64_t{place.tp_size} * place.pp_size * place.pcp_size;
  return kv_port + place.dp_rank * ranks;
}

}  // namespace

Result<KvTransferConfig> parse_kv_transfer_config(const boost::json::object& config,
                                                  std::vector<std::string>& no_effect,
                                                  std::vector<std::string>& warnings) {
  const Remarks remarks{no_effect, warnings};
  KvTransferConfig read;
  TRY_DO(check_keys(config, kPlace, kKeys, true, remarks));
  TRY_DO(read_connector(config, read, warnings));
  TRY(read.role, read_role(config));
  TRY(const auto port, key_integer(config, kPlace, "kv_port", 1, 65535));
  if (port) read.kv_port = static_cast<int32_t>(*port);
  TRY(auto engine_id, key_text(config, kPlace, "engine_id"));
  read.engine_id = std::move(engine_id).value_or("");
  TRY(auto device, key_text(config, kPlace, "kv_buffer_device"));
  read.kv_buffer_device = std::move(device).value_or("");
  const std::string& named = read.kv_buffer_device;
  if (!named.empty() && named != "npu" && named != "cuda" && named != "cpu") {
    return fail(Code::kInvalid, fmt::format("{}.kv_buffer_device: {}, expected one of npu, cuda, cpu", kPlace,
                                            excerpt(named)));
  }
  TRY(const auto policy, key_text(config, kPlace, "kv_load_failure_policy"));
  if (policy && *policy != "recompute" && *policy != "fail") {
    return fail(Code::kInvalid, fmt::format("{}.kv_load_failure_policy: {}, expected recompute or fail",
                                            kPlace, excerpt(*policy)));
  }
  if (policy) read.recompute_on_load_failure = *policy == "recompute";
  TRY(const boost::json::object* extra, key_object(config, kPlace, "kv_connector_extra_config"));
  if (extra == nullptr) return read;
  TRY_DO(check_keys(*extra, kExtraPlace, kExtraKeys, false, remarks));
  TRY(read.prefill, read_side(*extra, "prefill", remarks));
  TRY(read.decode, read_side(*extra, "decode", remarks));
  return read;
}

Result<uint16_t> side_channel_port(int32_t kv_port, const RankPlace& place) {
  return as_port(group_port(kv_port, place), kv_port, place);
}

Result<uint16_t> handshake_port(int32_t kv_port, const RankPlace& place) {
  const int64_t worker =
      (int64_t{place.pp_rank} * place.pcp_size + place.pcp_rank) * place.tp_size + place.tp_rank;
  return as_port(group_port(kv_port, place) + worker, kv_port, place);
}

}  // namespace baton::options
