#include <fmt/format.h>
#include <simdjson.h>

#include <boost/json/parse.hpp>

#include <algorithm>
#include <cstring>
#include <optional>

#include "api/json.h"

namespace baton::api {
namespace {

namespace ondemand = simdjson::ondemand;

std::string_view trimmed(std::string_view text) {
  const size_t end = text.find_last_not_of(" \t\r\n");
  return end == std::string_view::npos ? std::string_view{} : text.substr(0, end + 1);
}

// Where the string that begins at `quote` has its closing quote; the text's end if it has none.
size_t end_of_string(std::string_view text, size_t quote) {
  size_t end = quote;
  while (true) {
    end = text.find('"', end + 1);
    if (end == std::string_view::npos) return text.size();
    size_t backslashes = 0;
    while (text[end - 1 - backslashes] == '\\') ++backslashes;
    if (backslashes % 2 == 0) return end;
  }
}

// The bytes of a value, in the copy that simdjson reads.
simdjson::simdjson_result<std::string_view> bytes_of(ondemand::value value) {
  ondemand::json_type type{};
  if (const auto error = value.type().get(type)) return error;
  if (type == ondemand::json_type::object) {
    ondemand::object object;
    if (const auto error = value.get_object().get(object)) return error;
    return object.raw_json();
  }
  if (type == ondemand::json_type::array) {
    ondemand::array array;
    if (const auto error = value.get_array().get(array)) return error;
    return array.raw_json();
  }
  return value.raw_json_token();
}

// At most 15 digits, as JSON writes integers.
bool is_short_integer(std::string_view token) {
  if (token.starts_with('-')) token.remove_prefix(1);
  const bool is_plain = std::ranges::all_of(token, [](char c) { return c >= '0' && c <= '9'; });
  return is_plain && !token.empty() && token.size() <= 15 && (token.size() == 1 || token.front() != '0');
}

// A scalar is one of the three words, a number or a string; simdjson hands out its token unread. What is not
// seen at once is left to the reader of whole documents.
bool is_scalar(ondemand::value value, std::string_view token) {
  if (token == "true" || token == "false" || token == "null" || is_short_integer(token)) return true;
  if (token.starts_with('"')) {
    std::string_view text;
    if (!value.get_string().get(text)) return true;
  }
  json::error_code error;
  json::parse(token, error);
  return !error;
}

// What simdjson reads from and writes to. It stays between texts as long as it is small: each thread reads
// one text at a time.
struct Reader {
  std::string padded;
  ondemand::parser parser;
};
constexpr size_t kKeptBytesMax = 1UL << 20;
constexpr size_t kMembersUsual = 8;

Reader& kept_reader() {
  thread_local Reader reader;
  return reader;
}

}  // namespace

Result<ObjectBytes> ObjectBytes::parse(std::string_view text, size_t bytes_max) {
  if (text.size() > bytes_max) {
    return fail(Code::kInvalid, fmt::format("body: {} bytes, expected at most {}", text.size(), bytes_max));
  }
  std::optional<Reader> large;
  Reader& reader = text.size() > kKeptBytesMax ? large.emplace() : kept_reader();
  std::string& copy = reader.padded;
  copy.reserve(text.size() + simdjson::SIMDJSON_PADDING);
  copy.assign(text);
  // In the words of parse_json_object, which says where and what, if it refuses the text too.
  const auto refuse = [&](simdjson::error_code error) -> Failure {
    if (auto object = parse_json_object(text, bytes_max); !object) return Failure(std::move(object).error());
    return fail(Code::kInvalid,
                fmt::format("body: {}, expected a JSON object", simdjson::error_message(error)));
  };
  ondemand::document document;
  if (const auto error = reader.parser.iterate(copy.data(), copy.size(), copy.capacity()).get(document))
    return refuse(error);
  ondemand::object object;
  if (const auto error = document.get_object().get(object)) return refuse(error);

  ObjectBytes bytes;
  bytes.members_.reserve(kMembersUsual);
  for (auto field : object) {
    if (const auto error = field.error()) return refuse(error);
    std::string_view key;
    if (const auto error = field.unescaped_key().get(key)) return refuse(error);
    Member& member = bytes.members_.emplace_back(std::string(key), std::string_view{});
    const ondemand::value read = field.value().value_unsafe();
    std::string_view value;
    if (const auto error = bytes_of(read).get(value)) return refuse(error);
    value = trimmed(value);
    const bool nested = value.starts_with('{') || value.starts_with('[');
    if (!nested && !is_scalar(read, value)) return refuse(simdjson::TAPE_ERROR);
    member.value = text.substr(static_cast<size_t>(value.data() - copy.data()), value.size());
  }
  if (!document.current_location().error()) return refuse(simdjson::TRAILING_CONTENT);
  return bytes;
}

std::optional<std::string_view> ObjectBytes::find(std::string_view key) const {
  for (size_t i = members_.size(); i > 0; --i) {
    if (members_[i - 1].key == key) return members_[i - 1].value;
  }
  return std::nullopt;
}

void ObjectBytes::set(std::string_view key, std::string raw) {
  owned_.push_back(std::make_unique<std::string>(std::move(raw)));
  const std::string_view value = *owned_.back();
  const auto same = [key](const Member& member) { return member.key == key; };
  const auto first = std::ranges::find_if(members_, same);
  if (first == members_.end()) {
    members_.push_back({std::string(key), value});
    return;
  }
  first->value = value;
  members_.erase(std::remove_if(first + 1, members_.end(), same), members_.end());
}

void ObjectBytes::remove(std::string_view key) {
  std::erase_if(members_, [key](const Member& member) { return member.key == key; });
}

std::string ObjectBytes::str() const {
  std::string out = "{";
  for (const Member& member : members_) {
    if (out.size() > 1) out += ',';
    append_json_string(out, member.key);
    out += ':';
    out += member.value;
  }
  out += '}';
  return out;
}

bool mentions(std::string_view text, std::string_view name) {
  return text.size() >= name.size() && memmem(text.data(), text.size(), name.data(), name.size()) != nullptr;
}

std::vector<std::string_view> array_elements(std::string_view array) {
  std::vector<std::string_view> out;
  if (array.size() < 2 || array.front() != '[' || array.back() != ']') return out;
  const std::string_view inside = array.substr(1, array.size() - 2);
  const auto add = [&](size_t begin, size_t end) {
    const std::string_view element = trimmed(inside.substr(begin, end - begin));
    out.push_back(element.substr(std::min(element.find_first_not_of(" \t\r\n"), element.size())));
  };
  if (inside.find_first_not_of(" \t\r\n") == std::string_view::npos) return out;
  size_t begin = 0;
  int depth = 0;
  for (size_t i = 0; i < inside.size(); ++i) {
    const char c = inside[i];
    if (c == '"') {
      i = end_of_string(inside, i);
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',' && depth == 0) {
      add(begin, i);
      begin = i + 1;
    }
  }
  add(begin, inside.size());
  return out;
}

}  // namespace baton::api
