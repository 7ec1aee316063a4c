// The filters by subject. filters.h: find_filter() looks into all of them.
#pragma once

#include <span>

#include "text/jinja/filters.h"

namespace baton::text::jinja {

std::span<const Filter> text_filters();    // of strings and numbers
std::span<const Filter> list_filters();    // of lists and dicts as a whole
std::span<const Filter> select_filters();  // that look into or choose among elements

// The value that an `attribute` argument names in `element`: "a.b.0" or an index. Null `path`: the element
// itself. `fallback` (may be null) stands in for what is missing.
Result<Value> look_up(const Value& element, const Value* path, const Value* fallback);
// What sorting compares: strings in lower case unless `case_sensitive`.
Value sort_key(Value value, bool case_sensitive);

}  // namespace baton::text::jinja
