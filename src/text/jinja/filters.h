// Filters (`value | name(arguments)`) and tests (`value is name(arguments)`) by name.
#pragma once

#include <optional>
#include <string_view>

#include "base/result.h"
#include "text/jinja/object.h"
#include "text/jinja/value.h"

namespace baton::text::jinja {

struct Filter {
  std::string_view name;
  Result<Value> (*apply)(Meter& meter, const Value& input, const Arguments& arguments);
};

struct Test {
  std::string_view name;
  Result<bool> (*holds)(Meter& meter, const Value& input, const Arguments& arguments);
};

// Null when there is none of that name.
const Filter* find_filter(std::string_view name);
const Test* find_test(std::string_view name);

}  // namespace baton::text::jinja
