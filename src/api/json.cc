#include "api/json.h"

#include <boost/json/parser.hpp>
#include <boost/json/serialize.hpp>

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace baton::api {
namespace {

constexpr size_t kExcerptBytesMax = 64;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// The second byte's range after each lead byte, and the sequence's length (Unicode 15, table 3-7).
struct Lead {
  size_t length = 0;  // 0: no lead byte
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
};

constexpr Lead lead(unsigned char byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {};
}

// How many bytes at the start of `text` belong together, and whether they are a whole character.
struct Sequence {
  size_t bytes = 1;
  bool valid = false;
};

Sequence sequence_at(std::string_view text) {
  const Lead first = lead(static_cast<unsigned char>(text[0]));
  if (first.length == 0) return {};
  for (size_t i = 1; i < first.length; ++i) {
    if (i == text.size()) return {i, false};
    const auto byte = static_cast<unsigned char>(text[i]);
    const unsigned char low = i == 1 ? first.low : 0x80;
    const unsigned char high = i == 1 ? first.high : 0xBF;
    if (byte < low || byte > high) return {i, false};
  }
  return {first.length, true};
}

bool is_plain(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x20 && byte < 0x80 && c != '"' && c != '\\';
}

void append_escaped(std::string& out, char c) {
  constexpr std::string_view kHex = "0123456789abcdef";
  switch (c) {
    case '"':
      out += "\\\"";
      return;
    case '\\':
      out += "\\\\";
      return;
    case '\n':
      out += "\\n";
      return;
    case '\r':
      out += "\\r";
      return;
    case '\t':
      out += "\\t";
      return;
    case '\b':
      out += "\\b";
      return;
    case '\f':
      out += "\\f";
      return;
    default:
      break;
  }
  out += "\\u00";
  out += kHex[static_cast<unsigned char>(c) >> 4];
  out += kHex[static_cast<unsigned char>(c) & 15];
}

// Boost.JSON reads 1e400 as an infinity and 0e400 as a NaN: 0 times 10 to the power.
bool is_finite(const json::value& document) {
  std::vector<const json::value*> open = {&document};
  while (!open.empty()) {
    const json::value& value = *open.back();
    open.pop_back();
    if (const double* number = value.if_double(); number && !std::isfinite(*number)) return false;
    if (const json::array* elements = value.if_array()) {
      for (const json::value& element : *elements) open.push_back(&element);
    }
    if (const json::object* members = value.if_object()) {
      for (const auto& member : *members) open.push_back(&member.value());
    }
  }
  return true;
}

}  // namespace

Result<json::value> parse_json(std::string_view text, size_t bytes_max) {
  if (text.size() > bytes_max) {
    return fail(Code::kInvalid, fmt::format("body: {} bytes, expected at most {}", text.size(), bytes_max));
  }
  json::parse_options bounds;
  bounds.max_depth = kJsonDepthMax;
  json::parser parser({}, bounds);
  boost::system::error_code error;
  const size_t read = parser.write_some(text.data(), text.size(), error);
  if (!error && read < text.size()) error = json::error::extra_data;
  if (error) {
    return fail(Code::kInvalid, fmt::format("body: not JSON at byte {}: {}", read, error.message()));
  }
  json::value document = parser.release();
  if (!is_finite(document)) {
    return fail(Code::kInvalid,
                fmt::format("body: a number that no double holds, expected at most {:g} in magnitude",
                            std::numeric_limits<double>::max()));
  }
  return document;
}

Result<json::object> parse_json_object(std::string_view text, size_t bytes_max) {
  TRY(json::value value, parse_json(text, bytes_max));
  if (!value.is_object()) {
    return fail(Code::kInvalid, fmt::format("body: {}, expected a JSON object", excerpt(value)));
  }
  return std::move(value.get_object());
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  size_t at = 0;
  while (at < text.size()) {
    size_t plain = at;
    while (plain < text.size() && is_plain(text[plain])) ++plain;
    out.append(text, at, plain - at);
    at = plain;
    if (at == text.size()) break;
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      append_escaped(out, text[at]);
      ++at;
      continue;
    }
    const Sequence sequence = sequence_at(text.substr(at));
    out += sequence.valid ? text.substr(at, sequence.bytes) : kReplacement;
    at += sequence.bytes;
  }
  out += '"';
}

void append_json_number(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  out.append(digits, end);
}

std::string excerpt(const json::value& value) {
  if (value.is_object() && value.get_object().size() > 4) return "an object";
  if (value.is_array() && value.get_array().size() > 16) return "a list";
  if (const double* number = value.if_double()) return fmt::format("{}", *number);  // 1.5, not 1.5E0
  std::string text = json::serialize(value);
  if (text.size() <= kExcerptBytesMax) return text;
  size_t end = kExcerptBytesMax - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80) --end;
  return text.substr(0, end) + "...";
}

}  // namespace baton::api
