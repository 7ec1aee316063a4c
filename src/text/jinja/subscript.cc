#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace baton::text::jinja {
namespace {

constexpr std::string_view kListChanges[] = {"append", "clear",  "extend",  "insert",
                                             "pop",    "remove", "reverse", "sort"};
constexpr std::string_view kDictChanges[] = {"clear", "pop", "popitem", "setdefault", "update"};

bool would_change(const Value& object, std::string_view name) {
  if (const ListRef* list = object.get<ListRef>(); list && (*list)->is_list()) {
    return std::find(std::begin(kListChanges), std::end(kListChanges), name) != std::end(kListChanges);
  }
  if (object.is<DictRef>()) {
    return std::find(std::begin(kDictChanges), std::end(kDictChanges), name) != std::end(kDictChanges);
  }
  return false;
}

Value missing(Undefined::Why why, const Value& object, const Text& name) {
  return Value(Undefined{why, type_name(object), name});
}

// The element at a Python index, which counts from the end when negative; -1 past either end.
int64_t position(Int index, size_t size) {
  const Int count = static_cast<Int>(size);
  if (index < 0) index += count;
  return index < 0 || index >= count ? -1 : static_cast<int64_t>(index);
}

std::optional<Value> element(const Value& object, Int index) {
  if (const Text* text = object.get<Text>()) {
    const int64_t at = position(index, text->code_points());
    if (at < 0) return std::nullopt;
    if (text->ascii()) return Value(Text(std::string(1, text->view()[static_cast<size_t>(at)])));
    const size_t begin = byte_offset(text->view(), static_cast<size_t>(at));
    size_t end = begin;
    next_code_point(text->view(), end);
    return Value(Text(std::string(text->view().substr(begin, end - begin))));
  }
  if (const ListRef* list = object.get<ListRef>(); list && !(*list)->is_view()) {
    const int64_t at = position(index, (*list)->items.size());
    if (at < 0) return std::nullopt;
    return (*list)->items[static_cast<size_t>(at)];
  }
  if (const Range* range = object.get<Range>()) {
    const int64_t at = position(index, static_cast<size_t>(range->size()));
    if (at < 0) return std::nullopt;
    return Value::integer(range->start + at * range->step);
  }
  return std::nullopt;
}

Result<Value> loop_attribute(const Value& self, const Loop& loop, const Text& text_name) {
  const std::string_view name = text_name.view();
  const auto count = static_cast<int64_t>(loop.items->items.size());
  const auto index0 = static_cast<int64_t>(loop.index0);
  if (name == "index") return Value::integer(index0 + 1);
  if (name == "index0") return Value::integer(index0);
  if (name == "first") return Value(index0 == 0);
  if (name == "last") return Value(index0 + 1 == count);
  if (name == "length") return Value::integer(count);
  if (name == "revindex") return Value::integer(count - index0);
  if (name == "revindex0") return Value::integer(count - index0 - 1);
  if (name == "depth") return Value::integer(static_cast<int64_t>(loop.depth0) + 1);
  if (name == "depth0") return Value::integer(static_cast<int64_t>(loop.depth0));
  if (name == "previtem") {
    if (index0 == 0) return Value(undefined_text("there is no previous item"));
    return loop.items->items[loop.index0 - 1];
  }
  if (name == "nextitem") {
    if (index0 + 1 >= count) return Value(undefined_text("there is no next item"));
    return loop.items->items[loop.index0 + 1];
  }
  if (name == "cycle" || name == "changed") {
    return make_object(LoopMethod{*self.get<ObjectRef>(), name == "cycle"});
  }
  return missing(Undefined::Why::kAttribute, self, text_name);
}

Result<Value> macro_attribute(const Value& self, const Macro& macro, const Text& name) {
  if (name.view() == "name") return Value(macro.node->name);
  if (name.view() == "catch_kwargs") return Value(macro.node->uses_kwargs);
  if (name.view() == "catch_varargs") return Value(macro.node->uses_varargs);
  if (name.view() == "caller") return Value(macro.node->uses_caller);
  if (name.view() == "arguments") {
    std::vector<Value> names;
    for (const Text& parameter : macro.node->parameter_names) names.emplace_back(parameter);
    return make_tuple(std::move(names));
  }
  return missing(Undefined::Why::kAttribute, self, name);
}

Result<Value> object_attribute(const Value& self, const Text& name) {
  if (const Namespace* names = object<Namespace>(self)) {
    if (const Value* value = names->find(name.view())) return *value;
  }
  if (const Macro* macro = object<Macro>(self)) return macro_attribute(self, *macro, name);
  if (const Loop* loop = object<Loop>(self)) return loop_attribute(self, *loop, name);
  if (const Cycler* cycler = object<Cycler>(self)) {
    if (name.view() == "current") return cycler->items->items[cycler->position];
    if (name.view() == "next" || name.view() == "reset") {
      return make_object(CyclerMethod{*self.get<ObjectRef>(), name.view() == "reset"});
    }
  }
  return missing(Undefined::Why::kAttribute, self, name);
}

struct Bounds {
  Int start = 0;
  Int stop = 0;
  Int step = 1;
  size_t count = 0;
};

// PySlice_AdjustIndices of CPython's documented slice semantics.
Bounds adjust(const Int* start, const Int* stop, Int step, size_t size) {
  const Int count = static_cast<Int>(size);
  const auto clamp = [&](const Int* bound, Int fallback) {
    if (!bound) return fallback;
    Int value = *bound;
    if (value < 0) value += count;
    if (value < 0) return step < 0 ? Int{-1} : Int{0};
    if (value >= count) return step < 0 ? count - 1 : count;
    return value;
  };
  Bounds bounds;
  bounds.step = step;
  bounds.start = clamp(start, step < 0 ? count - 1 : Int{0});
  bounds.stop = clamp(stop, step < 0 ? Int{-1} : count);
  if (step < 0 && bounds.stop < bounds.start) {
    bounds.count = static_cast<size_t>((bounds.start - bounds.stop - 1) / -step + 1);
  } else if (step > 0 && bounds.start < bounds.stop) {
    bounds.count = static_cast<size_t>((bounds.stop - bounds.start - 1) / step + 1);
  }
  return bounds;
}

Result<Value> slice_text(Meter& meter, const Text& text, const Bounds& bounds) {
  const std::string_view view = text.view();
  TRY_DO(meter.bytes(text.ascii() && bounds.step == 1 ? bounds.count : text.size()));
  const auto start = static_cast<size_t>(bounds.start);
  if (bounds.step == 1) {
    if (text.ascii()) return make_text(std::string(view.substr(start, bounds.count)), text.safe());
    const size_t begin = byte_offset(view, start);
    const size_t size = byte_offset(view.substr(begin), bounds.count);
    return make_text(std::string(view.substr(begin, size)), text.safe());
  }
  const std::vector<std::string_view> characters = split_code_points(view);
  std::string out;
  Int at = bounds.start;
  for (size_t i = 0; i < bounds.count; ++i, at += bounds.step) out += characters[static_cast<size_t>(at)];
  return make_text(std::move(out), text.safe());
}

Result<Value> slice_list(Meter& meter, const List& list, const Bounds& bounds) {
  TRY_DO(meter.steps(bounds.count));
  std::vector<Value> items;
  items.reserve(bounds.count);
  Int at = bounds.start;
  for (size_t i = 0; i < bounds.count; ++i, at += bounds.step)
    items.push_back(list.items[static_cast<size_t>(at)]);
  return make_list(std::move(items), list.is_list() ? List::Kind::kList : List::Kind::kTuple);
}

}  // namespace

Result<Value> attribute(const Value& object, const Text& name) {
  if (const Undefined* u = object.get<Undefined>()) return type_error(undefined_message(*u));
  if (object.is<ObjectRef>() && !jinja::object<Bytes>(object)) return object_attribute(object, name);
  if (const Method* method = find_method(object, name.view())) {
    return make_object(BoundMethod{object, method}, object.depth());
  }
  if (would_change(object, name.view())) return missing(Undefined::Why::kUnsafe, object, name);
  if (const DictRef* dict = object.get<DictRef>()) {
    if (const Value* value = (*dict)->find(name.view())) return *value;
  }
  if (const ListRef* list = object.get<ListRef>(); list && (*list)->kind == List::Kind::kGroup) {
    if (name.view() == "grouper") return (*list)->items[0];
    if (name.view() == "list") return (*list)->items[1];
  }
  if (name.view().starts_with("__")) return missing(Undefined::Why::kUnsafe, object, name);
  return missing(Undefined::Why::kAttribute, object, name);
}

Result<Value> item(const Value& object, const Value& key) {
  if (const Undefined* u = object.get<Undefined>()) return type_error(undefined_message(*u));
  if (const DictRef* dict = object.get<DictRef>()) {
    if (const Value* value = (*dict)->find(key)) return *value;
  }
  Int index = 0;
  if (as_integer(key, index)) {
    if (std::optional<Value> found = element(object, index)) return *std::move(found);
    return missing(Undefined::Why::kElement, object, Text(int_text(index)));
  }
  if (const Text* name = key.get<Text>()) return attribute(object, *name);
  Meter meter;
  std::string shown;
  TRY_DO(append_repr(meter, key, shown));
  return missing(Undefined::Why::kElement, object, Text(std::move(shown)));
}

Result<Value> slice(Meter& meter, const Value& object, const Value& start, const Value& stop,
                    const Value& step) {
  if (const Undefined* u = object.get<Undefined>()) return type_error(undefined_message(*u));
  Int numbers[3] = {0, 0, 1};
  const Int* bounds[3] = {nullptr, nullptr, nullptr};
  const Value* const parts[3] = {&start, &stop, &step};
  constexpr Int kFar = Int{1} << 62;
  for (size_t i = 0; i < 3; ++i) {
    if (parts[i]->is<None>()) continue;
    bounds[i] = as_integer(*parts[i], numbers[i]);
    if (!bounds[i]) return Value(undefined_text("slice indices must be integers or None"));
    numbers[i] = std::clamp(numbers[i], -kFar, kFar);
  }
  if (numbers[2] == 0) return type_error("slice step cannot be zero");
  if (const Text* text = object.get<Text>()) {
    return slice_text(meter, *text, adjust(bounds[0], bounds[1], numbers[2], text->code_points()));
  }
  if (const ListRef* list = object.get<ListRef>(); list && !(*list)->is_view()) {
    return slice_list(meter, **list, adjust(bounds[0], bounds[1], numbers[2], (*list)->items.size()));
  }
  if (const Range* range = object.get<Range>()) {
    const Bounds b = adjust(bounds[0], bounds[1], numbers[2], static_cast<size_t>(range->size()));
    const int64_t first = range->start + static_cast<int64_t>(b.start) * range->step;
    const Int wide = b.step * range->step;
    const auto stride = static_cast<int64_t>(b.count > 1 ? wide : wide < 0 ? -1 : 1);
    return Value(Range{first, first + static_cast<int64_t>(b.count) * stride, stride});
  }
  return Value(undefined_text(fmt::format("'{}' object is not subscriptable", type_name(object))));
}

}  // namespace baton::text::jinja
