// Expressions.
#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/operators.h"

namespace baton::text::jinja {

Result<Value> Interpreter::evaluate(const Expr& expr) {
  ++depth_;
  struct Leave {
    uint32_t& depth;
    ~Leave() { --depth; }
  } const leave{depth_};
  if (depth_ > kEvaluationDepthMax) {
    return type_error(fmt::format("calls and blocks are nested more than {} deep", kEvaluationDepthMax));
  }
  TRY_DO(meter_.steps(1));
  switch (expr.kind) {
    case ExprKind::kConstant:
      return expr.constant;
    case ExprKind::kName:
      return lookup(expr);
    case ExprKind::kNamespaceRef:
      break;
    case ExprKind::kList:
    case ExprKind::kTuple:
      return evaluate_items(expr);
    case ExprKind::kDict:
      return evaluate_dict(expr);
    case ExprKind::kCondition:
      return evaluate_condition(expr);
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      TRY(Value left, evaluate(*expr.items[0]));
      if (truthy(left) == (expr.kind == ExprKind::kOr)) return left;
      return evaluate(*expr.items[1]);
    }
    case ExprKind::kNot: {
      TRY(const Value value, evaluate(*expr.items[0]));
      return Value(!truthy(value));
    }
    case ExprKind::kNegate: {
      TRY(const Value value, evaluate(*expr.items[0]));
      return negate(value);
    }
    case ExprKind::kPlus: {
      TRY(const Value value, evaluate(*expr.items[0]));
      Int whole = 0;
      if (as_integer(value, whole)) return Value(whole);
      if (value.is<double>()) return value;
      return type_error(fmt::format("bad operand type for unary +: '{}'", type_name(value)));
    }
    case ExprKind::kBinary: {
      TRY(const Value left, evaluate(*expr.items[0]));
      TRY(const Value right, evaluate(*expr.items[1]));
      return arithmetic(meter_, expr.op, left, right);
    }
    case ExprKind::kConcat:
      return evaluate_concat(expr);
    case ExprKind::kCompare:
      return evaluate_compare(expr);
    case ExprKind::kAttribute: {
      TRY(const Value object, evaluate(*expr.items[0]));
      return attribute(object, expr.text);
    }
    case ExprKind::kItem:
      return evaluate_item(expr);
    case ExprKind::kSlice:
      break;
    case ExprKind::kCall:
      return evaluate_call(expr);
    case ExprKind::kFilter:
      return evaluate_filter(expr, nullptr);
    case ExprKind::kTest:
      return evaluate_test(expr);
  }
  return type_error("a slice or a target is no value");
}

Result<Value> Interpreter::evaluate_or_none(const ExprPtr& expr) {
  if (!expr) return Value(None{});
  return evaluate(*expr);
}

Result<Value> Interpreter::evaluate_items(const Expr& expr) {
  std::vector<Value> items;
  items.reserve(expr.items.size());
  for (const ExprPtr& item : expr.items) {
    TRY(Value value, evaluate(*item));
    items.push_back(std::move(value));
  }
  return make_list(std::move(items), expr.kind == ExprKind::kList ? List::Kind::kList : List::Kind::kTuple);
}

Result<Value> Interpreter::evaluate_dict(const Expr& expr) {
  std::vector<Dict::Entry> entries;
  for (size_t i = 0; i < expr.items.size(); i += 2) {
    TRY(Value key, evaluate(*expr.items[i]));
    TRY(Value value, evaluate(*expr.items[i + 1]));
    entries.emplace_back(std::move(key), std::move(value));
  }
  return make_dict(std::move(entries));
}

Result<Value> Interpreter::evaluate_condition(const Expr& expr) {
  TRY(const Value chosen, evaluate(*expr.items[1]));
  if (truthy(chosen)) return evaluate(*expr.items[0]);
  if (expr.items[2]) return evaluate(*expr.items[2]);
  return Value(
      undefined_text("the inline if-expression evaluated to false and no else section was defined."));
}

Result<Value> Interpreter::evaluate_concat(const Expr& expr) {
  std::string joined;
  for (const ExprPtr& item : expr.items) {
    TRY(const Value value, evaluate(*item));
    TRY_DO(append_text(meter_, value, joined));
  }
  return make_text(std::move(joined));
}

Result<Value> Interpreter::evaluate_compare(const Expr& expr) {
  TRY(Value left, evaluate(*expr.items[0]));
  Value holds(true);
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    TRY(Value right, evaluate(*expr.items[i + 1]));
    TRY(holds, compare(meter_, expr.ops[i], left, right));
    if (!truthy(holds)) break;
    left = std::move(right);
  }
  return holds;
}

Result<Value> Interpreter::evaluate_item(const Expr& expr) {
  TRY(const Value object, evaluate(*expr.items[0]));
  const Expr& index = *expr.items[1];
  if (index.kind != ExprKind::kSlice) {
    TRY(const Value key, evaluate(index));
    return item(object, key);
  }
  TRY(const Value start, evaluate_or_none(index.items[0]));
  TRY(const Value stop, evaluate_or_none(index.items[1]));
  TRY(const Value step, evaluate_or_none(index.items[2]));
  return slice(meter_, object, start, stop, step);
}

Result<Arguments> Interpreter::evaluate_arguments(const CallNode* call) {
  Arguments arguments;
  if (!call) return arguments;
  for (const ExprPtr& expr : call->positional) {
    TRY(Value value, evaluate(*expr));
    arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, expr] : call->keyword) {
    TRY(Value value, evaluate(*expr));
    for (const auto& given : arguments.keyword) {
      if (given.first == name) return type_error(fmt::format("keyword argument repeated: {}", name));
    }
    arguments.keyword.emplace_back(name, std::move(value));
  }
  TRY_DO(evaluate_star(*call, arguments));
  return arguments;
}

Result<void> Interpreter::evaluate_star(const CallNode& call, Arguments& arguments) {
  if (call.star) {
    TRY(const Value value, evaluate(*call.star));
    TRY(const ListRef items, iterate(meter_, value));
    arguments.positional.insert(arguments.positional.end(), items->items.begin(), items->items.end());
  }
  if (!call.double_star) return {};
  TRY(const Value value, evaluate(*call.double_star));
  const DictRef* dict = value.get<DictRef>();
  if (!dict) return type_error(fmt::format("argument after ** must be a mapping, not {}", type_name(value)));
  for (const auto& [key, argument] : (*dict)->entries()) {
    const Text* name = key.get<Text>();
    if (!name) return type_error("keywords must be strings");
    TRY_DO(meter_.steps(1 + arguments.keyword.size()));
    for (const auto& given : arguments.keyword) {
      if (given.first == name->view())
        return type_error(fmt::format("keyword argument repeated: {}", given.first));
    }
    arguments.keyword.emplace_back(std::string(name->view()), argument);
  }
  return {};
}

// object.method(…) of strings, lists and dicts goes without the detour through a bound method.
Result<Value> Interpreter::evaluate_call(const Expr& expr) {
  const Expr& callee = *expr.items[0];
  if (callee.kind == ExprKind::kAttribute) {
    TRY(const Value object, evaluate(*callee.items[0]));
    const Method* method = object.is<ObjectRef>() ? nullptr : find_method(object, callee.text.view());
    if (method) {
      TRY(const Arguments arguments, evaluate_arguments(expr.call.get()));
      return method->call(meter_, object, arguments);
    }
    TRY(const Value function, attribute(object, callee.text));
    TRY(Arguments arguments, evaluate_arguments(expr.call.get()));
    return call(function, std::move(arguments));
  }
  TRY(const Value function, evaluate(callee));
  TRY(Arguments arguments, evaluate_arguments(expr.call.get()));
  return call(function, std::move(arguments));
}

Result<Value> Interpreter::evaluate_filter(const Expr& expr, const Value* block_text) {
  if (!expr.filter) return type_error(fmt::format("there is no filter '{}'", expr.text.view()));
  Value input;
  if (!expr.items[0]) {
    if (!block_text) return type_error("a filter without input");
    input = *block_text;
  } else if (block_text) {
    TRY(input, evaluate_filter(*expr.items[0], block_text));
  } else {
    TRY(input, evaluate(*expr.items[0]));
  }
  TRY(const Arguments arguments, evaluate_arguments(expr.call.get()));
  return expr.filter->apply(meter_, input, arguments);
}

Result<Value> Interpreter::evaluate_test(const Expr& expr) {
  if (!expr.test) return type_error(fmt::format("there is no test '{}'", expr.text.view()));
  TRY(const Value input, evaluate(*expr.items[0]));
  TRY(const Arguments arguments, evaluate_arguments(expr.call.get()));
  TRY(const bool holds, expr.test->holds(meter_, input, arguments));
  return Value(holds);
}

}  // namespace baton::text::jinja
