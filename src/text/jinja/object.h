// The objects of a rendering that are neither data nor text: namespaces, macros, functions, loops.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "text/jinja/value.h"

namespace baton::text::jinja {

struct Statement;
struct Scope;
struct MacroNode;

// Arguments of one call, evaluated. Keywords are in the order of the call.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keyword;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
  const Value* find(std::string_view name) const;
};

struct Macro {
  const MacroNode* node = nullptr;
  Scope* scope = nullptr;  // where it was defined; the rendering keeps captured scopes until its end
};

enum class Builtin : uint8_t {
  kRange,
  kDict,
  kNamespace,
  kCycler,
  kJoiner,
  kLipsum,
  kRaiseException,
  kStrftimeNow,
};

struct Method;  // a row of the table in methods.cc
struct BoundMethod {
  Value self;
  const Method* method = nullptr;
};

// What `loop` names inside a for loop.
struct Loop {
  ListRef items;
  size_t index0 = 0;
  size_t depth0 = 0;
  const Statement* recursive = nullptr;  // the for statement, if it may call itself
  Scope* scope = nullptr;                // outside the loop
  Value changed;                         // the arguments of the last loop.changed()
  bool changed_known = false;
};
struct LoopMethod {
  ObjectRef loop;
  bool cycle = false;  // else changed
};

struct Cycler {
  ListRef items;
  size_t position = 0;
};
struct CyclerMethod {
  ObjectRef cycler;
  bool reset = false;  // else next
};

struct Joiner {
  Value separator;
  bool used = false;
};

// A one-shot iterator, as Python's generators are.
struct Generator {
  ListRef items;
  size_t position = 0;
};

struct Bytes {
  std::string bytes;
};

struct Object {
  std::variant<Namespace, Macro, Builtin, BoundMethod, Loop, LoopMethod, Cycler, CyclerMethod, Joiner,
               Generator, Bytes>
      state;
  uint32_t depth = 1;
};

template <class T>
const T* object(const Value& value) {
  const ObjectRef* ref = value.get<ObjectRef>();
  return ref ? std::get_if<T>(&(*ref)->state) : nullptr;
}
template <class T>
T* mutable_object(const Value& value) {
  const ObjectRef* ref = value.get<ObjectRef>();
  return ref ? std::get_if<T>(&(*ref)->state) : nullptr;
}

// `inner` is the deepest value that the object holds on to. kInvalid past kValueDepthMax.
template <class T>
Result<Value> make_object(T state, uint32_t inner = 0) {
  if (inner >= kValueDepthMax) return fail(Code::kInvalid, "values are nested too deeply");
  auto made = std::make_shared<Object>();
  made->state = std::move(state);
  made->depth = inner + 1;
  return Value(ObjectRef(std::move(made)));
}
inline Result<Value> make_generator(std::vector<Value> items) {
  Result<Value> list = make_list(std::move(items));
  if (!list) return list;
  const uint32_t depth = list->depth();
  return make_object(Generator{*list->get<ListRef>(), 0}, depth);
}

bool callable(const Value& value);

}  // namespace baton::text::jinja
