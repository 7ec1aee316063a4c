// Truth, equality, order, membership and iteration, as Python defines them for the types of value.h.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/object.h"
#include "text/jinja/unicode.h"
#include "text/jinja/value.h"

namespace baton::text::jinja {
namespace {

constexpr size_t kBytesPerStep = 64;  // text that is compared or searched counts as a step per so many bytes

// A number as integer or float; booleans are integers.
struct Number {
  bool is_number = false;
  bool is_float = false;
  Int whole = 0;
  double real = 0;
};

Number as_number(const Value& value) {
  if (const bool* b = value.get<bool>()) return {true, false, *b ? 1 : 0, *b ? 1.0 : 0.0};
  if (const Int* i = value.get<Int>()) return {true, false, *i, static_cast<double>(*i)};
  if (const double* d = value.get<double>()) return {true, true, 0, *d};
  return {};
}

Result<bool> equal_lists(Meter& meter, const List& a, const List& b) {
  if (a.is_list() != b.is_list() || a.is_view() || b.is_view() || a.items.size() != b.items.size())
    return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    TRY(const bool same, equals(meter, a.items[i], b.items[i]));
    if (!same) return false;
  }
  return true;
}

Result<bool> equal_dicts(Meter& meter, const Dict& a, const Dict& b) {
  if (a.entries().size() != b.entries().size()) return false;
  for (const auto& [key, value] : a.entries()) {
    const Value* other = b.find(key);
    if (!other) return false;
    TRY(const bool same, equals(meter, value, *other));
    if (!same) return false;
  }
  return true;
}

}  // namespace

bool truthy(const Value& value) {
  struct Truth {
    bool operator()(const Undefined&) const { return false; }
    bool operator()(None) const { return false; }
    bool operator()(bool b) const { return b; }
    bool operator()(Int i) const { return i != 0; }
    bool operator()(double d) const { return d != 0; }
    bool operator()(const Text& t) const { return t.size() != 0; }
    bool operator()(const ListRef& l) const { return !l->items.empty(); }
    bool operator()(const DictRef& d) const { return !d->entries().empty(); }
    bool operator()(const Range& r) const { return r.size() != 0; }
    bool operator()(const ObjectRef& o) const {
      if (const auto* bytes = std::get_if<Bytes>(&o->state)) return !bytes->bytes.empty();
      if (const auto* loop = std::get_if<Loop>(&o->state)) return !loop->items->items.empty();
      return true;
    }
  };
  return std::visit(Truth{}, value.data());
}

Result<bool> equals(Meter& meter, const Value& a, const Value& b) {
  TRY_DO(meter.steps(1));
  const Number x = as_number(a);
  const Number y = as_number(b);
  if (x.is_number && y.is_number) {
    return !x.is_float && !y.is_float ? x.whole == y.whole
                                      : (x.is_float ? x.real : static_cast<double>(x.whole)) == y.real;
  }
  if (a.data().index() != b.data().index()) return false;
  if (const Text* s = a.get<Text>()) {
    TRY_DO(meter.steps(std::min(s->size(), b.get<Text>()->size()) / kBytesPerStep));
    return s->view() == b.get<Text>()->view();
  }
  if (const ListRef* l = a.get<ListRef>()) return equal_lists(meter, **l, **b.get<ListRef>());
  if (const DictRef* d = a.get<DictRef>()) return equal_dicts(meter, **d, **b.get<DictRef>());
  if (const Range* r = a.get<Range>()) {
    const Range& s = *b.get<Range>();
    const int64_t count = r->size();
    return count == s.size() && (count == 0 || (r->start == s.start && (count == 1 || r->step == s.step)));
  }
  if (const ObjectRef* o = a.get<ObjectRef>()) return *o == *b.get<ObjectRef>();
  return true;  // None or undefined, both of the same kind
}

Result<bool> less(Meter& meter, const Value& a, const Value& b) {
  TRY_DO(meter.steps(1));
  const Number x = as_number(a);
  const Number y = as_number(b);
  if (x.is_number && y.is_number) {
    return !x.is_float && !y.is_float ? x.whole < y.whole : x.real < y.real;
  }
  if (a.is<Undefined>()) return type_error(undefined_message(*a.get<Undefined>()));
  if (b.is<Undefined>()) return type_error(undefined_message(*b.get<Undefined>()));
  if (a.is<Text>() && b.is<Text>()) {
    TRY_DO(meter.steps(std::min(a.get<Text>()->size(), b.get<Text>()->size()) / kBytesPerStep));
    return a.get<Text>()->view() < b.get<Text>()->view();
  }
  const ListRef* l = a.get<ListRef>();
  const ListRef* r = b.get<ListRef>();
  if (l && r && !(*l)->is_view() && !(*r)->is_view() && (*l)->is_list() == (*r)->is_list()) {
    const size_t common = std::min((*l)->items.size(), (*r)->items.size());
    for (size_t i = 0; i < common; ++i) {
      TRY(const bool same, equals(meter, (*l)->items[i], (*r)->items[i]));
      if (!same) return less(meter, (*l)->items[i], (*r)->items[i]);
    }
    return (*l)->items.size() < (*r)->items.size();
  }
  return type_error(
      fmt::format("'<' not supported between instances of '{}' and '{}'", type_name(a), type_name(b)));
}

Result<ListRef> iterate(Meter& meter, const Value& value) {
  if (const ListRef* list = value.get<ListRef>()) return *list;
  std::vector<Value> items;
  if (const DictRef* dict = value.get<DictRef>()) {
    for (const auto& entry : (*dict)->entries()) items.push_back(entry.first);
  } else if (const Text* text = value.get<Text>()) {
    TRY_DO(meter.steps(text->code_points()));
    for (const std::string_view c : split_code_points(text->view()))
      items.push_back(Value::text(std::string(c)));
  } else if (const Range* range = value.get<Range>()) {
    const int64_t count = range->size();
    for (int64_t i = 0; i < count; ++i) items.push_back(Value::integer(range->start + i * range->step));
  } else if (Generator* generator = mutable_object<Generator>(value)) {
    const auto& all = generator->items->items;
    items.assign(all.begin() + static_cast<ptrdiff_t>(generator->position), all.end());
    generator->position = all.size();
  } else if (const Bytes* bytes = object<Bytes>(value)) {
    for (const char c : bytes->bytes) items.push_back(Value::integer(static_cast<uint8_t>(c)));
  } else if (!value.is<Undefined>()) {
    return type_error(fmt::format("'{}' object is not iterable", type_name(value)));
  }
  TRY_DO(meter.steps(items.size()));
  TRY(const Value list, make_list(std::move(items)));
  return *list.get<ListRef>();
}

Result<size_t> length(const Value& value) {
  if (value.is<Undefined>()) return size_t{0};
  if (const Text* text = value.get<Text>()) return text->code_points();
  if (const ListRef* list = value.get<ListRef>()) return (*list)->items.size();
  if (const DictRef* dict = value.get<DictRef>()) return (*dict)->entries().size();
  if (const Range* range = value.get<Range>()) return static_cast<size_t>(range->size());
  if (const Bytes* bytes = object<Bytes>(value)) return bytes->bytes.size();
  if (const Loop* loop = object<Loop>(value)) return loop->items->items.size();
  return type_error(fmt::format("object of type '{}' has no len()", type_name(value)));
}

Result<bool> contains(Meter& meter, const Value& needle, const Value& haystack) {
  if (const Text* text = haystack.get<Text>()) {
    const Text* part = needle.get<Text>();
    if (!part) {
      return type_error(
          fmt::format("'in <string>' requires string as left operand, not {}", type_name(needle)));
    }
    TRY_DO(meter.steps(text->size() / kBytesPerStep));
    return text->view().find(part->view()) != std::string_view::npos;
  }
  if (const DictRef* dict = haystack.get<DictRef>()) {
    if (!is_key(needle) && !needle.is<Undefined>()) {
      return type_error(fmt::format("unhashable type: '{}'", type_name(needle)));
    }
    return (*dict)->find(needle) != nullptr;
  }
  if (!haystack.is<ListRef>() && !haystack.is<Range>() && !haystack.is<Undefined>() &&
      !object<Generator>(haystack)) {
    return type_error(fmt::format("argument of type '{}' is not iterable", type_name(haystack)));
  }
  TRY(const ListRef items, iterate(meter, haystack));
  for (const Value& item : items->items) {
    TRY(const bool same, equals(meter, item, needle));
    if (same) return true;
  }
  return false;
}

}  // namespace baton::text::jinja
