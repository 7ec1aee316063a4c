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
  fmt::format_to(std::back_inserter(out),
                 ",\"role\":\"{}\",\"hands_over\":{},\"incarnation\":\"{}\",\"engine_id\":",
                 role_name(identity.role), identity.hands_over, identity.incarnation.hex());
  append_json_string(out, identity.engine_id);
  out += ",\"fingerprint\":";
  append_json_string(out, identity.fingerprint);
  out += ",\"kv_dtype\":";
  append_json_string(out, identity.kv_dtype);
  fmt::format_to(
      std::back_inserter(out),
      ",\"block_size\":{},\"max_model_len\":{},\"tensor_parallel_size\":{},\"kv_port\":{},\"order\":\"{}\"}}",
      identity.block_size, identity.max_model_len, identity.tensor_parallel_size, identity.kv_port,
      order_name(identity.order));
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
  TRY(const auto order, read_name(object, "order"));
  if (!order.empty() && order != "pull" && order != "layerwise") {
    return refuse_field("order", json::string(order), "pull or layerwise");
  }
  if (order == "layerwise") identity.order = HandoverOrder::kLayerwise;
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

}  // namespace baton::api
