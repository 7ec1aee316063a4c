// Arguments of a built-in function, filter or method by position or name.
#pragma once

#include <array>
#include <initializer_list>
#include <string_view>

#include "base/result.h"
#include "text/jinja/object.h"

namespace baton::text::jinja {

inline constexpr size_t kParametersMax = 8;

// What was given for each parameter; null for those left out. Points into the Arguments.
struct Parameters {
  std::array<const Value*, kParametersMax> values{};

  const Value* operator[](size_t i) const { return values[i]; }
  // Left out, or None.
  bool absent(size_t i) const { return !values[i] || values[i]->is<None>(); }
  bool flag(size_t i, bool fallback) const { return values[i] ? truthy(*values[i]) : fallback; }
  // kInvalid unless it is text, or left out.
  Result<Text> text(size_t i, std::string_view fallback) const;
  Result<int64_t> integer(size_t i, int64_t fallback) const;
};

// kInvalid for too many, unknown or repeated arguments, and when one of the first `required` is missing.
Result<Parameters> bind(std::string_view function, const Arguments& arguments,
                        std::initializer_list<std::string_view> names, size_t required = 0);

}  // namespace baton::text::jinja
