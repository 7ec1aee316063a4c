// Filters that look into elements or choose among them.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "text/jinja/filter_tables.h"
#include "text/jinja/merge_sort.h"
#include "text/jinja/operators.h"
#include "text/jinja/parameters.h"
#include "text/jinja/sorting.h"
#include "text/jinja/split.h"
#include "text/jinja/unicode.h"

namespace baton::text::jinja {

Result<Value> look_up(const Value& element, const Value* path, const Value* fallback) {
  if (!path) return element;
  const Text* names = path->get<Text>();
  Value value = element;
  if (!names) {
    TRY(value, item(element, *path));
    return value.is<Undefined>() && fallback ? *fallback : value;
  }
  for (const std::string_view part : split(names->view(), ".", -1, false)) {
    const bool numeric =
        !part.empty() && part.size() < 18 && part.find_first_not_of("0123456789") == std::string_view::npos;
    const std::string name(part);
    TRY(value, item(value, numeric ? Value::integer(std::stoll(name)) : Value::text(name)));
    if (value.is<Undefined>() && fallback) value = *fallback;
  }
  return value;
}

Value sort_key(Value value, bool case_sensitive) {
  const Text* text = value.get<Text>();
  if (!text || case_sensitive) return value;
  return Value::text(to_lower(text->view()));
}

Result<Value> sort_keys(const Value& element, const Value* attributes, bool case_sensitive) {
  const Text* names = attributes ? attributes->get<Text>() : nullptr;
  if (!names) {
    TRY(Value value, look_up(element, attributes, nullptr));
    return sort_key(std::move(value), case_sensitive);
  }
  std::vector<Value> keys;
  for (const std::string_view name : split(names->view(), ",", -1, false)) {
    const Value path = Value::text(std::string(name));
    TRY(Value value, look_up(element, &path, nullptr));
    keys.push_back(sort_key(std::move(value), case_sensitive));
  }
  return make_list(std::move(keys));
}

Result<std::vector<size_t>> stable_order(Meter& meter, const std::vector<Value>& keys, bool descending) {
  std::vector<size_t> order(keys.size());
  std::iota(order.begin(), order.end(), size_t{0});
  Error error;
  bool failed = false;
  merge_sort(order, [&](size_t a, size_t b) {
    if (failed) return false;
    Result<bool> before = descending ? less(meter, keys[b], keys[a]) : less(meter, keys[a], keys[b]);
    if (!before) {
      failed = true;
      error = std::move(before).error();
      return false;
    }
    return *before;
  });
  if (failed) return Failure(std::move(error));
  return order;
}

namespace {

const Value* optional(const Parameters& p, size_t i) { return p.absent(i) ? nullptr : p[i]; }

Result<std::string> name_of(const Value& value, std::string_view kind) {
  const Text* name = value.get<Text>();
  if (!name) return type_error(fmt::format("expected the name of a {}, got '{}'", kind, type_name(value)));
  return std::string(name->view());
}

Arguments rest_of(const Arguments& arguments, size_t skipped) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(), rest.positional.begin() + static_cast<ptrdiff_t>(skipped));
  return rest;
}

Result<Value> map_attribute(Meter& meter, const ListRef& items, const Arguments& arguments) {
  TRY(const Parameters p, bind("map", arguments, {"attribute", "default"}));
  std::vector<Value> values;
  for (const Value& element : items->items) {
    TRY_DO(meter.steps(1));
    TRY(Value value, look_up(element, p[0], optional(p, 1)));
    values.push_back(std::move(value));
  }
  return make_generator(std::move(values));
}

Result<Value> map(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const ListRef items, iterate(meter, input));
  const bool by_attribute = std::any_of(arguments.keyword.begin(), arguments.keyword.end(),
                                        [](const auto& k) { return k.first == "attribute"; });
  if (arguments.positional.empty() && by_attribute) return map_attribute(meter, items, arguments);
  if (arguments.positional.empty()) return type_error("map requires a filter argument");
  TRY(const std::string name, name_of(arguments.positional[0], "filter"));
  const Filter* filter = find_filter(name);
  if (!filter) return type_error(fmt::format("No filter named '{}'.", name));
  const Arguments rest = rest_of(arguments, 1);
  std::vector<Value> values;
  for (const Value& element : items->items) {
    TRY_DO(meter.steps(1));
    TRY(Value value, filter->apply(meter, element, rest));
    values.push_back(std::move(value));
  }
  return make_generator(std::move(values));
}

// The elements for which a test holds (or does not), of the element itself or of an attribute of it.
template <bool ByAttribute, bool Keep>
Result<Value> choose(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const ListRef items, iterate(meter, input));
  size_t used = 0;
  if (ByAttribute && arguments.positional.empty()) return type_error("Missing parameter for attribute name");
  const Value* path = ByAttribute ? &arguments.positional[used++] : nullptr;
  const Test* test = nullptr;
  if (arguments.positional.size() > used) {
    TRY(const std::string name, name_of(arguments.positional[used++], "test"));
    test = find_test(name);
    if (!test) return type_error(fmt::format("No test named '{}'.", name));
  }
  const Arguments rest = rest_of(arguments, used);
  std::vector<Value> chosen;
  for (const Value& element : items->items) {
    TRY_DO(meter.steps(1));
    TRY(const Value value, look_up(element, path, nullptr));
    bool holds = truthy(value);
    if (test) {
      TRY(holds, test->holds(meter, value, rest));
    }
    if (holds == Keep) chosen.push_back(element);
  }
  return make_generator(std::move(chosen));
}

// Indices of the elements with equal keys, groups in ascending order of the key, members in theirs.
Result<std::vector<std::vector<size_t>>> groups_of(Meter& meter, const std::vector<Value>& keys) {
  TRY(const std::vector<size_t> order, stable_order(meter, keys, false));
  std::vector<std::vector<size_t>> groups;
  for (const size_t i : order) {
    bool same = false;
    if (!groups.empty()) {
      TRY(same, equals(meter, keys[groups.back().front()], keys[i]));
    }
    if (same) {
      groups.back().push_back(i);
    } else {
      groups.push_back({i});
    }
  }
  return groups;
}

Result<Value> group_by(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1));
  TRY(const ListRef items, iterate(meter, input));
  std::vector<Value> names;
  std::vector<Value> keys;
  for (const Value& element : items->items) {
    TRY(Value name, look_up(element, p[0], optional(p, 1)));
    keys.push_back(sort_key(name, p.flag(2, false)));
    names.push_back(std::move(name));
  }
  TRY(const auto groups, groups_of(meter, keys));
  std::vector<Value> made;
  for (const std::vector<size_t>& group : groups) {
    std::vector<Value> members;
    for (const size_t i : group) members.push_back(items->items[i]);
    TRY(Value list, make_list(std::move(members)));
    TRY(Value pair, make_list({names[group.front()], std::move(list)}, List::Kind::kGroup));
    made.push_back(std::move(pair));
  }
  return make_list(std::move(made));
}

Result<Value> unique(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("unique", arguments, {"case_sensitive", "attribute"}));
  TRY(const ListRef items, iterate(meter, input));
  std::vector<Dict::Entry> seen;
  for (size_t i = items->items.size(); i-- > 0;) {
    TRY_DO(meter.steps(1));
    TRY(Value key, look_up(items->items[i], optional(p, 1), nullptr));
    seen.emplace_back(sort_key(std::move(key), p.flag(0, false)), Value::integer(static_cast<int64_t>(i)));
  }
  // The last entry of equal keys is the one that make_dict keeps: from the back, the first occurrence.
  TRY(const Value distinct, make_dict(std::move(seen)));
  std::vector<size_t> kept;
  for (const auto& [key, index] : (*distinct.get<DictRef>())->entries())
    kept.push_back(static_cast<size_t>(*index.get<Int>()));
  std::sort(kept.begin(), kept.end());
  std::vector<Value> values;
  for (const size_t i : kept) values.push_back(items->items[i]);
  return make_generator(std::move(values));
}

// Python's getattr alone: a dict's keys are no attributes.
Result<Value> attr(Meter& /*meter*/, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("attr", arguments, {"name"}, 1));
  TRY(const Text name, p.text(0, ""));
  const DictRef* dict = input.get<DictRef>();
  if (!dict || !(*dict)->find(name.view()) || find_method(input, name.view())) return attribute(input, name);
  return Value(Undefined{Undefined::Why::kAttribute, "dict", name});
}

constexpr Filter kSelectFilters[] = {
    {"attr", attr},
    {"groupby", group_by},
    {"map", map},
    {"reject", choose<false, false>},
    {"rejectattr", choose<true, false>},
    {"select", choose<false, true>},
    {"selectattr", choose<true, true>},
    {"unique", unique},
};

}  // namespace

std::span<const Filter> select_filters() { return kSelectFilters; }

}  // namespace baton::text::jinja
