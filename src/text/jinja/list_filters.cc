// Filters of lists and dicts as a whole.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "text/jinja/filter_tables.h"
#include "text/jinja/operators.h"
#include "text/jinja/parameters.h"
#include "text/jinja/sorting.h"
#include "text/jinja/unicode.h"

namespace baton::text::jinja {
namespace {

Result<Value> length_filter(Meter& /*meter*/, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("length", arguments, {}));
  TRY(const size_t count, length(input));
  return Value::integer(static_cast<int64_t>(count));
}

Result<Value> default_filter(Meter& /*meter*/, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("default", arguments, {"default_value", "boolean"}));
  const bool missing = input.is<Undefined>() || (p.flag(1, false) && !truthy(input));
  if (!missing) return input;
  return p[0] ? *p[0] : Value::text("");
}

Result<Value> list_filter(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("list", arguments, {}));
  TRY(const ListRef items, iterate(meter, input));
  if (items->is_list()) return Value(items);
  return make_list(items->items);
}

Result<Value> items_filter(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("items", arguments, {}));
  if (input.is<Undefined>()) return make_generator({});
  const DictRef* dict = input.get<DictRef>();
  if (!dict) return type_error("Can only get item pairs from a mapping.");
  std::vector<Value> pairs;
  for (const auto& [key, value] : (*dict)->entries()) {
    TRY_DO(meter.steps(1));
    TRY(Value pair, make_tuple({key, value}));
    pairs.push_back(std::move(pair));
  }
  return make_generator(std::move(pairs));
}

Result<Value> first(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("first", arguments, {}));
  if (Generator* generator = mutable_object<Generator>(input)) {
    if (generator->position < generator->items->items.size())
      return generator->items->items[generator->position++];
    return Value(undefined_text("No first item, sequence was empty."));
  }
  if (input.is<Text>() || input.is<Range>() || input.is<ListRef>()) {
    const ListRef* view = input.get<ListRef>();
    TRY(const size_t count, length(input));
    if (count == 0) return Value(undefined_text("No first item, sequence was empty."));
    return view ? (*view)->items[0] : item(input, Value(Int{0}));
  }
  TRY(const ListRef items, iterate(meter, input));
  if (items->items.empty()) return Value(undefined_text("No first item, sequence was empty."));
  return items->items[0];
}

Result<Value> last(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("last", arguments, {}));
  if (object<Generator>(input)) return type_error("'generator' object is not reversible");
  if (const Undefined* u = input.get<Undefined>()) return type_error(undefined_message(*u));
  if (input.is<Text>() || input.is<Range>()) {
    TRY(const size_t count, length(input));
    if (count > 0) return item(input, Value(Int{-1}));
    return Value(undefined_text("No last item, sequence was empty."));
  }
  TRY(const ListRef items, iterate(meter, input));
  if (items->items.empty()) return Value(undefined_text("No last item, sequence was empty."));
  return items->items.back();
}

Result<Value> reverse(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("reverse", arguments, {}));
  if (input.is<Text>()) return slice(meter, input, Value(), Value(), Value(Int{-1}));
  TRY(const ListRef items, iterate(meter, input));
  return make_generator(std::vector<Value>(items->items.rbegin(), items->items.rend()));
}

Result<Value> join(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("join", arguments, {"d", "attribute"}));
  std::string separator;
  if (p[0]) {
    TRY(separator, to_text(meter, *p[0]));
  }
  TRY(const ListRef items, iterate(meter, input));
  std::string out;
  bool is_first = true;
  for (const Value& element : items->items) {
    TRY(const Value value, look_up(element, p.absent(1) ? nullptr : p[1], nullptr));
    if (!std::exchange(is_first, false)) out += separator;
    TRY_DO(append_text(meter, value, out));
    TRY_DO(meter.bytes(separator.size()));
    if (out.size() > kStringBytesMax) break;
  }
  return make_text(std::move(out));
}

Result<Value> sum(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("sum", arguments, {"attribute", "start"}));
  Value total = p[1] ? *p[1] : Value(Int{0});
  if (total.is<Text>()) return type_error("sum() can't sum strings [use ''.join(seq) instead]");
  TRY(const ListRef items, iterate(meter, input));
  for (const Value& element : items->items) {
    TRY(const Value value, look_up(element, p.absent(0) ? nullptr : p[0], nullptr));
    TRY(total, arithmetic(meter, Op::kAdd, total, value));
  }
  return total;
}

Result<Value> sort(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("sort", arguments, {"reverse", "case_sensitive", "attribute"}));
  TRY(const ListRef items, iterate(meter, input));
  std::vector<Value> keys;
  for (const Value& element : items->items) {
    TRY(Value key, sort_keys(element, p.absent(2) ? nullptr : p[2], p.flag(1, false)));
    keys.push_back(std::move(key));
  }
  TRY(const std::vector<size_t> order, stable_order(meter, keys, p.flag(0, false)));
  std::vector<Value> sorted;
  for (const size_t i : order) sorted.push_back(items->items[i]);
  return make_list(std::move(sorted));
}

Result<Value> dict_sort(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("dictsort", arguments, {"case_sensitive", "by", "reverse"}));
  TRY(const Text by, p.text(1, "key"));
  if (by.view() != "key" && by.view() != "value")
    return type_error("You can only sort by either \"key\" or \"value\"");
  if (const Undefined* u = input.get<Undefined>()) return type_error(undefined_message(*u));
  const DictRef* dict = input.get<DictRef>();
  if (!dict) return type_error(fmt::format("'{}' object has no attribute 'items'", type_name(input)));
  std::vector<Value> keys;
  for (const auto& [key, value] : (*dict)->entries()) {
    keys.push_back(sort_key(by.view() == "key" ? key : value, p.flag(0, false)));
  }
  TRY(const std::vector<size_t> order, stable_order(meter, keys, p.flag(2, false)));
  std::vector<Value> pairs;
  for (const size_t i : order) {
    const auto& [key, value] = (*dict)->entries()[i];
    TRY(Value pair, make_tuple({key, value}));
    pairs.push_back(std::move(pair));
  }
  return make_list(std::move(pairs));
}

template <bool Largest>
Result<Value> extreme(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("min", arguments, {"case_sensitive", "attribute"}));
  TRY(const ListRef items, iterate(meter, input));
  if (items->items.empty()) return Value(undefined_text("No aggregated item, sequence was empty."));
  size_t best = 0;
  Value best_key;
  for (size_t i = 0; i < items->items.size(); ++i) {
    TRY(Value key, look_up(items->items[i], p.absent(1) ? nullptr : p[1], nullptr));
    key = sort_key(std::move(key), p.flag(0, false));
    if (i > 0) {
      TRY(const bool better, Largest ? less(meter, best_key, key) : less(meter, key, best_key));
      if (!better) continue;
    }
    best = i;
    best_key = std::move(key);
  }
  return items->items[best];
}

Result<Value> batch(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("batch", arguments, {"linecount", "fill_with"}, 1));
  TRY(const int64_t count, p.integer(0, 1));
  if (count > kRangeItemsMax) return type_error(fmt::format("batches of more than {} items", kRangeItemsMax));
  TRY(const ListRef items, iterate(meter, input));
  std::vector<Value> batches;
  std::vector<Value> batch_items;
  for (const Value& element : items->items) {
    if (static_cast<int64_t>(batch_items.size()) == count) {
      TRY(Value made, make_list(std::exchange(batch_items, {})));
      batches.push_back(std::move(made));
    }
    batch_items.push_back(element);
  }
  if (!batch_items.empty()) {
    while (!p.absent(1) && static_cast<int64_t>(batch_items.size()) < count) batch_items.push_back(*p[1]);
    TRY(Value made, make_list(std::move(batch_items)));
    batches.push_back(std::move(made));
  }
  return make_generator(std::move(batches));
}

Result<Value> slice_filter(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("slice", arguments, {"slices", "fill_with"}, 1));
  TRY(const int64_t slices, p.integer(0, 1));
  if (slices <= 0) return type_error("expected at least one slice");
  if (slices > kRangeItemsMax) return type_error(fmt::format("more than {} slices", kRangeItemsMax));
  TRY(const ListRef items, iterate(meter, input));
  const auto size = static_cast<int64_t>(items->items.size());
  const int64_t each = size / slices;
  const int64_t longer = size % slices;
  std::vector<Value> columns;
  auto at = items->items.begin();
  for (int64_t i = 0; i < slices; ++i) {
    const auto end = at + each + (i < longer ? 1 : 0);
    std::vector<Value> column(at, end);
    if (!p.absent(1) && i >= longer) column.push_back(*p[1]);
    TRY(Value made, make_list(std::move(column)));
    columns.push_back(std::move(made));
    at = end;
  }
  return make_generator(std::move(columns));
}

constexpr Filter kListFilters[] = {
    {"batch", batch},
    {"count", length_filter},
    {"d", default_filter},
    {"default", default_filter},
    {"dictsort", dict_sort},
    {"first", first},
    {"items", items_filter},
    {"join", join},
    {"last", last},
    {"length", length_filter},
    {"list", list_filter},
    {"max", extreme<true>},
    {"min", extreme<false>},
    {"reverse", reverse},
    {"slice", slice_filter},
    {"sort", sort},
    {"sum", sum},
};

}  // namespace

std::span<const Filter> list_filters() { return kListFilters; }

}  // namespace baton::text::jinja
