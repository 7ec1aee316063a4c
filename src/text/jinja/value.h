// Values of a template as Python sees them: None, booleans, integers, floats, strings, lists, tuples, dicts
// and a few objects. Immutable and shared; only namespaces, loops and one-shot iterators change, and they
// belong to one rendering. A value that is reachable from a compiled template may be read by many threads at
// once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "text/jinja/limits.h"

namespace baton::text::jinja {

// Integers are exact up to 128 bits; past that arithmetic is an error.
__extension__ using Int = __int128;

// A UTF-8 string of known length in code points. Copies share the bytes (reference counted, hence
// shared_ptr). Appending to the newest string of a buffer extends that buffer in place, so that a template
// that builds its text piece by piece takes linear time. A view() is valid until the next append to any
// string that shares the buffer: never keep one while something is evaluated.
class Text {
 public:
  Text() = default;
  Text(std::string bytes, bool safe = false);  // NOLINT(google-explicit-constructor)

  std::string_view view() const {
    return buffer_ ? std::string_view(buffer_->data(), size_) : std::string_view();
  }
  size_t size() const { return size_; }  // bytes
  size_t code_points() const { return code_points_; }
  bool ascii() const { return size_ == code_points_; }
  bool safe() const { return safe_; }  // already HTML-escaped (Markup)
  Text as_safe() const;

  // `left` followed by `right`. The result may share left's buffer.
  static Text concat(const Text& left, std::string_view right, bool safe);

 private:
  std::shared_ptr<std::string> buffer_;
  uint32_t size_ = 0;
  uint32_t code_points_ = 0;
  bool safe_ = false;
  bool growable_ = false;
};

class Value;
struct List;
class Dict;
struct Object;
using ListRef = std::shared_ptr<const List>;
using DictRef = std::shared_ptr<const Dict>;
using ObjectRef = std::shared_ptr<Object>;  // identity matters: a namespace is seen from every scope

// What a missing name, attribute or element evaluates to. Empty when printed or looped over; anything else
// fails with a message made of these parts.
struct Undefined {
  enum class Why : uint8_t { kName, kAttribute, kElement, kUnsafe, kText };
  Why why = Why::kText;
  const char* type_name = "";  // of the object that lacks it
  Text subject;                // the name that was asked for, or the whole message
};

struct None {};

struct Range {
  int64_t start = 0;
  int64_t stop = 0;
  int64_t step = 1;
  int64_t size() const;
};

class Value {
 public:
  using Data = std::variant<Undefined, None, bool, Int, double, Text, ListRef, DictRef, Range, ObjectRef>;

  Value() : data_(None{}) {}
  Value(Undefined u) : data_(std::move(u)) {}  // NOLINT(google-explicit-constructor)
  Value(None n) : data_(n) {}                  // NOLINT(google-explicit-constructor)
  Value(bool b) : data_(b) {}                  // NOLINT(google-explicit-constructor)
  Value(Int i) : data_(i) {}                   // NOLINT(google-explicit-constructor)
  Value(double d) : data_(d) {}                // NOLINT(google-explicit-constructor)
  Value(Text t) : data_(std::move(t)) {}       // NOLINT(google-explicit-constructor)
  Value(Range r) : data_(r) {}                 // NOLINT(google-explicit-constructor)
  Value(ListRef l) : data_(std::move(l)) {}    // NOLINT(google-explicit-constructor)
  Value(DictRef d) : data_(std::move(d)) {}    // NOLINT(google-explicit-constructor)
  Value(ObjectRef o) : data_(std::move(o)) {}  // NOLINT(google-explicit-constructor)
  Value(const char*) = delete;
  static Value integer(int64_t i) { return Value(static_cast<Int>(i)); }
  static Value text(std::string s) { return Value(Text(std::move(s))); }

  template <class T>
  const T* get() const {
    return std::get_if<T>(&data_);
  }
  template <class T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  const Data& data() const { return data_; }
  uint32_t depth() const;  // 0 for scalars, 1 + the deepest element for containers

 private:
  Data data_;
};

// Lists, tuples and the views that dicts give out (which print differently and cannot be indexed).
struct List {
  enum class Kind : uint8_t { kList, kTuple, kGroup, kKeys, kValues, kItems };
  Kind kind = Kind::kList;
  uint32_t depth = 1;
  std::vector<Value> items;

  bool is_list() const { return kind == Kind::kList; }
  bool is_tuple() const { return kind == Kind::kTuple || kind == Kind::kGroup; }
  bool is_view() const { return !is_list() && !is_tuple(); }
};

// An insertion-ordered dict. Keys are None, booleans, numbers or strings; 1, 1.0 and True are one key.
class Dict {
 public:
  using Entry = std::pair<Value, Value>;

  const std::vector<Entry>& entries() const { return entries_; }
  uint32_t depth() const { return depth_; }
  const Value* find(const Value& key) const;  // null when absent or when `key` cannot be a key
  const Value* find(std::string_view key) const;

 private:
  friend Result<Value> make_dict(std::vector<Entry> entries);
  std::vector<Entry> entries_;
  std::vector<uint32_t> order_;  // indices by key; empty while a linear search is faster
  uint32_t depth_ = 1;
};

// kInvalid when the list is longer or deeper than limits.h allows.
Result<Value> make_list(std::vector<Value> items, List::Kind kind = List::Kind::kList);
inline Result<Value> make_tuple(std::vector<Value> items) {
  return make_list(std::move(items), List::Kind::kTuple);
}
// Of equal keys the first gives the place and the last the value. kInvalid for keys that cannot be hashed.
Result<Value> make_dict(std::vector<Dict::Entry> entries);

// kInvalid past kStringBytesMax.
Result<Value> make_text(std::string bytes, bool safe = false);

// Python's name of the value's type: "str", "NoneType", "dict", ...
const char* type_name(const Value& value);

// The message of an error caused by using this undefined value.
std::string undefined_message(const Undefined& undefined);
Undefined undefined_text(std::string message);

inline Failure type_error(std::string message) { return fail(Code::kInvalid, std::move(message)); }

// Counts what a rendering uses and stops it at the limits.
class Meter {
 public:
  explicit Meter(uint64_t steps_max = kStepsMax) : steps_max_(steps_max) {}

  Result<void> steps(size_t count) {
    steps_ += count;
    if (steps_ > steps_max_) return too_many_steps();
    return {};
  }
  Result<void> bytes(size_t count) {
    bytes_ += count;
    if (bytes_ > kCopiedBytesMax) return too_many_bytes();
    return {};
  }

 private:
  Failure too_many_steps() const;
  static Failure too_many_bytes();
  uint64_t steps_max_;
  uint64_t steps_ = 0;
  uint64_t bytes_ = 0;
};

// Python's bool(value).
bool truthy(const Value& value);
// Python's ==. Never fails but for the meter.
Result<bool> equals(Meter& meter, const Value& a, const Value& b);
// Python's <. kInvalid for values without an order.
Result<bool> less(Meter& meter, const Value& a, const Value& b);
// The order of dict keys in their index; total over possible keys.
bool is_key(const Value& value);

// Python's str(value), appended to `out`.
Result<void> append_text(Meter& meter, const Value& value, std::string& out);
Result<std::string> to_text(Meter& meter, const Value& value);
// Python's repr(value), appended to `out`.
Result<void> append_repr(Meter& meter, const Value& value, std::string& out);
std::string int_text(Int value);
// Python's repr(float): the shortest digits that read back as the same double.
std::string float_text(double value);

// What a for loop over `value` visits. Uses up a one-shot iterator.
Result<ListRef> iterate(Meter& meter, const Value& value);
// Python's len(value).
Result<size_t> length(const Value& value);
// Python's `needle in haystack`.
Result<bool> contains(Meter& meter, const Value& needle, const Value& haystack);

}  // namespace baton::text::jinja
