// The regular expressions of tokenizer.json are written for Oniguruma (Ruby syntax, UTF-8), which Hugging
// Face's tokenizers links; PCRE2 runs them here. Both backtrack, take the leftmost match and the first
// alternative that fits, so a pattern means the same wherever its parts do. Where they differ:
//
//   rewritten    \s \S        PCRE2's \s also holds U+180E; Oniguruma's is the property White_Space
//                \w \W        Oniguruma: Alphabetic, M, Nd, Pc; PCRE2 10.42: L, N and the underscore
//                \p{Han} ...  a script: PCRE2 would take Script_Extensions, Oniguruma takes Script
//                \uHHHH \v    \x{HHHH}; vertical tab, not any vertical space
//                {,n}         {0,n}
//                ^ $          hold at every line, always
//   refused      \h \b \R \X, back references, named groups, options other than (?i: and a leading (?i),
//                nested classes, && and [:posix:] in classes, {n}? and {n,m}+ (Ruby: not lazy, not
//                possessive)
//   left as is   case folding that changes the number of characters under (?i (ss and U+00DF): PCRE2 has none
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::text::bpe {

// The PCRE2 pattern with the meaning of `oniguruma`. kCorrupt: "at byte 4: \h is not supported".
Result<std::string> pcre2_pattern(std::string_view oniguruma);

// A pattern that matches exactly `literal`.
std::string literal_pattern(std::string_view literal);

}  // namespace baton::text::bpe
