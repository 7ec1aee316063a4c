// Python's two ways to format text, and HTML escapes.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "text/jinja/object.h"

namespace baton::text::jinja {

// format % arguments: "%s", "%05.2f", "%(name)s", … `arguments` is a tuple, a dict, or the only argument.
Result<Value> percent_format(Meter& meter, const Text& format, const Value& arguments);
// format.format(*arguments): "{}", "{0.name[key]!r:>8}", "{x:.2f}", …
Result<Value> brace_format(Meter& meter, const Text& format, const Arguments& arguments);

// & < > ' " as Jinja's `e` filter writes them.
std::string html_escaped(std::string_view text);

}  // namespace baton::text::jinja
