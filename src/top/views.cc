#include "top/views.h"

#include <fmt/format.h>

#include <cmath>

#include "api/json.h"

namespace baton::top {
namespace {

namespace json = api::json;

std::string text_of(const json::object& from, std::string_view key) {
  const json::value* value = from.if_contains(key);
  return value != nullptr && value->is_string() ? shown_text(value->get_string()) : std::string();
}

std::optional<double> number_of(const json::object& from, std::string_view key) {
  const json::value* value = from.if_contains(key);
  if (value == nullptr || !value->is_number()) return std::nullopt;
  const auto number = value->to_number<double>();
  return std::isfinite(number) ? std::optional(number) : std::nullopt;
}

int64_t count_of(const json::object& from, std::string_view key) {
  const json::value* value = from.if_contains(key);
  return value != nullptr && value->is_int64() ? value->get_int64() : 0;
}

Result<const json::array*> list_of(const json::object& from, std::string_view key) {
  const json::value* value = from.if_contains(key);
  if (value == nullptr || !value->is_array()) {
    return fail(Code::kCorrupt, fmt::format("{}: expected a list", key));
  }
  if (value->get_array().size() <= kViewRowsMax) return &value->get_array();
  return fail(Code::kCorrupt, fmt::format("{}: {} entries, expected at most {}", key,
                                          value->get_array().size(), kViewRowsMax));
}

Result<json::object> parse_view(std::string_view text) {
  auto object = api::parse_json_object(text, kViewBytesMax);
  if (!object) return fail(Code::kCorrupt, object.error().message);
  return *std::move(object);
}

// The bytes of the UTF-8 character at the front of `text`; 0 if there is none.
size_t character_bytes(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  const size_t bytes = first < 0x80   ? 1
                       : first < 0xC2 ? 0
                       : first < 0xE0 ? 2
                       : first < 0xF0 ? 3
                       : first < 0xF5 ? 4
                                      : 0;
  if (bytes == 0 || bytes > text.size()) return 0;
  for (size_t i = 1; i < bytes; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0U) != 0x80U) return 0;
  }
  return bytes;
}

// C0, DEL, and C1 as UTF-8 writes it (C2 80 … C2 9F): what a terminal may obey.
bool is_control(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return first < 0x20 || first == 0x7F;
  return first == 0xC2 && static_cast<unsigned char>(character[1]) < 0xA0;
}

}  // namespace

std::string shown_text(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t bytes = character_bytes(text);
    const std::string_view character = text.substr(0, std::max<size_t>(bytes, 1));
    text.remove_prefix(character.size());
    const std::string_view shown = bytes == 0 || is_control(character) ? "?" : character;
    if (out.size() + shown.size() > kTextBytesMax) break;
    out += shown;
  }
  return out;
}

Result<ProxyView> parse_proxy_view(std::string_view text) {
  TRY(const json::object object, parse_view(text));
  TRY(const json::array* requests, list_of(object, "requests"));
  TRY(const json::array* instances, list_of(object, "instances"));
  ProxyView view;
  for (const json::value& entry : *requests) {
    if (!entry.is_object()) continue;
    const json::object& one = entry.get_object();
    view.requests.push_back({.id = text_of(one, "request_id"),
                             .client_id = text_of(one, "client_id"),
                             .age_ms = number_of(one, "age_ms").value_or(0),
                             .phase = text_of(one, "phase"),
                             .waits_for = text_of(one, "waits_for"),
                             .since_ms = number_of(one, "since_ms").value_or(0),
                             .until_ms = number_of(one, "until_ms")});
  }
  for (const json::value& entry : *instances) {
    if (!entry.is_object()) continue;
    const json::object& one = entry.get_object();
    const json::value* is_baton = one.if_contains("baton");
    view.instances.push_back(
        {.address = text_of(one, "address"),
         .role = text_of(one, "role"),
         .health = text_of(one, "health"),
         .reason = text_of(one, "reason"),
         .is_baton = is_baton != nullptr && is_baton->is_bool() && is_baton->get_bool()});
  }
  return view;
}

Result<std::vector<InstanceRequest>> parse_instance_view(std::string_view text) {
  TRY(const json::object object, parse_view(text));
  TRY(const json::array* requests, list_of(object, "requests"));
  std::vector<InstanceRequest> out;
  for (const json::value& entry : *requests) {
    if (!entry.is_object()) continue;
    const json::object& one = entry.get_object();
    out.push_back({.id = text_of(one, "request_id"),
                   .state = text_of(one, "state"),
                   .waits_for = text_of(one, "waits_for"),
                   .since_ms = number_of(one, "since_ms").value_or(0),
                   .until_ms = number_of(one, "until_ms"),
                   .prompt_tokens = count_of(one, "prompt_tokens"),
                   .computed_tokens = count_of(one, "computed_tokens"),
                   .output_tokens = count_of(one, "output_tokens")});
  }
  return out;
}

}  // namespace baton::top
