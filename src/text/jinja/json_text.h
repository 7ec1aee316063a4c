// json.dumps, as transformers' `tojson` filter calls it.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "text/jinja/value.h"

namespace baton::text::jinja {

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level of it; none: everything on one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// kInvalid for values that JSON cannot express.
Result<std::string> json_text(Meter& meter, const Value& value, const JsonStyle& style);

}  // namespace baton::text::jinja
