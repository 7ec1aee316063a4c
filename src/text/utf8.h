// UTF-8 as the tokenizer meets it: bytes of tokens may stop in the middle of a character or be no text at
// all. Ill-formed bytes are cut as the Unicode Standard recommends (15.0, section 3.9, "U+FFFD Substitution
// of Maximal Subparts"), which is also what Python, Rust and the WHATWG encoding standard do. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace baton::text {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// What stands at one place of a byte string.
enum class Utf8Kind : uint8_t {
  kCharacter,   // a well-formed character
  kIllFormed,   // bytes that no continuation can make a character
  kIncomplete,  // the beginning of a character; the string ends before it does
};

struct Utf8Piece {
  char32_t point;  // U+FFFD unless kind is kCharacter
  uint8_t bytes;   // 1 to 4: of the character, or of the maximal subpart that one U+FFFD replaces
  Utf8Kind kind;
};

// The piece that begins at `at` < bytes.size().
Utf8Piece utf8_piece(std::string_view bytes, size_t at);

// Bytes at the end of `bytes` that are the beginning of an unfinished character: 0 to 3.
size_t utf8_unfinished_bytes(std::string_view bytes);

bool is_valid_utf8(std::string_view bytes);

// Appends `bytes` to `text`, each ill-formed or incomplete piece as one U+FFFD.
void append_utf8_replaced(std::string& text, std::string_view bytes);

// Appends one character; `point` is a Unicode scalar value.
void append_utf8(std::string& text, char32_t point);

}  // namespace baton::text
