// Order of values for the sorting filters.
#pragma once

#include <vector>

#include "base/result.h"
#include "text/jinja/value.h"

namespace baton::text::jinja {

// What `sort` compares for `element`: the values of the comma-separated attributes, or the element itself.
Result<Value> sort_keys(const Value& element, const Value* attributes, bool case_sensitive);
// Indices of `keys` in ascending (or descending) order; equal keys keep theirs. kInvalid for keys without an
// order.
Result<std::vector<size_t>> stable_order(Meter& meter, const std::vector<Value>& keys, bool descending);

}  // namespace baton::text::jinja
