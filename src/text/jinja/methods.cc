// Methods of dicts, lists, tuples, numbers and ranges.
#include "text/jinja/methods.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/parameters.h"

namespace baton::text::jinja {
namespace {

Result<Value> dict_get(Meter& /*meter*/, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("get", arguments, {"key", "default"}, 1));
  if (!is_key(*p[0]) && !p[0]->is<Undefined>())
    return type_error(fmt::format("unhashable type: '{}'", type_name(*p[0])));
  const Value* found = (*self.get<DictRef>())->find(*p[0]);
  if (found) return *found;
  return p[1] ? *p[1] : Value(None{});
}

template <List::Kind Kind>
Result<Value> dict_view(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY_DO(bind("dict method", arguments, {}));
  const auto& entries = (*self.get<DictRef>())->entries();
  TRY_DO(meter.steps(entries.size()));
  std::vector<Value> items;
  items.reserve(entries.size());
  for (const auto& [key, value] : entries) {
    if (Kind == List::Kind::kKeys) {
      items.push_back(key);
    } else if (Kind == List::Kind::kValues) {
      items.push_back(value);
    } else {
      TRY(Value pair, make_tuple({key, value}));
      items.push_back(std::move(pair));
    }
  }
  return make_list(std::move(items), Kind);
}

// Values are immutable, so the value itself is as good as a copy.
Result<Value> copy_method(Meter& /*meter*/, const Value& self, const Arguments& arguments) {
  TRY_DO(bind("copy", arguments, {}));
  return self;
}

Result<Value> list_index(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("index", arguments, {"value"}, 1));
  TRY(const ListRef items, iterate(meter, self));
  for (size_t i = 0; i < items->items.size(); ++i) {
    TRY(const bool same, equals(meter, items->items[i], *p[0]));
    if (same) return Value::integer(static_cast<int64_t>(i));
  }
  std::string shown;
  TRY_DO(append_repr(meter, *p[0], shown));
  return type_error(shown + " is not in list");
}

Result<Value> list_count(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("count", arguments, {"value"}, 1));
  TRY(const ListRef items, iterate(meter, self));
  int64_t count = 0;
  for (const Value& item : items->items) {
    TRY(const bool same, equals(meter, item, *p[0]));
    count += same;
  }
  return Value::integer(count);
}

Result<Value> bit_length(Meter& /*meter*/, const Value& self, const Arguments& arguments) {
  TRY_DO(bind("bit_length", arguments, {}));
  Int whole = 0;
  as_integer(self, whole);
  int64_t bits = 0;
  for (; whole != 0; whole /= 2) ++bits;
  return Value::integer(bits);
}

Result<Value> is_integer(Meter& /*meter*/, const Value& self, const Arguments& arguments) {
  TRY_DO(bind("is_integer", arguments, {}));
  const double real = *self.get<double>();
  return Value(std::isfinite(real) && std::floor(real) == real);
}

constexpr Method kDictMethods[] = {{"items", dict_view<List::Kind::kItems>},
                                   {"keys", dict_view<List::Kind::kKeys>},
                                   {"values", dict_view<List::Kind::kValues>},
                                   {"get", dict_get},
                                   {"copy", copy_method}};
constexpr Method kListMethods[] = {{"index", list_index}, {"count", list_count}, {"copy", copy_method}};
constexpr Method kTupleMethods[] = {{"index", list_index}, {"count", list_count}};
constexpr Method kIntMethods[] = {{"bit_length", bit_length}};
constexpr Method kFloatMethods[] = {{"is_integer", is_integer}};

}  // namespace

const Method* find_method(const Value& self, std::string_view name) {
  std::span<const Method> table;
  if (self.is<Text>()) {
    table = text_methods();
  } else if (self.is<DictRef>()) {
    table = kDictMethods;
  } else if (const ListRef* list = self.get<ListRef>()) {
    if ((*list)->is_list()) table = kListMethods;
    if ((*list)->is_tuple()) table = kTupleMethods;
  } else if (self.is<Range>()) {
    table = kTupleMethods;
  } else if (self.is<Int>() || self.is<bool>()) {
    table = kIntMethods;
  } else if (self.is<double>()) {
    table = kFloatMethods;
  }
  const auto at = std::find_if(table.begin(), table.end(), [&](const Method& m) { return m.name == name; });
  return at == table.end() ? nullptr : &*at;
}

}  // namespace baton::text::jinja
