// Turns template text into tokens, with Jinja2's whitespace rules under trim_blocks and lstrip_blocks: the
// newline after a block goes, and so does the indentation before one; "-" strips all white space on that
// side, "+" none. Source: Jinja documentation, "Template Designer Documentation: Whitespace Control".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/jinja/value.h"

namespace baton::text::jinja {

enum class TokenKind : uint8_t {
  kData,        // text between the tags
  kPrintBegin,  // {{
  kPrintEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  uint32_t line = 1;
  std::string text;  // data, a name, the value of a string, or the operator itself
  Int whole = 0;     // of kInteger
  double real = 0;   // of kFloat
};

// kCorrupt, with the line, when the text is no template.
Result<std::vector<Token>> tokenize(std::string_view source);

// "line N: message"
Failure syntax_error(uint32_t line, std::string_view message);

// How a token is called in an error: "end of print statement", "'name'", ...
std::string describe(const Token& token);

}  // namespace baton::text::jinja
