// A value of a JSON file together with the path that leads to it, so that every complaint can name its place.
// Only for the readers in this folder: simdjson is too heavy for other headers.
#pragma once

#include <fmt/format.h>
#include <simdjson.h>

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::text::bpe {

class Field {
 public:
  // `place`: "tokenizer.json: model.vocab".
  Field(simdjson::dom::element value, std::string place) : value_(value), place_(std::move(place)) {}

  const simdjson::dom::element& value() const { return value_; }
  const std::string& place() const { return place_; }

  // A member of this object, or nothing when it is missing, null, or this is no object.
  std::optional<Field> member(std::string_view name) const {
    simdjson::dom::element found;
    if (value_.at_key(name).get(found) != simdjson::SUCCESS || found.is_null()) return std::nullopt;
    return Field(found, member_place(name));
  }

  // The same, but it must be there.
  Result<Field> required(std::string_view name) const {
    if (auto found = member(name)) return *std::move(found);
    return fail(Code::kCorrupt, fmt::format("{}: missing", member_place(name)));
  }

  Result<std::string_view> string() const {
    std::string_view text;
    if (value_.get(text) != simdjson::SUCCESS) return wrong("a string");
    return text;
  }

  Result<bool> boolean() const {
    bool flag = false;
    if (value_.get(flag) != simdjson::SUCCESS) return wrong("true or false");
    return flag;
  }

  Result<simdjson::dom::object> object() const {
    simdjson::dom::object members;
    if (value_.get(members) != simdjson::SUCCESS) return wrong("an object");
    return members;
  }

  Result<simdjson::dom::array> array() const {
    simdjson::dom::array elements;
    if (value_.get(elements) != simdjson::SUCCESS) return wrong("an array");
    return elements;
  }

  // A member that is true or false, `otherwise` when it is missing or null.
  Result<bool> flag(std::string_view name, bool otherwise) const {
    const auto found = member(name);
    if (!found) return otherwise;
    return found->boolean();
  }

  Field element(simdjson::dom::element value, size_t index) const {
    return {value, fmt::format("{}[{}]", place_, index)};
  }

  // "tokenizer.json: model.type: "Unigram", expected "BPE"".
  Failure wrong(std::string_view expected) const {
    std::string shown = simdjson::minify(value_);
    if (shown.size() > kShownBytesMax) shown = shown.substr(0, kShownBytesMax) + "...";
    return fail(Code::kCorrupt, fmt::format("{}: {}, expected {}", place_, shown, expected));
  }

  // "tokenizer.json: model.vocab: PROBLEM".
  Failure problem(std::string_view problem) const {
    return fail(Code::kCorrupt, fmt::format("{}: {}", place_, problem));
  }

 private:
  static constexpr size_t kShownBytesMax = 80;

  std::string member_place(std::string_view name) const {
    return fmt::format("{}{}{}", place_, place_.ends_with(": ") ? "" : ".", name);
  }

  simdjson::dom::element value_;
  std::string place_;
};

}  // namespace baton::text::bpe
