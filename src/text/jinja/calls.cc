// Calls of functions, macros, loops and methods.
#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/interpreter.h"
#include "text/jinja/operators.h"
#include "text/jinja/parameters.h"
#include "text/jinja/strftime.h"

namespace baton::text::jinja {

Result<Value> Interpreter::call(const Value& callee, Arguments arguments) {
  if (const Undefined* u = callee.get<Undefined>()) return type_error(undefined_message(*u));
  const ObjectRef* ref = callee.get<ObjectRef>();
  if (!ref) return type_error(fmt::format("'{}' object is not callable", type_name(callee)));
  auto& state = (*ref)->state;
  if (const auto* macro = std::get_if<Macro>(&state)) return call_macro(*macro, std::move(arguments));
  if (const auto* builtin = std::get_if<Builtin>(&state)) return call_builtin(*builtin, arguments);
  if (const auto* bound = std::get_if<BoundMethod>(&state))
    return bound->method->call(meter_, bound->self, arguments);
  if (const auto* loop = std::get_if<Loop>(&state)) return call_loop(*loop, arguments);
  if (const auto* method = std::get_if<LoopMethod>(&state)) return loop_method(*method, arguments);
  if (const auto* method = std::get_if<CyclerMethod>(&state)) {
    auto& cycler = std::get<Cycler>(method->cycler->state);
    if (method->reset) {
      cycler.position = 0;
      return Value(None{});
    }
    Value current = cycler.items->items[cycler.position];
    cycler.position = (cycler.position + 1) % cycler.items->items.size();
    return current;
  }
  if (auto* joiner = std::get_if<Joiner>(&state)) {
    return std::exchange(joiner->used, true) ? joiner->separator : Value::text("");
  }
  return type_error(fmt::format("'{}' object is not callable", type_name(callee)));
}

Result<Value> Interpreter::loop_method(const LoopMethod& method, const Arguments& arguments) {
  auto& loop = std::get<Loop>(method.loop->state);
  const std::vector<Value>& given = arguments.positional;
  if (method.cycle) {
    if (given.empty()) return type_error("no items for cycling given");
    return given[loop.index0 % given.size()];
  }
  TRY(Value now, make_tuple(given));
  if (loop.changed_known) {
    TRY(const bool same, equals(meter_, loop.changed, now));
    if (same) return Value(false);
  }
  loop.changed = std::move(now);
  loop.changed_known = true;
  return Value(true);
}

namespace {

Result<Value> make_range(const Arguments& arguments) {
  TRY(const Parameters p, bind("range", arguments, {"start", "stop", "step"}, 1));
  TRY(int64_t start, p.integer(0, 0));
  TRY(int64_t stop, p.integer(1, 0));
  TRY(const int64_t step, p.integer(2, 1));
  if (!p[1]) stop = std::exchange(start, 0);
  if (step == 0) return type_error("range() arg 3 must not be zero");
  const Range range{start, stop, step};
  if (range.size() > kRangeItemsMax) {
    return type_error(
        fmt::format("range() of {} items, at most {} are allowed", range.size(), kRangeItemsMax));
  }
  return Value(range);
}

// dict(mapping or pairs, name=value, …)
Result<std::vector<Dict::Entry>> dict_entries(Meter& meter, const Arguments& arguments) {
  std::vector<Dict::Entry> entries;
  if (arguments.positional.size() > 1) return type_error("dict expected at most 1 argument");
  for (const Value& source : arguments.positional) {
    if (const DictRef* dict = source.get<DictRef>()) {
      TRY_DO(meter.steps((*dict)->entries().size()));
      entries = (*dict)->entries();
      continue;
    }
    TRY(const ListRef pairs, iterate(meter, source));
    for (const Value& pair : pairs->items) {
      TRY(const ListRef parts, iterate(meter, pair));
      if (parts->items.size() != 2) return type_error("dictionary update sequence element has not length 2");
      entries.emplace_back(parts->items[0], parts->items[1]);
    }
  }
  for (const auto& [name, value] : arguments.keyword) entries.emplace_back(Value::text(name), value);
  return entries;
}

}  // namespace

Result<Value> Interpreter::new_namespace(const Arguments& arguments) {
  TRY(std::vector<Dict::Entry> entries, dict_entries(meter_, arguments));
  TRY(const Value unique, make_dict(std::move(entries)));
  Namespace made;
  for (const auto& [key, value] : (*unique.get<DictRef>())->entries()) {
    if (const Text* name = key.get<Text>()) made.attributes.emplace_back(std::string(name->view()), value);
  }
  TRY(Value value, make_object(std::move(made)));
  mutable_objects_.push_back(*value.get<ObjectRef>());
  return value;
}

Result<Value> Interpreter::call_builtin(Builtin builtin, const Arguments& arguments) {
  switch (builtin) {
    case Builtin::kRange:
      return make_range(arguments);
    case Builtin::kDict: {
      TRY(std::vector<Dict::Entry> entries, dict_entries(meter_, arguments));
      return make_dict(std::move(entries));
    }
    case Builtin::kNamespace:
      return new_namespace(arguments);
    case Builtin::kCycler: {
      if (arguments.positional.empty()) return type_error("at least one item has to be provided");
      TRY(const Value items, make_tuple(arguments.positional));
      return make_object(Cycler{*items.get<ListRef>(), 0}, items.depth());
    }
    case Builtin::kJoiner: {
      TRY(const Parameters p, bind("joiner", arguments, {"sep"}));
      return make_object(Joiner{p[0] ? *p[0] : Value::text(", "), false}, p[0] ? p[0]->depth() : 0);
    }
    case Builtin::kLipsum:
      return type_error("lipsum() is not available in chat templates");
    case Builtin::kRaiseException: {
      TRY(const Parameters p, bind("raise_exception", arguments, {"message"}, 1));
      TRY(std::string message, to_text(meter_, *p[0]));
      raised_ = true;
      return fail(Code::kInvalid, std::move(message));
    }
    case Builtin::kStrftimeNow: {
      TRY(const Parameters p, bind("strftime_now", arguments, {"format"}, 1));
      TRY(const Text format, p.text(0, ""));
      TRY(std::string text, format_time(format.view(), local_time_()));
      return make_text(std::move(text));
    }
  }
  return type_error("not callable");
}

// Assigns the parameters of a macro in the current scope.
Result<void> Interpreter::bind_macro(const MacroNode& node, Arguments& arguments) {
  const size_t count = node.parameters.size();
  const size_t given = std::min(arguments.positional.size(), count);
  std::vector<bool> is_set(count, false);
  for (size_t i = 0; i < given; ++i) {
    scope_->variables.emplace_back(node.parameters[i], std::move(arguments.positional[i]));
    is_set[i] = true;
  }
  std::vector<Value> extra(
      std::make_move_iterator(arguments.positional.begin() + static_cast<ptrdiff_t>(given)),
      std::make_move_iterator(arguments.positional.end()));
  if (!extra.empty() && !node.uses_varargs) {
    return type_error(fmt::format("macro '{}' takes not more than {} argument(s)", node.name.view(), count));
  }
  std::vector<Dict::Entry> keywords;
  Value caller(undefined_text("No caller defined"));
  for (auto& [name, value] : arguments.keyword) {
    const auto at = std::find_if(node.parameter_names.begin(), node.parameter_names.end(),
                                 [&](const Text& parameter) { return parameter.view() == name; });
    const auto i = static_cast<size_t>(at - node.parameter_names.begin());
    if (i < count && !is_set[i]) {
      set_variable(node.parameters[i], std::move(value));
      is_set[i] = true;
    } else if (name == "caller" && node.uses_caller) {
      caller = std::move(value);
    } else if (node.uses_kwargs) {
      keywords.emplace_back(Value::text(name), std::move(value));
    } else {
      return type_error(fmt::format("macro '{}' takes no keyword argument '{}'", node.name.view(), name));
    }
  }
  for (size_t i = 0; i < count; ++i) {
    if (is_set[i]) continue;
    const size_t required = count - node.defaults.size();
    Value value(
        undefined_text(fmt::format("parameter '{}' was not provided", node.parameter_names[i].view())));
    if (i >= required) {
      TRY(value, evaluate(*node.defaults[i - required]));
    }
    set_variable(node.parameters[i], std::move(value));
  }
  if (node.uses_caller) set_variable(program_.caller, std::move(caller));
  if (node.uses_varargs) {
    TRY(Value rest, make_tuple(std::move(extra)));
    set_variable(program_.varargs, std::move(rest));
  }
  if (node.uses_kwargs) {
    TRY(Value rest, make_dict(std::move(keywords)));
    set_variable(program_.kwargs, std::move(rest));
  }
  return {};
}

Result<Value> Interpreter::call_macro(const Macro& macro, Arguments arguments) {
  const Deeper deeper(*this);
  TRY_DO(deeper.check());
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  {
    InScope inside(*this, macro.scope);
    TRY_DO(bind_macro(*macro.node, arguments));
    TRY_DO(execute(macro.node->body));
  }
  out_ = outer;
  TRY_DO(meter_.bytes(text.size()));
  return make_text(std::move(text));
}

// loop(items) within a recursive loop: the same body over other items, as text.
Result<Value> Interpreter::call_loop(const Loop& loop, const Arguments& arguments) {
  if (!loop.recursive) {
    return type_error("The loop must have the 'recursive' marker to be called recursively.");
  }
  const Deeper deeper(*this);
  TRY_DO(deeper.check());
  TRY(const Parameters p, bind("loop", arguments, {"iterable"}, 1));
  TRY(const ListRef items, iterate(meter_, *p[0]));
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  TRY_DO(for_loop(*loop.recursive, items, loop.scope, loop.depth0 + 1));
  out_ = outer;
  return make_text(std::move(text));
}

}  // namespace baton::text::jinja
