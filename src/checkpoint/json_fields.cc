#include "checkpoint/json_fields.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cmath>
#include <limits>

namespace baton::checkpoint {
namespace {

namespace json = boost::json;

constexpr size_t kShownBytesMax = 80;
constexpr size_t kArrayItemsMax = 4096;

std::string shown(const json::value& value) {
  if (const double* number = value.if_double()) return fmt::format("{}", *number);  // 1.5, not 1.5E0
  std::string text = json::serialize(value);
  if (text.size() > kShownBytesMax) text = text.substr(0, kShownBytesMax) + "...";
  return text;
}

std::optional<double> as_number(const json::value& value) {
  if (const double* x = value.if_double()) return *x;
  if (const int64_t* x = value.if_int64()) return static_cast<double>(*x);
  if (const uint64_t* x = value.if_uint64()) return static_cast<double>(*x);
  return std::nullopt;
}

std::optional<int64_t> as_integer(const json::value& value) {
  if (const int64_t* x = value.if_int64()) return *x;
  const double* x = value.if_double();
  constexpr double kExact = 9007199254740992.0;  // 2^53: every integer up to here is exact in a double
  if (x != nullptr && std::abs(*x) <= kExact && std::trunc(*x) == *x) return static_cast<int64_t>(*x);
  return std::nullopt;
}

std::string integer_expectation(int64_t min, int64_t max) {
  return fmt::format("expected an integer from {} to {}", min, max);
}

}  // namespace

const json::value* JsonFields::find(std::string_view key) const {
  const json::value* value = object_.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool JsonFields::has(std::string_view key) const { return find(key) != nullptr; }

void JsonFields::reject(std::string_view key, std::string_view message) {
  if (failure_) return;
  failure_ = Error{Code::kInvalid, fmt::format("{}: {}: {}", where_, key, message)};
}

int64_t JsonFields::integer(std::string_view key, int64_t min, int64_t max, std::optional<int64_t> fallback) {
  const json::value* value = find(key);
  if (value == nullptr) {
    if (!fallback) reject(key, "missing, " + integer_expectation(min, max));
    return fallback.value_or(min);
  }
  const auto number = as_integer(*value);
  if (number && *number >= min && *number <= max) return *number;
  reject(key, shown(*value) + ", " + integer_expectation(min, max));
  return fallback.value_or(min);
}

size_t JsonFields::count(std::string_view key, size_t min, size_t max, std::optional<size_t> fallback) {
  const auto limit = static_cast<int64_t>(max);
  if (!fallback) return static_cast<size_t>(integer(key, static_cast<int64_t>(min), limit));
  return static_cast<size_t>(integer(key, static_cast<int64_t>(min), limit, static_cast<int64_t>(*fallback)));
}

double JsonFields::number(std::string_view key, double min, double max, std::optional<double> fallback) {
  if (!has(key) && !fallback) reject(key, fmt::format("missing, expected a number from {} to {}", min, max));
  return optional_number(key, min, max).value_or(fallback.value_or(min));
}

std::optional<double> JsonFields::optional_number(std::string_view key, double min, double max) {
  const json::value* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto x = as_number(*value);
  if (x && *x >= min && *x <= max) return x;
  reject(key, fmt::format("{}, expected a number from {} to {}", shown(*value), min, max));
  return std::nullopt;
}

std::optional<int64_t> JsonFields::optional_integer(std::string_view key, int64_t min, int64_t max) {
  if (!has(key)) return std::nullopt;
  return integer(key, min, max);
}

bool JsonFields::boolean(std::string_view key, bool fallback) {
  const json::value* value = find(key);
  if (value == nullptr) return fallback;
  if (const bool* truth = value->if_bool()) return *truth;
  reject(key, shown(*value) + ", expected true or false");
  return fallback;
}

std::string JsonFields::text(std::string_view key, std::optional<std::string> fallback) {
  const json::value* value = find(key);
  if (value == nullptr) {
    if (!fallback) reject(key, "missing, expected a string");
    return fallback.value_or("");
  }
  if (const json::string* string = value->if_string()) return std::string(*string);
  reject(key, shown(*value) + ", expected a string");
  return fallback.value_or("");
}

std::vector<int64_t> JsonFields::integers(std::string_view key, int64_t min, int64_t max) {
  const json::value* value = find(key);
  if (value == nullptr) return {};
  const json::array one = value->is_array() ? json::array() : json::array{*value};
  const json::array& items = value->is_array() ? value->get_array() : one;
  std::vector<int64_t> numbers;
  for (const json::value& item : items) {
    const auto number = as_integer(item);
    if (!number || *number < min || *number > max || numbers.size() == kArrayItemsMax) {
      reject(key, fmt::format("{}, expected at most {} integers from {} to {}", shown(item), kArrayItemsMax,
                              min, max));
      return {};
    }
    numbers.push_back(*number);
  }
  return numbers;
}

std::vector<std::string> JsonFields::texts(std::string_view key) {
  const json::value* value = find(key);
  if (value == nullptr) return {};
  const json::array* items = value->if_array();
  std::vector<std::string> strings;
  for (size_t i = 0; items != nullptr && i < items->size(); ++i) {
    const json::string* string = (*items)[i].if_string();
    if (string == nullptr || i == kArrayItemsMax) {
      items = nullptr;
      break;
    }
    strings.emplace_back(*string);
  }
  if (items == nullptr) {
    reject(key, fmt::format("{}, expected at most {} strings", shown(*value), kArrayItemsMax));
    return {};
  }
  return strings;
}

const json::object* JsonFields::object(std::string_view key) {
  const json::value* value = find(key);
  if (value == nullptr) return nullptr;
  const json::object* object = value->if_object();
  if (object == nullptr) reject(key, shown(*value) + ", expected an object");
  return object;
}

}  // namespace baton::checkpoint
