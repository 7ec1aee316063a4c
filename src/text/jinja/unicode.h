// Strings by code points, with Python's notions of space, case and classes (utf8proc holds the tables).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace baton::text::jinja {

size_t count_code_points(std::string_view utf8);
bool valid_utf8(std::string_view bytes);

// The code point that starts at `at` (valid UTF-8), which moves past it.
char32_t next_code_point(std::string_view utf8, size_t& at);
void append_code_point(std::string& out, char32_t c);
// The byte offset of the `index`-th code point, `index` <= their number.
size_t byte_offset(std::string_view utf8, size_t index);
std::vector<std::string_view> split_code_points(std::string_view utf8);

bool is_space(char32_t c);  // str.isspace
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_numeric(char32_t c);
bool is_lower(char32_t c);
bool is_upper(char32_t c);
bool is_title(char32_t c);
bool is_printable(char32_t c);

std::string to_upper(std::string_view utf8);
std::string to_lower(std::string_view utf8);
std::string to_title(std::string_view utf8);        // str.title
std::string to_capitalized(std::string_view utf8);  // str.capitalize
std::string swap_case(std::string_view utf8);

// Without the white space, or without the code points of `chars`, at the ends asked for.
std::string_view strip(std::string_view text, bool left, bool right);
std::string_view strip(std::string_view text, std::string_view chars, bool left, bool right);

}  // namespace baton::text::jinja
