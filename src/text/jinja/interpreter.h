// Runs one rendering of a compiled template. Made for each rendering and thrown away; one thread.
#pragma once

#include <fmt/format.h>

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/jinja/ast.h"
#include "text/jinja/template.h"

namespace baton::text::jinja {

// The variables of one loop, macro call or block. Looked up from the inside out; assignments stay inside.
struct Scope {
  Scope* parent = nullptr;  // null: the template's own variables come next
  bool captured = false;    // a macro or a loop that may be called later refers to it
  std::vector<std::pair<NameId, Value>> variables;
};

class Interpreter {
 public:
  Interpreter(const Program& program, const LocalTime& local_time, uint64_t steps_max);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // kInvalid: the message of raise_exception as it is, or "chat template, line N: …".
  Result<std::string> run(const std::vector<std::pair<std::string, Value>>& variables);

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };
  class Deeper;
  class InScope;

  Result<Flow> execute(const Body& body);
  Result<Flow> execute(const Statement& statement);
  Result<Flow> for_loop(const Statement& statement, const ListRef& items, Scope* outside, size_t depth0);
  Result<Flow> if_statement(const Statement& statement);
  Result<void> set_block(const Statement& statement);
  Result<Flow> with_block(const Statement& statement);
  Result<void> call_block(const Statement& statement);
  Result<Flow> filter_block(const Statement& statement);
  Result<Flow> scoped_block(const Statement& statement);
  Result<Value> define_macro(const MacroNode& node);
  Result<bool> passes(const Statement& statement, const Value& item);

  Result<Value> evaluate(const Expr& expr);
  Result<Value> evaluate_or_none(const ExprPtr& expr);
  Result<Value> evaluate_items(const Expr& expr);
  Result<Value> evaluate_dict(const Expr& expr);
  Result<Value> evaluate_condition(const Expr& expr);
  Result<Value> evaluate_concat(const Expr& expr);
  Result<Value> evaluate_compare(const Expr& expr);
  Result<Value> evaluate_item(const Expr& expr);
  Result<Value> evaluate_call(const Expr& expr);
  Result<Value> evaluate_filter(const Expr& expr, const Value* block_text);
  Result<Value> evaluate_test(const Expr& expr);
  Result<Arguments> evaluate_arguments(const CallNode* call);
  Result<void> evaluate_star(const CallNode& call, Arguments& arguments);

  Result<Value> call(const Value& callee, Arguments arguments);
  Result<Value> call_builtin(Builtin builtin, const Arguments& arguments);
  Result<Value> call_macro(const Macro& macro, Arguments arguments);
  Result<void> bind_macro(const MacroNode& node, Arguments& arguments);
  Result<Value> call_loop(const Loop& loop, const Arguments& arguments);
  Result<Value> loop_method(const LoopMethod& method, const Arguments& arguments);
  Result<Value> new_namespace(const Arguments& arguments);

  Result<void> assign(const Expr& target, Value value);
  Value lookup(const Expr& name) const;
  const Value* find_variable(NameId name) const;
  void set_variable(NameId name, Value value);
  Result<void> write(std::string_view text);

  Scope* take_scope(Scope* parent);
  void give_back_scope(Scope* scope);
  void capture(Scope* scope);

  const Program& program_;
  const LocalTime& local_time_;
  Meter meter_;
  std::vector<std::optional<Value>> variables_;  // of the template, by NameId
  Scope* scope_ = nullptr;
  std::string* out_ = nullptr;
  uint32_t depth_ = 0;
  uint32_t error_line_ = 0;
  bool raised_ = false;  // the error is raise_exception's
  std::deque<Scope> scopes_;
  std::vector<Scope*> free_scopes_;
  std::vector<ObjectRef> mutable_objects_;  // emptied at the end: they may refer to each other in circles
};

// One more statement, expression or call under way.
class Interpreter::Deeper {
 public:
  explicit Deeper(Interpreter& interpreter) : depth_(interpreter.depth_) { ++depth_; }
  ~Deeper() { --depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;
  Result<void> check() const {
    if (depth_ <= kEvaluationDepthMax) return {};
    return type_error(fmt::format("calls and blocks are nested more than {} deep", kEvaluationDepthMax));
  }

 private:
  uint32_t& depth_;
};

// A scope for as long as this lives. Names are looked up in it, then from `parent` on.
class Interpreter::InScope {
 public:
  InScope(Interpreter& interpreter, Scope* parent)
      : interpreter_(interpreter), before_(interpreter.scope_), scope_(interpreter.take_scope(parent)) {
    interpreter_.scope_ = scope_;
  }
  ~InScope() {
    interpreter_.scope_ = before_;
    interpreter_.give_back_scope(scope_);
  }
  InScope(const InScope&) = delete;
  InScope& operator=(const InScope&) = delete;
  Scope& scope() { return *scope_; }

 private:
  Interpreter& interpreter_;
  Scope* before_;
  Scope* scope_;
};

}  // namespace baton::text::jinja
