// Cutting, joining and padding of text, shared by methods and filters.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/jinja/value.h"

namespace baton::text::jinja {

// At `separator` (not empty), at most `most` times if that is not negative, counted from the left or the
// right.
std::vector<std::string_view> split(std::string_view text, std::string_view separator, int64_t most,
                                    bool from_right);
// At runs of white space, which also go at both ends; after `most` cuts the far end keeps its own.
std::vector<std::string_view> split_space(std::string_view text, int64_t most, bool from_right);
// str.splitlines.
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);
// str.replace; `most` < 0: all.
Result<Value> replaced(Meter& meter, const Text& text, std::string_view from, std::string_view to,
                       int64_t most);
// str.ljust '<', rjust '>' and center '^'.
Result<Value> padded(Meter& meter, const Text& text, int64_t width, std::string_view fill, char align);
// str.islower and str.isupper: at least one cased character, and none of the other case.
bool is_cased_as(std::string_view text, bool lower);

}  // namespace baton::text::jinja
