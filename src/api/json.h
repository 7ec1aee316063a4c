// JSON at the door: bounded parsing of whole documents (Boost.JSON), the bytes of an object's members as they
// were written (simdjson), and the few routines that write JSON straight into a string.
#pragma once

#include <boost/json/value.hpp>

#include <charconv>
#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/limits.h"
#include "base/result.h"

namespace baton::api {

namespace json = boost::json;

// Parses one document of at most `bytes_max` bytes and kJsonDepthMax levels. Invalid UTF-8 is refused.
// Integers keep all 64 bits; other numbers become doubles, those that are none (1e400) are refused.
// kInvalid: "body: not JSON at byte 17: ...".
Result<json::value> parse_json(std::string_view text, size_t bytes_max = kBodyBytesMax);

// As parse_json, but the document must be an object.
Result<json::object> parse_json_object(std::string_view text, size_t bytes_max = kBodyBytesMax);

// Appends `text` as a JSON string with its quotes (RFC 8259, section 7). Bytes that are not UTF-8 become
// U+FFFD, one per byte that starts no valid sequence.
void append_json_string(std::string& out, std::string_view text);

// Appends a finite number so that it reads back as the same bits; a float32 stays one when it is read as a
// double and narrowed. Infinities and NaN, which JSON does not have, are appended as null.
void append_json_number(std::string& out, double value);

template <std::integral Int>
void append_json_integer(std::string& out, Int value) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  out.append(digits, end);
}

// The bounded text of a value for an error message: at most 64 bytes of its JSON.
std::string excerpt(const json::value& value);

// The members of one JSON object, each as the bytes it was written in, so that a body can be changed in one
// place and passed on everywhere else unchanged: numbers never go through a float, order and blanks stay.
// Views into the text given to parse(), which must outlive this.
class ObjectBytes {
 public:
  struct Member {
    std::string key;         // unescaped
    std::string_view value;  // as written
  };

  // kInvalid when `text` is not one JSON object within the bounds of parse_json. Values that are skipped are
  // checked for balance and UTF-8, not in full: who reads them parses them.
  static Result<ObjectBytes> parse(std::string_view text, size_t bytes_max = kBodyBytesMax);

  // The last member of that name, as readers of JSON see it; nothing if there is none.
  std::optional<std::string_view> find(std::string_view key) const;

  // Replaces every member of that name by one, or appends it. `raw` is JSON text and is kept.
  void set(std::string_view key, std::string raw);

  // Removes every member of that name.
  void remove(std::string_view key);

  const std::vector<Member>& members() const { return members_; }

  // The object as JSON text.
  std::string str() const;

 private:
  std::vector<Member> members_;
  std::vector<std::unique_ptr<std::string>> owned_;  // texts given to set(); members_ points into them
};

// Whether the text mentions this name, which may be in its quotes: for texts that are parsed only then. In
// JSON, where every third byte is a quote, much faster than string_view::find.
bool mentions(std::string_view text, std::string_view name);

// The elements of a JSON array as they were written, without the blanks around them; none if `array` is no
// array or an empty one. Views into it. Its brackets must be balanced (ObjectBytes checks that of values);
// the elements are not looked into.
std::vector<std::string_view> array_elements(std::string_view array);

}  // namespace baton::api
