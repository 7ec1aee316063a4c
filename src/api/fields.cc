#include "api/fields.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace baton::api {
namespace {

constexpr double kExactIntegers = 9007199254740992.0;  // 2^53: beyond it a double names no single integer

template <class Number>
std::optional<Number> read_whole(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

Failure refuse_field(std::string_view key, const json::value& value, std::string_view expectation) {
  const std::string_view field = key.substr(0, key.find_first_of("[."));
  return fail(Code::kInvalid, fmt::format("{}: {}, expected {}", key, excerpt(value), expectation),
              std::string(field));
}

const json::value* find_field(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::optional<int64_t> as_integer(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  if (value.is_double()) {
    const double number = value.get_double();
    if (std::trunc(number) != number || std::fabs(number) > kExactIntegers) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_string()) return read_whole<int64_t>(value.get_string());
  return std::nullopt;
}

std::optional<double> as_number(const json::value& value) {
  if (value.is_number()) return value.to_number<double>();
  if (value.is_string()) {
    const auto number = read_whole<double>(value.get_string());
    if (number && std::isfinite(*number)) return number;
  }
  return std::nullopt;
}

std::optional<bool> as_switch(const json::value& value) {
  if (value.is_bool()) return value.get_bool();
  if (value.is_int64() && value.get_int64() == 0) return false;
  if (value.is_int64() && value.get_int64() == 1) return true;
  if (value.is_string() && value.get_string() == "true") return true;
  if (value.is_string() && value.get_string() == "false") return false;
  return std::nullopt;
}

Result<std::optional<int64_t>> read_integer(const json::object& object, std::string_view key, int64_t least,
                                            int64_t most) {
  const json::value* value = find_field(object, key);
  if (value == nullptr) return std::nullopt;
  const auto number = as_integer(*value);
  if (!number || *number < least || *number > most) {
    return refuse_field(key, *value, fmt::format("an integer from {} to {}", least, most));
  }
  return number;
}

Result<std::optional<double>> read_number(const json::object& object, std::string_view key, double least,
                                          double most, bool open_below) {
  const json::value* value = find_field(object, key);
  if (value == nullptr) return std::nullopt;
  const auto number = as_number(*value);
  if (!number || *number < least || *number > most || (open_below && *number == least)) {
    return refuse_field(key, *value,
                        open_below ? fmt::format("a number above {}, at most {}", least, most)
                                   : fmt::format("a number from {} to {}", least, most));
  }
  return number;
}

Result<std::optional<bool>> read_switch(const json::object& object, std::string_view key) {
  const json::value* value = find_field(object, key);
  if (value == nullptr) return std::nullopt;
  const auto on = as_switch(*value);
  if (!on) return refuse_field(key, *value, "true or false");
  return on;
}

Result<std::optional<std::string>> read_text(const json::object& object, std::string_view key,
                                             size_t bytes_max) {
  const json::value* value = find_field(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) return refuse_field(key, *value, "a string");
  const std::string_view text = value->get_string();
  if (text.size() > bytes_max) {
    return fail(Code::kInvalid, fmt::format("{}: {} bytes, expected at most {}", key, text.size(), bytes_max),
                std::string(key));
  }
  return std::string(text);
}

Result<std::vector<TokenId>> read_token_ids(const json::value& value, std::string_view name, size_t count_max,
                                            int32_t vocab_size) {
  if (!value.is_array()) return refuse_field(name, value, "a list of token ids");
  const json::array& list = value.get_array();
  if (list.size() > count_max) {
    return fail(Code::kInvalid,
                fmt::format("{}: {} token ids, expected at most {}", name, list.size(), count_max),
                std::string(name.substr(0, name.find('['))));
  }
  std::vector<TokenId> ids;
  ids.reserve(list.size());
  for (const json::value& entry : list) {
    const int64_t* id = entry.if_int64();
    if (id == nullptr || *id < 0 || *id >= vocab_size) {
      return refuse_field(fmt::format("{}[{}]", name, ids.size()), entry,
                          fmt::format("a token id from 0 to {}", vocab_size - 1));
    }
    ids.push_back(static_cast<TokenId>(*id));
  }
  return ids;
}

bool asks_for_something(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return false;
    case json::kind::bool_:
      return value.get_bool();
    case json::kind::int64:
      return value.get_int64() != 0;
    case json::kind::uint64:
      return value.get_uint64() != 0;
    case json::kind::double_:
      return value.get_double() != 0;
    case json::kind::string:
      return !value.get_string().empty();
    case json::kind::array:
      return !value.get_array().empty();
    case json::kind::object:
      return !value.get_object().empty();
  }
  return true;
}

}  // namespace baton::api
