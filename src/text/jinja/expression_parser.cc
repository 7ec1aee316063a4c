#include "text/jinja/expression_parser.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/filters.h"

namespace baton::text::jinja {

ExprPtr ExpressionParser::make(ExprKind kind, uint32_t line) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  return expr;
}

Result<ExprPtr> ExpressionParser::seal(ExprPtr expr) const {
  const auto look_at = [&](const ExprPtr& child) {
    if (child) expr->depth = std::max(expr->depth, child->depth + 1);
  };
  for (const ExprPtr& item : expr->items) look_at(item);
  if (expr->call) {
    for (const ExprPtr& argument : expr->call->positional) look_at(argument);
    for (const auto& [name, argument] : expr->call->keyword) look_at(argument);
    look_at(expr->call->star);
    look_at(expr->call->double_star);
  }
  if (expr->depth > kNestingMax) {
    return syntax_error(expr->line, fmt::format("expected an expression of at most {} levels", kNestingMax));
  }
  return expr;
}

Result<ExprPtr> ExpressionParser::binary(ExprKind kind, ExprPtr left, ExprPtr right, uint32_t line) const {
  ExprPtr expr = make(kind, line);
  expr->items.push_back(std::move(left));
  expr->items.push_back(std::move(right));
  return seal(std::move(expr));
}

NameId ExpressionParser::intern(const std::string& name) {
  const auto [at, added] = names_.try_emplace(name, static_cast<NameId>(program_.names.size()));
  if (added) program_.names.push_back(name);
  return at->second;
}

void ExpressionParser::note_use(NameId name) {
  for (MacroNode* macro : macros) {
    macro->uses_caller |= name == program_.caller;
    macro->uses_varargs |= name == program_.varargs;
    macro->uses_kwargs |= name == program_.kwargs;
  }
  if (name != program_.loop) return;
  for (Statement* loop : loops) loop->uses_loop = true;
}

Result<ExprPtr> ExpressionParser::condition() {
  if (++nesting_ > kNestingMax) {
    return syntax_error(tokens_.line(),
                        fmt::format("expected an expression of at most {} levels", kNestingMax));
  }
  const size_t known = unknown.size();
  TRY(ExprPtr expr, disjunction());
  while (tokens_.is_name("if")) {
    ExprPtr choice = make(ExprKind::kCondition, tokens_.take().line);
    choice->items.push_back(std::move(expr));
    TRY(ExprPtr test, disjunction());
    choice->items.push_back(std::move(test));
    ExprPtr other;
    if (tokens_.skip_name("else")) {
      TRY(other, condition());
    }
    choice->items.push_back(std::move(other));
    unknown.resize(std::min(known, unknown.size()));
    TRY(expr, seal(std::move(choice)));
  }
  --nesting_;
  return expr;
}

Result<ExprPtr> ExpressionParser::disjunction() {
  TRY(ExprPtr left, conjunction());
  while (tokens_.is_name("or")) {
    const uint32_t line = tokens_.take().line;
    TRY(ExprPtr right, conjunction());
    TRY(left, binary(ExprKind::kOr, std::move(left), std::move(right), line));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::conjunction() {
  TRY(ExprPtr left, negation());
  while (tokens_.is_name("and")) {
    const uint32_t line = tokens_.take().line;
    TRY(ExprPtr right, negation());
    TRY(left, binary(ExprKind::kAnd, std::move(left), std::move(right), line));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::negation() {
  if (!tokens_.is_name("not")) return comparison();
  if (++nesting_ > kNestingMax) return syntax_error(tokens_.line(), "expected fewer 'not'");
  ExprPtr expr = make(ExprKind::kNot, tokens_.take().line);
  TRY(ExprPtr operand, negation());
  --nesting_;
  expr->items.push_back(std::move(operand));
  return seal(std::move(expr));
}

Result<ExprPtr> ExpressionParser::comparison() {
  constexpr std::pair<std::string_view, Comparison> kOperators[] = {
      {"==", Comparison::kEqual},     {"!=", Comparison::kNotEqual}, {"<", Comparison::kLess},
      {"<=", Comparison::kLessEqual}, {">", Comparison::kGreater},   {">=", Comparison::kGreaterEqual}};
  const uint32_t line = tokens_.line();
  TRY(ExprPtr first, sum());
  ExprPtr expr;
  while (true) {
    const auto* op = std::find_if(std::begin(kOperators), std::end(kOperators),
                                  [&](const auto& o) { return tokens_.is_operator(o.first); });
    Comparison comparison = Comparison::kIn;
    if (op != std::end(kOperators)) {
      comparison = op->second;
    } else if (tokens_.is_name("not") && tokens_.ahead().kind == TokenKind::kName &&
               tokens_.ahead().text == "in") {
      tokens_.take();
      comparison = Comparison::kNotIn;
    } else if (!tokens_.is_name("in")) {
      break;
    }
    tokens_.take();
    if (!expr) {
      expr = make(ExprKind::kCompare, line);
      expr->items.push_back(std::move(first));
    }
    TRY(ExprPtr operand, sum());
    expr->items.push_back(std::move(operand));
    expr->ops.push_back(comparison);
  }
  if (!expr) return first;
  return seal(std::move(expr));
}

Result<ExprPtr> ExpressionParser::sum() {
  TRY(ExprPtr left, concatenation());
  while (tokens_.is_operator("+") || tokens_.is_operator("-")) {
    const Token op = tokens_.take();
    TRY(ExprPtr right, concatenation());
    TRY(left, binary(ExprKind::kBinary, std::move(left), std::move(right), op.line));
    left->op = op.text == "+" ? Op::kAdd : Op::kSubtract;
  }
  return left;
}

Result<ExprPtr> ExpressionParser::concatenation() {
  const uint32_t line = tokens_.line();
  TRY(ExprPtr first, product());
  if (!tokens_.is_operator("~")) return first;
  ExprPtr expr = make(ExprKind::kConcat, line);
  expr->items.push_back(std::move(first));
  while (tokens_.skip_operator("~")) {
    TRY(ExprPtr next, product());
    expr->items.push_back(std::move(next));
  }
  return seal(std::move(expr));
}

Result<ExprPtr> ExpressionParser::product() {
  constexpr std::pair<std::string_view, Op> kOperators[] = {
      {"*", Op::kMultiply}, {"/", Op::kDivide}, {"//", Op::kFloorDivide}, {"%", Op::kModulo}};
  TRY(ExprPtr left, power());
  while (true) {
    const auto* op = std::find_if(std::begin(kOperators), std::end(kOperators),
                                  [&](const auto& o) { return tokens_.is_operator(o.first); });
    if (op == std::end(kOperators)) return left;
    const uint32_t line = tokens_.take().line;
    TRY(ExprPtr right, power());
    TRY(left, binary(ExprKind::kBinary, std::move(left), std::move(right), line));
    left->op = op->second;
  }
}

Result<ExprPtr> ExpressionParser::power() {
  TRY(ExprPtr left, unary(true));
  while (tokens_.is_operator("**")) {
    const uint32_t line = tokens_.take().line;
    TRY(ExprPtr right, unary(true));
    TRY(left, binary(ExprKind::kBinary, std::move(left), std::move(right), line));
    left->op = Op::kPower;
  }
  return left;
}

Result<ExprPtr> ExpressionParser::unary(bool with_filters) {
  ExprPtr expr;
  if (tokens_.is_operator("-") || tokens_.is_operator("+")) {
    if (++nesting_ > kNestingMax) return syntax_error(tokens_.line(), "expected fewer signs");
    const Token sign = tokens_.take();
    ExprPtr signed_expr = make(sign.text == "-" ? ExprKind::kNegate : ExprKind::kPlus, sign.line);
    TRY(ExprPtr operand, unary(false));
    --nesting_;
    signed_expr->items.push_back(std::move(operand));
    TRY(expr, seal(std::move(signed_expr)));
  } else {
    TRY(expr, primary(false));
  }
  TRY(expr, postfix(std::move(expr)));
  if (!with_filters) return expr;
  return filters_and_tests(std::move(expr));
}

Result<ExprPtr> ExpressionParser::name_or_constant(bool namespaces) {
  const Token token = tokens_.take();
  const std::string& name = token.text;
  ExprPtr expr = make(ExprKind::kConstant, token.line);
  if (name == "true" || name == "True") {
    expr->constant = Value(true);
  } else if (name == "false" || name == "False") {
    expr->constant = Value(false);
  } else if (name == "none" || name == "None") {
    expr->constant = Value(None{});
  } else {
    expr->kind = ExprKind::kName;
    expr->name = intern(name);
    expr->text = Text(name);
    if (namespaces && tokens_.skip_operator(".")) {
      expr->kind = ExprKind::kNamespaceRef;
      TRY(const std::string attribute, tokens_.expect_any_name());
      expr->text = Text(attribute);
    }
    note_use(expr->name);
  }
  return expr;
}

Result<ExprPtr> ExpressionParser::primary(bool namespaces) {
  const uint32_t line = tokens_.line();
  ExprPtr expr = make(ExprKind::kConstant, line);
  switch (tokens_.current().kind) {
    case TokenKind::kName:
      return name_or_constant(namespaces);
    case TokenKind::kString: {
      std::string text = tokens_.take().text;
      while (tokens_.is(TokenKind::kString)) text += tokens_.take().text;
      expr->constant = Value(Text(std::move(text)));
      return expr;
    }
    case TokenKind::kInteger:
      expr->constant = Value(tokens_.take().whole);
      return expr;
    case TokenKind::kFloat:
      expr->constant = Value(tokens_.take().real);
      return expr;
    default:
      break;
  }
  if (tokens_.skip_operator("(")) {
    TRY(ExprPtr inside, tuple({.in_parentheses = true}));
    TRY_DO(tokens_.expect_operator(")"));
    return inside;
  }
  if (tokens_.is_operator("[")) return list();
  if (tokens_.is_operator("{")) return dict();
  return tokens_.expected("an expression");
}

bool ExpressionParser::ends_tuple(const TupleRules& rules) const {
  return tokens_.is(TokenKind::kPrintEnd) || tokens_.is(TokenKind::kBlockEnd) || tokens_.is_operator(")") ||
         (!rules.end_name.empty() && tokens_.is_name(rules.end_name));
}

Result<ExprPtr> ExpressionParser::tuple(const TupleRules& rules) {
  if (++nesting_ > kNestingMax) {
    return syntax_error(tokens_.line(),
                        fmt::format("expected an expression of at most {} levels", kNestingMax));
  }
  ExprPtr made = make(ExprKind::kTuple, tokens_.line());
  bool is_tuple = false;
  while (!ends_tuple(rules)) {
    ExprPtr item;
    if (rules.targets) {
      TRY(item, primary(rules.namespaces));
    } else if (rules.conditions) {
      TRY(item, condition());
    } else {
      TRY(item, disjunction());
    }
    made->items.push_back(std::move(item));
    if (!tokens_.skip_operator(",")) break;
    is_tuple = true;
  }
  --nesting_;
  if (!is_tuple && made->items.size() == 1) return std::move(made->items[0]);
  if (made->items.empty() && !rules.in_parentheses) return tokens_.expected("an expression");
  return seal(std::move(made));
}

namespace {

bool assignable(const Expr& expr) {
  if (expr.kind == ExprKind::kName || expr.kind == ExprKind::kNamespaceRef) return true;
  if (expr.kind != ExprKind::kTuple && expr.kind != ExprKind::kList) return false;
  return std::all_of(expr.items.begin(), expr.items.end(),
                     [](const ExprPtr& item) { return assignable(*item); });
}

}  // namespace

Result<ExprPtr> ExpressionParser::target(bool namespaces, std::string_view end_name) {
  const uint32_t line = tokens_.line();
  TRY(ExprPtr expr, tuple({.targets = true, .namespaces = namespaces, .end_name = end_name}));
  if (!assignable(*expr)) return syntax_error(line, "expected names to assign to, got an expression");
  return expr;
}

Result<ExprPtr> ExpressionParser::list() {
  ExprPtr expr = make(ExprKind::kList, tokens_.take().line);
  while (!tokens_.is_operator("]")) {
    if (!expr->items.empty()) TRY_DO(tokens_.expect_operator(","));
    if (tokens_.is_operator("]")) break;
    TRY(ExprPtr item, condition());
    expr->items.push_back(std::move(item));
  }
  tokens_.take();
  return seal(std::move(expr));
}

Result<ExprPtr> ExpressionParser::dict() {
  ExprPtr expr = make(ExprKind::kDict, tokens_.take().line);
  while (!tokens_.is_operator("}")) {
    if (!expr->items.empty()) TRY_DO(tokens_.expect_operator(","));
    if (tokens_.is_operator("}")) break;
    TRY(ExprPtr key, condition());
    TRY_DO(tokens_.expect_operator(":"));
    TRY(ExprPtr value, condition());
    expr->items.push_back(std::move(key));
    expr->items.push_back(std::move(value));
  }
  tokens_.take();
  return seal(std::move(expr));
}

Result<ExprPtr> ExpressionParser::postfix(ExprPtr expr) {
  while (true) {
    if (tokens_.is_operator(".") || tokens_.is_operator("[")) {
      TRY(expr, subscript(std::move(expr)));
    } else if (tokens_.is_operator("(")) {
      TRY(expr, call(std::move(expr)));
    } else {
      return expr;
    }
  }
}

Result<ExprPtr> ExpressionParser::filters_and_tests(ExprPtr expr) {
  while (true) {
    if (tokens_.is_operator("|")) {
      TRY(expr, filter(std::move(expr)));
    } else if (tokens_.is_name("is")) {
      TRY(expr, test(std::move(expr)));
    } else if (tokens_.is_operator("(")) {
      TRY(expr, call(std::move(expr)));
    } else {
      return expr;
    }
  }
}

Result<ExprPtr> ExpressionParser::subscript(ExprPtr object) {
  const Token open = tokens_.take();
  if (open.text == ".") {
    ExprPtr expr = make(ExprKind::kAttribute, open.line);
    expr->items.push_back(std::move(object));
    if (tokens_.is(TokenKind::kName)) {
      expr->text = Text(tokens_.take().text);
      return seal(std::move(expr));
    }
    if (!tokens_.is(TokenKind::kInteger)) return tokens_.expected("a name or number after '.'");
    expr->kind = ExprKind::kItem;
    ExprPtr number = make(ExprKind::kConstant, open.line);
    number->constant = Value(tokens_.take().whole);
    expr->items.push_back(std::move(number));
    return seal(std::move(expr));
  }
  TRY(ExprPtr at, index());
  if (tokens_.is_operator(",")) {
    ExprPtr several = make(ExprKind::kTuple, open.line);
    several->items.push_back(std::move(at));
    while (tokens_.skip_operator(",")) {
      TRY(ExprPtr next, index());
      several->items.push_back(std::move(next));
    }
    for (const ExprPtr& item : several->items) {
      if (item->kind == ExprKind::kSlice)
        return syntax_error(open.line, "expected one slice within '[' and ']'");
    }
    TRY(at, seal(std::move(several)));
  }
  TRY_DO(tokens_.expect_operator("]"));
  return binary(ExprKind::kItem, std::move(object), std::move(at), open.line);
}

Result<ExprPtr> ExpressionParser::index() {
  const auto at_end = [&] { return tokens_.is_operator("]") || tokens_.is_operator(","); };
  ExprPtr slice = make(ExprKind::kSlice, tokens_.line());
  slice->items.resize(3);
  if (!tokens_.is_operator(":")) {
    TRY(ExprPtr first, condition());
    if (!tokens_.is_operator(":")) return first;
    slice->items[0] = std::move(first);
  }
  for (size_t part = 1; part < 3 && tokens_.skip_operator(":"); ++part) {
    if (at_end() || tokens_.is_operator(":")) continue;
    TRY(ExprPtr bound, condition());
    slice->items[part] = std::move(bound);
  }
  return seal(std::move(slice));
}

Result<std::unique_ptr<CallNode>> ExpressionParser::arguments() {
  TRY_DO(tokens_.expect_operator("("));
  auto call = std::make_unique<CallNode>();
  bool first = true;
  while (!tokens_.is_operator(")")) {
    if (!first) TRY_DO(tokens_.expect_operator(","));
    first = false;
    if (tokens_.is_operator(")")) break;
    if (tokens_.is_operator("*") || tokens_.is_operator("**")) {
      ExprPtr& place = tokens_.take().text == "*" ? call->star : call->double_star;
      if (place) return syntax_error(tokens_.line(), "expected at most one '*' and one '**' argument");
      TRY(place, condition());
      continue;
    }
    if (tokens_.is(TokenKind::kName) && tokens_.ahead().kind == TokenKind::kOperator &&
        tokens_.ahead().text == "=") {
      std::string name = tokens_.take().text;
      tokens_.take();
      TRY(ExprPtr value, condition());
      call->keyword.emplace_back(std::move(name), std::move(value));
      continue;
    }
    if (!call->keyword.empty() || call->star || call->double_star) {
      return tokens_.expected("a keyword argument after keyword arguments");
    }
    TRY(ExprPtr value, condition());
    call->positional.push_back(std::move(value));
  }
  tokens_.take();
  return call;
}

Result<ExprPtr> ExpressionParser::call(ExprPtr callee) {
  ExprPtr expr = make(ExprKind::kCall, tokens_.line());
  TRY(expr->call, arguments());
  expr->items.push_back(std::move(callee));
  return seal(std::move(expr));
}

Result<std::string> ExpressionParser::dotted_name() {
  TRY(std::string name, tokens_.expect_any_name());
  while (tokens_.skip_operator(".")) {
    TRY(const std::string part, tokens_.expect_any_name());
    name += "." + part;
  }
  return name;
}

Result<ExprPtr> ExpressionParser::filter(ExprPtr input) {
  ExprPtr expr = make(ExprKind::kFilter, tokens_.line());
  tokens_.skip_operator("|");
  TRY(const std::string name, dotted_name());
  expr->text = Text(name);
  expr->filter = find_filter(name);
  if (!expr->filter && !unknown_may_wait) unknown.push_back({"filter '" + name + "'", expr->line});
  expr->items.push_back(std::move(input));
  if (tokens_.is_operator("(")) {
    TRY(expr->call, arguments());
  }
  return seal(std::move(expr));
}

Result<ExprPtr> ExpressionParser::filter_chain() {
  TRY(ExprPtr expr, filter(nullptr));
  while (tokens_.is_operator("|")) {
    TRY(expr, filter(std::move(expr)));
  }
  return expr;
}

bool ExpressionParser::starts_test_argument() const {
  switch (tokens_.current().kind) {
    case TokenKind::kString:
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return true;
    case TokenKind::kName:
      return !tokens_.is_name("else") && !tokens_.is_name("or") && !tokens_.is_name("and");
    case TokenKind::kOperator:
      return tokens_.is_operator("[") || tokens_.is_operator("{");
    default:
      return false;
  }
}

Result<ExprPtr> ExpressionParser::test(ExprPtr input) {
  ExprPtr expr = make(ExprKind::kTest, tokens_.take().line);
  const bool negated = tokens_.skip_name("not");
  TRY(const std::string name, dotted_name());
  expr->text = Text(name);
  expr->test = find_test(name);
  if (!expr->test && !unknown_may_wait) unknown.push_back({"test '" + name + "'", expr->line});
  expr->items.push_back(std::move(input));
  if (tokens_.is_operator("(")) {
    TRY(expr->call, arguments());
  } else if (starts_test_argument()) {
    if (tokens_.is_name("is")) return syntax_error(tokens_.line(), "expected one test, got a second 'is'");
    TRY(ExprPtr argument, primary(false));
    TRY(argument, postfix(std::move(argument)));
    expr->call = std::make_unique<CallNode>();
    expr->call->positional.push_back(std::move(argument));
  }
  TRY(expr, seal(std::move(expr)));
  if (!negated) return expr;
  ExprPtr opposite = make(ExprKind::kNot, expr->line);
  opposite->items.push_back(std::move(expr));
  return seal(std::move(opposite));
}

}  // namespace baton::text::jinja
