// The expression half of the grammar. Used by parser.cc only.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/token_stream.h"

namespace baton::text::jinja {

class ExpressionParser {
 public:
  ExpressionParser(TokenStream& tokens, Program& program) : tokens_(tokens), program_(program) {}

  struct TupleRules {
    bool conditions = true;          // "a if b else c" may occur
    bool targets = false;            // only what can be assigned to
    bool namespaces = false;         // as a target, "ns.name" too
    bool in_parentheses = false;     // may be empty
    std::string_view end_name = {};  // a name that ends it: "in", "recursive"
  };

  Result<ExprPtr> expression() { return condition(); }
  Result<ExprPtr> disjunction();
  // One expression, or several with commas between as a tuple.
  Result<ExprPtr> tuple(const TupleRules& rules);
  Result<ExprPtr> target(bool namespaces, std::string_view end_name = {});
  // A filter chain without its input: `upper | trim`.
  Result<ExprPtr> filter_chain();

  NameId intern(const std::string& name);
  // Notes that `name` is read here, for macros and loops around.
  void note_use(NameId name);

  // The bodies under way. A pointer per macro or loop, innermost last.
  std::vector<MacroNode*> macros;
  std::vector<Statement*> loops;
  // True where Jinja lets an unknown filter or test wait until it is evaluated: within `if`.
  bool unknown_may_wait = false;

  struct Unknown {
    std::string what;
    uint32_t line;
  };
  std::vector<Unknown> unknown;  // filters and tests that do not exist and may not wait

 private:
  Result<ExprPtr> condition();
  Result<ExprPtr> conjunction();
  Result<ExprPtr> negation();
  Result<ExprPtr> comparison();
  Result<ExprPtr> sum();
  Result<ExprPtr> concatenation();
  Result<ExprPtr> product();
  Result<ExprPtr> power();
  Result<ExprPtr> unary(bool with_filters);
  Result<ExprPtr> primary(bool namespaces);
  Result<ExprPtr> name_or_constant(bool namespaces);
  Result<ExprPtr> list();
  Result<ExprPtr> dict();
  Result<ExprPtr> postfix(ExprPtr expr);
  Result<ExprPtr> filters_and_tests(ExprPtr expr);
  Result<ExprPtr> subscript(ExprPtr object);
  Result<ExprPtr> index();
  Result<ExprPtr> call(ExprPtr callee);
  Result<ExprPtr> filter(ExprPtr input);
  Result<ExprPtr> test(ExprPtr input);
  Result<std::unique_ptr<CallNode>> arguments();
  Result<std::string> dotted_name();
  bool ends_tuple(const TupleRules& rules) const;
  bool starts_test_argument() const;

  ExprPtr make(ExprKind kind, uint32_t line) const;
  // Completes `expr` after its children are in place: its depth is bounded.
  Result<ExprPtr> seal(ExprPtr expr) const;
  Result<ExprPtr> binary(ExprKind kind, ExprPtr left, ExprPtr right, uint32_t line) const;

  TokenStream& tokens_;
  Program& program_;
  std::map<std::string, NameId, std::less<>> names_;
  uint32_t nesting_ = 0;
};

}  // namespace baton::text::jinja
