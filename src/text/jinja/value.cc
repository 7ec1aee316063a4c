#include "text/jinja/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "text/jinja/merge_sort.h"
#include "text/jinja/object.h"
#include "text/jinja/unicode.h"

namespace baton::text::jinja {
namespace {

constexpr size_t kLinearSearchMax = 8;     // a dict of up to so many keys has no index
constexpr size_t kGrowableBytesMin = 256;  // shorter strings are copied rather than extended in place

// The order of possible keys: None, numbers, strings. Negative, zero or positive.
int compare_keys(const Value& a, const Value& b) {
  const auto rank = [](const Value& v) { return v.is<None>() ? 0 : v.is<Text>() ? 2 : 1; };
  if (rank(a) != rank(b)) return rank(a) - rank(b);
  if (const Text* x = a.get<Text>()) return x->view().compare(b.get<Text>()->view());
  if (a.is<None>()) return 0;
  const auto whole = [](const Value& v, Int& out) {
    if (const bool* flag = v.get<bool>()) out = *flag ? 1 : 0;
    if (const Int* i = v.get<Int>()) out = *i;
    return !v.is<double>();
  };
  Int x = 0;
  Int y = 0;
  if (whole(a, x) && whole(b, y)) return x < y ? -1 : x > y ? 1 : 0;
  const double p = a.is<double>() ? *a.get<double>() : static_cast<double>(x);
  whole(b, y);
  const double q = b.is<double>() ? *b.get<double>() : static_cast<double>(y);
  if (std::isnan(p) || std::isnan(q)) return std::isnan(q) - std::isnan(p);
  return p < q ? -1 : p > q ? 1 : 0;
}

}  // namespace

Text::Text(std::string bytes, bool safe)
    : size_(static_cast<uint32_t>(bytes.size())),
      code_points_(static_cast<uint32_t>(count_code_points(bytes))),
      safe_(safe) {
  if (!bytes.empty()) buffer_ = std::make_shared<std::string>(std::move(bytes));
}

Text Text::as_safe() const {
  Text copy = *this;
  copy.safe_ = true;
  return copy;
}

Text Text::concat(const Text& left, std::string_view right, bool safe) {
  const auto added = static_cast<uint32_t>(count_code_points(right));
  Text joined = left;
  if (!left.growable_ || left.buffer_->size() != left.size_) {
    const size_t total = left.size_ + right.size();
    joined.growable_ = total >= kGrowableBytesMin;
    joined.buffer_ = std::make_shared<std::string>();
    joined.buffer_->reserve(joined.growable_ ? total + total / 2 : total);
    joined.buffer_->append(left.view());
  }
  joined.buffer_->append(right);
  joined.size_ += static_cast<uint32_t>(right.size());
  joined.code_points_ += added;
  joined.safe_ = safe;
  return joined;
}

int64_t Range::size() const {
  if (step > 0) return start < stop ? (stop - start - 1) / step + 1 : 0;
  return start > stop ? (start - stop - 1) / -step + 1 : 0;
}

uint32_t Value::depth() const {
  if (const ListRef* list = get<ListRef>()) return (*list)->depth;
  if (const DictRef* dict = get<DictRef>()) return (*dict)->depth();
  if (const ObjectRef* ref = get<ObjectRef>()) return (*ref)->depth;
  return 0;
}

bool is_key(const Value& value) {
  return value.is<None>() || value.is<bool>() || value.is<Int>() || value.is<double>() || value.is<Text>();
}

const Value* Dict::find(const Value& key) const {
  if (!is_key(key)) return nullptr;
  if (order_.empty()) {
    for (const Entry& entry : entries_) {
      if (compare_keys(entry.first, key) == 0) return &entry.second;
    }
    return nullptr;
  }
  const auto at = std::lower_bound(order_.begin(), order_.end(), key, [this](uint32_t i, const Value& k) {
    return compare_keys(entries_[i].first, k) < 0;
  });
  if (at == order_.end() || compare_keys(entries_[*at].first, key) != 0) return nullptr;
  return &entries_[*at].second;
}

const Value* Dict::find(std::string_view key) const {
  const auto is_it = [&](const Entry& entry) {
    const Text* text = entry.first.get<Text>();
    return text != nullptr && text->view() == key;
  };
  if (!order_.empty()) return find(Value::text(std::string(key)));
  const auto at = std::find_if(entries_.begin(), entries_.end(), is_it);
  return at == entries_.end() ? nullptr : &at->second;
}

Result<Value> make_list(std::vector<Value> items, List::Kind kind) {
  if (items.size() > kListItemsMax) {
    return type_error(fmt::format("a list of {} items, at most {} are allowed", items.size(), kListItemsMax));
  }
  auto list = std::make_shared<List>();
  list->kind = kind;
  for (const Value& item : items) list->depth = std::max(list->depth, item.depth() + 1);
  if (list->depth > kValueDepthMax) return type_error("values are nested too deeply");
  list->items = std::move(items);
  return Value(ListRef(std::move(list)));
}

Result<Value> make_dict(std::vector<Dict::Entry> entries) {
  if (entries.size() > kListItemsMax) {
    return type_error(
        fmt::format("a dict of {} items, at most {} are allowed", entries.size(), kListItemsMax));
  }
  for (const Dict::Entry& entry : entries) {
    if (!is_key(entry.first)) return type_error(fmt::format("unhashable type: '{}'", type_name(entry.first)));
  }
  auto dict = std::make_shared<Dict>();
  std::vector<uint32_t> order(entries.size());
  std::iota(order.begin(), order.end(), 0U);
  merge_sort(order,
             [&](uint32_t a, uint32_t b) { return compare_keys(entries[a].first, entries[b].first) < 0; });
  std::vector<bool> dropped(entries.size(), false);
  for (size_t i = 1, first = 0; i < order.size(); ++i) {
    if (compare_keys(entries[order[first]].first, entries[order[i]].first) != 0) {
      first = i;
      continue;
    }
    entries[order[first]].second = entries[order[i]].second;
    dropped[order[i]] = true;
  }
  std::vector<uint32_t> place(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    place[i] = static_cast<uint32_t>(dict->entries_.size());
    if (dropped[i]) continue;
    dict->depth_ = std::max(dict->depth_, entries[i].second.depth() + 1);
    dict->entries_.push_back(std::move(entries[i]));
  }
  if (dict->depth_ > kValueDepthMax) return type_error("values are nested too deeply");
  if (dict->entries_.size() > kLinearSearchMax) {
    for (const uint32_t i : order) {
      if (!dropped[i]) dict->order_.push_back(place[i]);
    }
  }
  return Value(DictRef(std::move(dict)));
}

Result<Value> make_text(std::string bytes, bool safe) {
  if (bytes.size() > kStringBytesMax) {
    return type_error(
        fmt::format("a string of {} bytes, at most {} are allowed", bytes.size(), kStringBytesMax));
  }
  return Value(Text(std::move(bytes), safe));
}

Failure Meter::too_many_steps() const {
  return fail(Code::kInvalid, fmt::format("the template takes more than {} steps", steps_max_));
}

Failure Meter::too_many_bytes() {
  return fail(Code::kInvalid, fmt::format("the template copies more than {} bytes of text", kCopiedBytesMax));
}

const char* type_name(const Value& value) {
  struct Names {
    const char* operator()(const Undefined&) const { return "Undefined"; }
    const char* operator()(None) const { return "NoneType"; }
    const char* operator()(bool) const { return "bool"; }
    const char* operator()(Int) const { return "int"; }
    const char* operator()(double) const { return "float"; }
    const char* operator()(const Text& t) const { return t.safe() ? "Markup" : "str"; }
    const char* operator()(const ListRef& l) const {
      switch (l->kind) {
        case List::Kind::kList:
          return "list";
        case List::Kind::kTuple:
          return "tuple";
        case List::Kind::kGroup:
          return "_GroupTuple";
        case List::Kind::kKeys:
          return "dict_keys";
        case List::Kind::kValues:
          return "dict_values";
        case List::Kind::kItems:
          return "dict_items";
      }
      return "list";
    }
    const char* operator()(const DictRef&) const { return "dict"; }
    const char* operator()(const Range&) const { return "range"; }
    const char* operator()(const ObjectRef& o) const {
      constexpr const char* kNames[] = {"Namespace",   "Macro",     "function", "builtin_function_or_method",
                                        "LoopContext", "method",    "Cycler",   "method",
                                        "Joiner",      "generator", "bytes"};
      return kNames[o->state.index()];
    }
  };
  return std::visit(Names{}, value.data());
}

std::string undefined_message(const Undefined& undefined) {
  const std::string_view subject = undefined.subject.view();
  const std::string_view type = undefined.type_name;
  const auto object = type == "NoneType" ? std::string("None") : fmt::format("'{} object'", type);
  switch (undefined.why) {
    case Undefined::Why::kName:
      return fmt::format("'{}' is undefined", subject);
    case Undefined::Why::kAttribute:
      return fmt::format("{} has no attribute '{}'", object, subject);
    case Undefined::Why::kElement:
      return fmt::format("{} has no element {}", type == "NoneType" ? "None" : fmt::format("{} object", type),
                         subject);
    case Undefined::Why::kUnsafe:
      return fmt::format("access to attribute '{}' of '{}' object is unsafe.", subject, type);
    case Undefined::Why::kText:
      return std::string(subject);
  }
  return {};
}

Undefined undefined_text(std::string message) {
  return {Undefined::Why::kText, "", Text(std::move(message))};
}

bool callable(const Value& value) {
  if (value.is<Undefined>()) return true;
  const ObjectRef* ref = value.get<ObjectRef>();
  if (!ref) return false;
  const auto& state = (*ref)->state;
  return std::holds_alternative<Macro>(state) || std::holds_alternative<Builtin>(state) ||
         std::holds_alternative<BoundMethod>(state) || std::holds_alternative<Loop>(state) ||
         std::holds_alternative<LoopMethod>(state) || std::holds_alternative<CyclerMethod>(state) ||
         std::holds_alternative<Joiner>(state);
}

const Value* Namespace::find(std::string_view name) const {
  const auto at =
      std::find_if(attributes.begin(), attributes.end(), [&](const auto& a) { return a.first == name; });
  return at == attributes.end() ? nullptr : &at->second;
}

}  // namespace baton::text::jinja
