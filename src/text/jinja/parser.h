// Jinja2's grammar (Jinja documentation, "Template Designer Documentation") by recursive descent. Two habits
// of Jinja's that differ from Python's are kept: unary minus binds tighter than **, and ** groups from the
// left.
#pragma once

#include <string_view>

#include "base/result.h"
#include "text/jinja/ast.h"

namespace baton::text::jinja {

// kCorrupt, "chat template, line N: expected …, got …".
Result<Program> parse(std::string_view source);

}  // namespace baton::text::jinja
