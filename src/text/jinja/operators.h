// Arithmetic, subscripts, slices and attributes.
#pragma once

#include "base/result.h"
#include "text/jinja/ast.h"
#include "text/jinja/object.h"

namespace baton::text::jinja {

Result<Value> arithmetic(Meter& meter, Op op, const Value& a, const Value& b);
Result<Value> negate(const Value& value);
Result<Value> compare(Meter& meter, Comparison comparison, const Value& a, const Value& b);

// object[key]; undefined when there is no such element. An attribute stands in for a missing string key.
Result<Value> item(const Value& object, const Value& key);
// object[start:stop:step], each None or an integer.
Result<Value> slice(Meter& meter, const Value& object, const Value& start, const Value& stop,
                    const Value& step);
// object.name; undefined when there is none. Methods come before the keys of a dict. What would change the
// object or reach Python's internals is undefined too, and says so when used.
Result<Value> attribute(const Value& object, const Text& name);

// A built-in method of strings, lists, dicts, numbers.
struct Method {
  std::string_view name;
  Result<Value> (*call)(Meter& meter, const Value& self, const Arguments& arguments);
};
// Null when values of that type have no such method.
const Method* find_method(const Value& self, std::string_view name);

// The `position`-th integer of a number or boolean, or nothing.
const Int* as_integer(const Value& value, Int& storage);

}  // namespace baton::text::jinja
