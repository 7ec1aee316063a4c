#include "options/keys.h"

#include <fmt/format.h>

#include <algorithm>

#include "options/spelling.h"

namespace baton::options {
namespace {

const json::value* find(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Failure refuse(std::string_view place, std::string_view key, const json::value& value,
               std::string_view expectation) {
  return fail(Code::kInvalid, fmt::format("{}.{}: {}, expected {}", place, key, excerpt(value), expectation));
}

}  // namespace

Result<void> check_keys(const json::object& object, std::string_view place, std::span<const Key> keys,
                        bool strict, Remarks remarks) {
  for (const auto& entry : object) {
    const std::string_view name = entry.key();
    const auto known = std::ranges::find(keys, name, &Key::name);
    if (known != keys.end()) {
      if (known->treatment == Treatment::kRejected) return refuse(place, name, entry.value(), known->help);
      if (known->treatment == Treatment::kNoEffect)
        remarks.no_effect.push_back(fmt::format("{}.{}", place, name));
      continue;
    }
    std::vector<std::string_view> names;
    for (const Key& key : keys) names.push_back(key.name);
    const std::string meant = did_you_mean(name, names);
    const std::string message = fmt::format("{}: unknown key {}{}", place, excerpt(name),
                                            meant.empty() ? "" : fmt::format(" (did you mean {}?)", meant));
    if (strict) return fail(Code::kInvalid, message);
    remarks.warnings.push_back(message + ", ignored");
  }
  return {};
}

Result<std::optional<int64_t>> key_integer(const json::object& object, std::string_view place,
                                           std::string_view key, int64_t least, int64_t most) {
  const json::value* value = find(object, key);
  if (value == nullptr) return std::nullopt;
  const auto number = lax_integer(*value);
  if (!number || *number < least || *number > most) {
    return refuse(place, key, *value, fmt::format("an integer from {} to {}", least, most));
  }
  return number;
}

Result<std::optional<bool>> key_switch(const json::object& object, std::string_view place,
                                       std::string_view key) {
  const json::value* value = find(object, key);
  if (value == nullptr) return std::nullopt;
  const auto on = lax_switch(*value);
  if (!on) return refuse(place, key, *value, "true or false");
  return on;
}

Result<std::optional<std::string>> key_text(const json::object& object, std::string_view place,
                                            std::string_view key) {
  const json::value* value = find(object, key);
  if (value == nullptr) return std::nullopt;
  // The tutorial's engine_id is "0"; from a dotted flag it comes as the number 0.
  if (value->is_number()) return excerpt(*value);
  if (!value->is_string()) return refuse(place, key, *value, "a string");
  return std::string(value->get_string());
}

Result<const json::object*> key_object(const json::object& object, std::string_view place,
                                       std::string_view key) {
  const json::value* value = find(object, key);
  if (value == nullptr) return static_cast<const json::object*>(nullptr);
  if (!value->is_object()) return refuse(place, key, *value, "an object");
  return &value->get_object();
}

}  // namespace baton::options
