// What a template may use. A template that passes one of these fails with a message that names the limit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace baton::text::jinja {

inline constexpr size_t kTemplateBytesMax = 4 << 20;  // source text of one template
inline constexpr uint32_t kNestingMax = 200;          // depth of an expression or of nested statements
inline constexpr uint32_t kEvaluationDepthMax = 600;  // statements, expressions and calls under way at once
inline constexpr uint32_t kValueDepthMax = 200;       // lists within lists
inline constexpr uint64_t kStepsMax = 10'000'000;     // expressions, loop turns, elements touched
inline constexpr uint64_t kCopiedBytesMax = 1ULL << 30;  // text produced on the way, all values together
inline constexpr size_t kOutputBytesMax = 64 << 20;      // the rendered prompt
inline constexpr size_t kStringBytesMax = 64 << 20;      // one string
inline constexpr size_t kListItemsMax = 4'000'000;       // one list or dict
inline constexpr int64_t kRangeItemsMax = 100'000;       // range(), as Jinja2's sandbox has it
inline constexpr size_t kFormatWidthMax = 100'000;       // width and precision of formatted text

}  // namespace baton::text::jinja
