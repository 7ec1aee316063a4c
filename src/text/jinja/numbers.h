// Python's int(), float() and round().
#pragma once

#include <optional>
#include <string_view>

#include "text/jinja/value.h"

namespace baton::text::jinja {

// int(text, base) with base 0 or 2 to 36; nothing when Python would raise or the value passes 127 bits.
std::optional<Int> parse_integer(std::string_view text, int base);
// float(text).
std::optional<double> parse_float(std::string_view text);
// round(value, precision): ties to even.
Int round_integer(Int value, int precision);
double round_float(double value, int precision);

}  // namespace baton::text::jinja
