// Python's pprint.pformat for the values of a template.
#pragma once

#include <string>

#include "base/result.h"
#include "text/jinja/value.h"

namespace baton::text::jinja {

// On one line if that is at most 80 characters, else an element a line. Dicts are sorted by key.
Result<std::string> pretty_text(Meter& meter, const Value& value);

}  // namespace baton::text::jinja
