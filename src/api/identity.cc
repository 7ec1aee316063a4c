#include "api/identity.h"

#include <fmt/format.h>

#include "api/fields.h"

namespace baton::api {
namespace {

constexpr size_t kModelsBytesMax = 1UL << 20;

Result<std::string> read_name(const json::object& object, std::string_view key) {
  TRY(auto text, read_text(object, key, kNameBytesMax));
  return std::move(text).value_or("");
}

Result<int32_t> read_size(const json::object& object, std::string_view key) {
  TRY(const auto value, read_integer(object, key, 0, INT32_MAX));
  return static_cast<int32_t>(value.value_or(0));
}

Result<std::optional<Speeds>> read_speeds(const json::object& identity) {
  const json::value* own = find_field(identity, "speeds");
  if (own == nullptr) return std::nullopt;
  if (!own->is_object()) return refuse_field("speeds", *own, "an object");
  const json::object& object = own->get_object();
  Speeds speeds;
  const auto read_time = [&](std::string_view key, Duration& into) -> Result<void> {
    TRY(const auto ns, read_integer(object, key, 0, kSpeedStepMax.count()));
    into = Duration(ns.value_or(0));
    return {};
  };
  const auto read_rate = [&](std::string_view key, double& into) -> Result<void> {
    TRY(const auto rate, read_number(object, key, 0, static_cast<double>(kSpeedMax), true));
    if (!rate) return refuse_field(key, json::value(), "a number above 0");
    into = *rate;
    return {};
  };
  TRY_DO(read_time("prefill_step_ns", speeds.prefill_step));
  TRY_DO(read_rate("prefill_tokens_per_s", speeds.prefill_tokens_per_s));
  TRY_DO(read_time("handover_ns", speeds.handover));
  TRY_DO(read_rate("handover_bytes_per_s", speeds.handover_bytes_per_s));
  TRY(const auto bytes, read_integer(object, "kv_bytes_per_token", 0, kSpeedMax));
  speeds.kv_bytes_per_token = bytes.value_or(0);
  return speeds;
}

std::optional<Role> parse_role(std::string_view name) {
  for (const Role role : {Role::kPrefill, Role::kDecode, Role::kBoth}) {
    if (role_name(role) == name) return role;
  }
  return std::nullopt;
}

}  // namespace

std::string render_identity(const InstanceIdentity& identity) {
  std::string out = fmt::format("{{\"protocol\":{},\"version\":", identity.protocol);
  append_json_string(out, identity.version);
  out += fmt::format(",\"role\":\"{}\",\"hands_over\":{},\"incarnation\":\"{}\",\"engine_id\":",
                     role_name(identity.role), identity.hands_over, identity.incarnation.hex());
  append_json_string(out, identity.engine_id);
  out += ",\"fingerprint\":";
  append_json_string(out, identity.fingerprint);
  out += ",\"kv_dtype\":";
  append_json_string(out, identity.kv_dtype);
  out += fmt::format(
      ",\"block_size\":{},\"max_model_len\":{},\"tensor_parallel_size\":{},\"kv_port\":{},\"order\":\"{}\","
      "\"resume\":{}",
      identity.block_size, identity.max_model_len, identity.tensor_parallel_size, identity.kv_port,
      order_name(identity.order), identity.resume);
  if (const auto& speeds = identity.speeds) {
    out += fmt::format(
        ",\"speeds\":{{\"prefill_step_ns\":{},\"prefill_tokens_per_s\":{},\"handover_ns\":{},"
        "\"handover_bytes_per_s\":{},\"kv_bytes_per_token\":{}}}",
        speeds->prefill_step.count(), speeds->prefill_tokens_per_s, speeds->handover.count(),
        speeds->handover_bytes_per_s, speeds->kv_bytes_per_token);
  }
  out += '}';
  return out;
}

Result<std::optional<InstanceIdentity>> parse_models_identity(std::string_view body) {
  TRY(const json::object models, parse_json_object(body, kModelsBytesMax));
  const json::value* own = find_field(models, "baton");
  if (own == nullptr) return std::nullopt;
  if (!own->is_object()) return refuse_field("baton", *own, "an object");
  const json::object& object = own->get_object();
  InstanceIdentity identity;
  TRY(identity.protocol, read_size(object, "protocol"));
  TRY(identity.version, read_name(object, "version"));
  TRY(const auto role_text, read_name(object, "role"));
  const auto role = parse_role(role_text);
  if (!role) return refuse_field("role", json::string(role_text), "prefill, decode or both");
  identity.role = *role;
  TRY(const auto hands_over, read_switch(object, "hands_over"));
  identity.hands_over = hands_over.value_or(false);
  TRY(const auto incarnation_text, read_name(object, "incarnation"));
  const auto incarnation = Incarnation::parse(incarnation_text);
  if (!incarnation)
    return refuse_field("incarnation", json::string(incarnation_text), "32 hexadecimal digits");
  identity.incarnation = *incarnation;
  TRY(identity.engine_id, read_name(object, "engine_id"));
  TRY(identity.fingerprint, read_name(object, "fingerprint"));
  TRY(identity.kv_dtype, read_name(object, "kv_dtype"));
  TRY(identity.block_size, read_size(object, "block_size"));
  TRY(identity.max_model_len, read_size(object, "max_model_len"));
  TRY(identity.tensor_parallel_size, read_size(object, "tensor_parallel_size"));
  TRY(identity.kv_port, read_size(object, "kv_port"));
  TRY(identity.resume, read_size(object, "resume"));
  TRY(const auto order, read_name(object, "order"));
  if (!order.empty() && order != "pull" && order != "layerwise") {
    return refuse_field("order", json::string(order), "pull or layerwise");
  }
  if (order == "layerwise") identity.order = HandoverOrder::kLayerwise;
  TRY(identity.speeds, read_speeds(object));
  return identity;
}

std::string pairing_mismatch(const InstanceIdentity& p, const InstanceIdentity& d) {
  const auto differ = [](std::string_view field, const auto& of_p, const auto& of_d) {
    return fmt::format("{}: {} on the prefill instance, {} on the decode instance", field, of_p, of_d);
  };
  if (p.role == Role::kDecode) return "role: the prefill instance only decodes";
  if (d.role == Role::kPrefill) return "role: the decode instance only prefills";
  if (!p.hands_over) return "kv_transfer_config: the prefill instance has none";
  if (!d.hands_over) return "kv_transfer_config: the decode instance has none";
  if (p.order != d.order) return differ("order", order_name(p.order), order_name(d.order));
  if (p.protocol != d.protocol) return differ("protocol", p.protocol, d.protocol);
  if (p.fingerprint != d.fingerprint) return differ("fingerprint", p.fingerprint, d.fingerprint);
  if (p.kv_dtype != d.kv_dtype) return differ("kv_dtype", p.kv_dtype, d.kv_dtype);
  // What P accepts, D must be able to go on with.
  if (p.max_model_len > d.max_model_len) return differ("max_model_len", p.max_model_len, d.max_model_len);
  return {};
}

std::string resumption_mismatch(const InstanceIdentity& lost, const InstanceIdentity& other) {
  const auto differ = [](std::string_view field, const auto& of_lost, const auto& of_other) {
    return fmt::format("{}: {}, expected {} as where the answer began", field, of_other, of_lost);
  };
  if (other.role == Role::kPrefill) return "role: the instance only prefills";
  if (lost.resume != other.resume) return differ("resume", lost.resume, other.resume);
  if (lost.fingerprint != other.fingerprint)
    return differ("fingerprint", lost.fingerprint, other.fingerprint);
  if (lost.kv_dtype != other.kv_dtype) return differ("kv_dtype", lost.kv_dtype, other.kv_dtype);
  if (lost.max_model_len != other.max_model_len)
    return differ("max_model_len", lost.max_model_len, other.max_model_len);
  return {};
}

}  // namespace baton::api
