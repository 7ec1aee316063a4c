#include "text/jinja/interpreter.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/operators.h"

namespace baton::text::jinja {

Interpreter::Interpreter(const Program& program, const LocalTime& local_time, uint64_t steps_max)
    : program_(program), local_time_(local_time), meter_(steps_max), variables_(program.names.size()) {}

Interpreter::~Interpreter() {
  for (const ObjectRef& ref : mutable_objects_) {
    if (auto* names = std::get_if<Namespace>(&ref->state)) names->attributes.clear();
    if (auto* loop = std::get_if<Loop>(&ref->state)) loop->changed = Value();
  }
}

Result<std::string> Interpreter::run(const std::vector<std::pair<std::string, Value>>& variables) {
  constexpr std::pair<std::string_view, Builtin> kBuiltins[] = {{"range", Builtin::kRange},
                                                                {"dict", Builtin::kDict},
                                                                {"namespace", Builtin::kNamespace},
                                                                {"cycler", Builtin::kCycler},
                                                                {"joiner", Builtin::kJoiner},
                                                                {"lipsum", Builtin::kLipsum},
                                                                {"raise_exception", Builtin::kRaiseException},
                                                                {"strftime_now", Builtin::kStrftimeNow}};
  for (size_t i = 0; i < program_.names.size(); ++i) {
    const std::string& name = program_.names[i];
    for (const auto& [known, builtin] : kBuiltins) {
      if (known != name) continue;
      TRY(variables_[i], make_object(Builtin{builtin}));
    }
    for (const auto& [given, value] : variables) {
      if (given == name) variables_[i] = value;
    }
  }
  std::string out;
  out_ = &out;
  const Result<Flow> done = execute(program_.body);
  if (done) return out;
  Error error = done.error();
  if (!raised_) error.message = fmt::format("chat template, line {}: {}", error_line_, error.message);
  return Failure(std::move(error));
}

Scope* Interpreter::take_scope(Scope* parent) {
  Scope* scope = nullptr;
  if (free_scopes_.empty()) {
    scope = &scopes_.emplace_back();
  } else {
    scope = free_scopes_.back();
    free_scopes_.pop_back();
  }
  scope->parent = parent;
  return scope;
}

void Interpreter::give_back_scope(Scope* scope) {
  if (scope->captured) return;
  scope->variables.clear();
  free_scopes_.push_back(scope);
}

void Interpreter::capture(Scope* scope) {
  for (; scope && !scope->captured; scope = scope->parent) scope->captured = true;
}

const Value* Interpreter::find_variable(NameId name) const {
  for (const Scope* scope = scope_; scope; scope = scope->parent) {
    for (const auto& [id, value] : scope->variables) {
      if (id == name) return &value;
    }
  }
  const std::optional<Value>& variable = variables_[static_cast<size_t>(name)];
  return variable ? &*variable : nullptr;
}

Value Interpreter::lookup(const Expr& name) const {
  if (const Value* value = find_variable(name.name)) return *value;
  return Value(Undefined{Undefined::Why::kName, "", name.text});
}

void Interpreter::set_variable(NameId name, Value value) {
  if (!scope_) {
    variables_[static_cast<size_t>(name)] = std::move(value);
    return;
  }
  for (auto& [id, old] : scope_->variables) {
    if (id != name) continue;
    old = std::move(value);
    return;
  }
  scope_->variables.emplace_back(name, std::move(value));
}

Result<void> Interpreter::write(std::string_view text) {
  if (out_->size() + text.size() > kOutputBytesMax) {
    return type_error(fmt::format("the output is larger than {} bytes", kOutputBytesMax));
  }
  out_->append(text);
  return {};
}

Result<Interpreter::Flow> Interpreter::execute(const Body& body) {
  for (const Statement& statement : body) {
    if (statement.kind == StatementKind::kData) {
      TRY_DO(write(statement.data));
      TRY_DO(meter_.bytes(statement.data.size()));
      continue;
    }
    Result<Flow> flow = execute(statement);
    if (!flow) {
      if (error_line_ == 0) error_line_ = statement.line;
      return flow;
    }
    if (*flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Result<Interpreter::Flow> Interpreter::execute(const Statement& statement) {
  const Deeper deeper(*this);
  TRY_DO(deeper.check());
  TRY_DO(meter_.steps(1));
  switch (statement.kind) {
    case StatementKind::kData:
      break;
    case StatementKind::kPrint: {
      TRY(const Value value, evaluate(*statement.value));
      const Text* text = value.get<Text>();
      if (text) {
        TRY_DO(write(text->view()));
        TRY_DO(meter_.bytes(text->size()));
      } else {
        TRY_DO(append_text(meter_, value, *out_));
        TRY_DO(write(""));
      }
      break;
    }
    case StatementKind::kFor: {
      TRY(const Value value, evaluate(*statement.value));
      TRY(const ListRef items, iterate(meter_, value));
      size_t depth0 = 0;
      return for_loop(statement, items, scope_, depth0);
    }
    case StatementKind::kIf:
      return if_statement(statement);
    case StatementKind::kSet: {
      TRY(Value value, evaluate(*statement.value));
      TRY_DO(assign(*statement.target, std::move(value)));
      break;
    }
    case StatementKind::kSetBlock:
      TRY_DO(set_block(statement));
      break;
    case StatementKind::kWith:
      return with_block(statement);
    case StatementKind::kMacro: {
      TRY(Value macro, define_macro(*statement.macro));
      set_variable(statement.macro_name, std::move(macro));
      break;
    }
    case StatementKind::kCallBlock:
      TRY_DO(call_block(statement));
      break;
    case StatementKind::kFilterBlock:
      return filter_block(statement);
    case StatementKind::kScope:
      return scoped_block(statement);
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
    case StatementKind::kUnsupported:
      return type_error(statement.data);
  }
  return Flow::kNext;
}

Result<bool> Interpreter::passes(const Statement& statement, const Value& item) {
  InScope inside(*this, scope_);
  TRY_DO(assign(*statement.target, item));
  TRY(const Value value, evaluate(*statement.condition));
  return truthy(value);
}

// With `loop` in the body the condition picks the items first, for the sake of loop.length; without, it is
// asked as the loop goes, so that it sees what the body has changed. The else part runs when no turn reached
// its end.
Result<Interpreter::Flow> Interpreter::for_loop(const Statement& statement, const ListRef& all,
                                                Scope* outside, size_t depth0) {
  Scope* const before = std::exchange(scope_, outside);
  ListRef items = all;
  if (statement.condition && statement.uses_loop) {
    std::vector<Value> kept;
    for (const Value& item : all->items) {
      TRY(const bool keep, passes(statement, item));
      if (keep) kept.push_back(item);
    }
    TRY(const Value list, make_list(std::move(kept)));
    items = *list.get<ListRef>();
  }
  Value loop;
  if (statement.uses_loop) {
    if (statement.recursive) capture(outside);
    TRY(loop,
        make_object(Loop{items, 0, depth0, statement.recursive ? &statement : nullptr, outside, {}, false},
                    (*items).depth));
    mutable_objects_.push_back(*loop.get<ObjectRef>());
  }
  bool finished_turn = false;
  {
    InScope inside(*this, outside);
    for (size_t i = 0; i < items->items.size(); ++i) {
      TRY_DO(meter_.steps(1));
      inside.scope().variables.clear();
      if (Loop* state = mutable_object<Loop>(loop)) {
        state->index0 = i;
        set_variable(program_.loop, loop);
      } else if (statement.condition) {
        scope_ = outside;
        TRY(const bool keep, passes(statement, items->items[i]));
        scope_ = &inside.scope();
        if (!keep) continue;
      }
      TRY_DO(assign(*statement.target, items->items[i]));
      TRY(const Flow flow, execute(statement.body));
      if (flow == Flow::kBreak) break;
      if (flow == Flow::kNext) finished_turn = true;
    }
  }
  Flow flow = Flow::kNext;
  if (!finished_turn && !statement.otherwise.empty()) {
    InScope inside(*this, outside);
    TRY(flow, execute(statement.otherwise));
  }
  scope_ = before;
  return flow;
}

Result<Interpreter::Flow> Interpreter::if_statement(const Statement& statement) {
  for (size_t i = 0; i < statement.conditions.size(); ++i) {
    TRY(const Value value, evaluate(*statement.conditions[i]));
    if (truthy(value)) return execute(statement.bodies[i]);
  }
  return execute(statement.otherwise);
}

Result<void> Interpreter::set_block(const Statement& statement) {
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  {
    InScope inside(*this, scope_);
    TRY(const Flow flow, execute(statement.body));
    if (flow != Flow::kNext) {
      out_ = outer;
      return {};
    }
  }
  out_ = outer;
  TRY(Value value, make_text(std::move(text)));
  if (statement.value) {
    TRY(value, evaluate_filter(*statement.value, &value));
  }
  return assign(*statement.target, std::move(value));
}

Result<Interpreter::Flow> Interpreter::with_block(const Statement& statement) {
  std::vector<Value> values;
  for (const ExprPtr& expr : statement.conditions) {
    TRY(Value value, evaluate(*expr));
    values.push_back(std::move(value));
  }
  InScope inside(*this, scope_);
  for (size_t i = 0; i < values.size(); ++i) TRY_DO(assign(*statement.targets[i], std::move(values[i])));
  return execute(statement.body);
}

Result<Value> Interpreter::define_macro(const MacroNode& node) {
  capture(scope_);
  return make_object(Macro{&node, scope_});
}

Result<void> Interpreter::call_block(const Statement& statement) {
  TRY(Value caller, define_macro(*statement.macro));
  const Expr& expr = *statement.value;
  TRY(const Value callee, evaluate(*expr.items[0]));
  TRY(Arguments arguments, evaluate_arguments(expr.call.get()));
  arguments.keyword.emplace_back("caller", std::move(caller));
  TRY(const Value value, call(callee, std::move(arguments)));
  TRY_DO(append_text(meter_, value, *out_));
  return write("");
}

Result<Interpreter::Flow> Interpreter::filter_block(const Statement& statement) {
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  Flow flow = Flow::kNext;
  {
    InScope inside(*this, scope_);
    TRY(flow, execute(statement.body));
  }
  out_ = outer;
  if (flow != Flow::kNext) return flow;
  TRY(const Value input, make_text(std::move(text)));
  TRY(const Value value, evaluate_filter(*statement.value, &input));
  TRY_DO(append_text(meter_, value, *out_));
  TRY_DO(write(""));
  return Flow::kNext;
}

Result<Interpreter::Flow> Interpreter::scoped_block(const Statement& statement) {
  InScope inside(*this, statement.at_root ? nullptr : scope_);
  return execute(statement.body);
}

Result<void> Interpreter::assign(const Expr& target, Value value) {
  if (target.kind == ExprKind::kName) {
    set_variable(target.name, std::move(value));
    return {};
  }
  if (target.kind == ExprKind::kNamespaceRef) {
    const Value* found = find_variable(target.name);
    const Value holder = found ? *found : Value();
    Namespace* names = mutable_object<Namespace>(holder);
    if (!names) return type_error("cannot assign attribute on non-namespace object");
    for (auto& [name, old] : names->attributes) {
      if (name != target.text.view()) continue;
      old = std::move(value);
      return {};
    }
    names->attributes.emplace_back(std::string(target.text.view()), std::move(value));
    return {};
  }
  TRY(const ListRef items, iterate(meter_, value));
  if (items->items.size() != target.items.size()) {
    return type_error(items->items.size() > target.items.size()
                          ? fmt::format("too many values to unpack (expected {})", target.items.size())
                          : fmt::format("not enough values to unpack (expected {}, got {})",
                                        target.items.size(), items->items.size()));
  }
  for (size_t i = 0; i < target.items.size(); ++i) TRY_DO(assign(*target.items[i], items->items[i]));
  return {};
}

}  // namespace baton::text::jinja
