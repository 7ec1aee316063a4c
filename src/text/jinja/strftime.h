// strftime as Python has it on Linux, in the C locale.
#pragma once

#include <ctime>
#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::text::jinja {

// kInvalid when the result would be longer than kFormatWidthMax.
Result<std::string> format_time(std::string_view format, const std::tm& time);

}  // namespace baton::text::jinja
