#include "text/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/expression_parser.h"

namespace baton::text::jinja {
namespace {

using EndTags = std::initializer_list<std::string_view>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)), expressions_(tokens_, program_) {}

  Result<Program> run() {
    program_.loop = expressions_.intern("loop");
    program_.caller = expressions_.intern("caller");
    program_.varargs = expressions_.intern("varargs");
    program_.kwargs = expressions_.intern("kwargs");
    TRY(program_.body, statements({}, "", 0));
    if (!expressions_.unknown.empty()) {
      const auto& first = expressions_.unknown.front();
      return syntax_error(first.line, fmt::format("there is no {}", first.what));
    }
    return std::move(program_);
  }

 private:
  // Up to a tag named in `ends`, whose name is left as the current token; or the end of the template if it is
  // empty. `tag` and `line` say which tag is open, for errors.
  Result<Body> statements(EndTags ends, std::string_view tag, uint32_t line);
  // As statements(), then takes the one end tag and its "%}".
  Result<Body> body_until(std::string_view end, std::string_view tag, uint32_t line);
  Result<Statement> statement();
  Result<void> for_tag(Statement& made);
  Result<void> if_tag(Statement& made);
  Result<void> set_tag(Statement& made);
  Result<void> with_tag(Statement& made);
  Result<void> macro_tag(Statement& made);
  Result<void> call_tag(Statement& made);
  Result<void> filter_tag(Statement& made);
  Result<void> block_tag(Statement& made);
  Result<void> generation_tag(Statement& made);
  Result<void> jump_tag(Statement& made, StatementKind kind);
  Result<void> unsupported_tag(Statement& made, const std::string& tag);
  Result<void> signature(MacroNode& macro);
  Result<void> macro_body(MacroNode& macro, std::string_view end, std::string_view tag);
  Result<void> block_end() { return tokens_.expect(TokenKind::kBlockEnd); }
  Failure unclosed(EndTags ends, std::string_view tag, uint32_t line) const;

  TokenStream tokens_;
  Program program_;
  ExpressionParser expressions_;
  uint32_t nesting_ = 0;
  uint32_t loop_depth_ = 0;  // loops that a break here would leave
};

Failure Parser::unclosed(EndTags ends, std::string_view tag, uint32_t line) const {
  std::string names;
  for (const std::string_view end : ends) names += (names.empty() ? "'" : " or '") + std::string(end) + "'";
  return syntax_error(tokens_.line(), fmt::format("expected {} for the '{}' of line {}, got {}", names, tag,
                                                  line, describe(tokens_.current())));
}

Result<Body> Parser::statements(EndTags ends, std::string_view tag, uint32_t line) {
  if (++nesting_ > kNestingMax) {
    return syntax_error(tokens_.line(), fmt::format("expected at most {} nested tags", kNestingMax));
  }
  Body body;
  while (true) {
    if (tokens_.is(TokenKind::kEnd)) {
      if (ends.size() != 0) return unclosed(ends, tag, line);
      break;
    }
    if (tokens_.is(TokenKind::kData)) {
      Token data = tokens_.take();
      Statement& made = body.emplace_back();
      made.line = data.line;
      made.data = std::move(data.text);
      continue;
    }
    if (tokens_.is(TokenKind::kPrintBegin)) {
      Statement made;
      made.kind = StatementKind::kPrint;
      made.line = tokens_.take().line;
      TRY(made.value, expressions_.tuple({}));
      TRY_DO(tokens_.expect(TokenKind::kPrintEnd));
      body.push_back(std::move(made));
      continue;
    }
    TRY_DO(tokens_.expect(TokenKind::kBlockBegin));
    if (!tokens_.is(TokenKind::kName)) return tokens_.expected("the name of a tag");
    if (std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return tokens_.is_name(end); }))
      break;
    if (ends.size() != 0 && tokens_.current().text.starts_with("end")) return unclosed(ends, tag, line);
    TRY(Statement made, statement());
    body.push_back(std::move(made));
  }
  --nesting_;
  return body;
}

Result<Body> Parser::body_until(std::string_view end, std::string_view tag, uint32_t line) {
  TRY(Body body, statements({end}, tag, line));
  tokens_.take();
  return body;
}

Result<Statement> Parser::statement() {
  Statement made;
  made.line = tokens_.line();
  const std::string tag = tokens_.take().text;
  if (tag == "for") {
    TRY_DO(for_tag(made));
  } else if (tag == "if") {
    TRY_DO(if_tag(made));
  } else if (tag == "set") {
    TRY_DO(set_tag(made));
  } else if (tag == "with") {
    TRY_DO(with_tag(made));
  } else if (tag == "macro") {
    TRY_DO(macro_tag(made));
  } else if (tag == "call") {
    TRY_DO(call_tag(made));
  } else if (tag == "filter") {
    TRY_DO(filter_tag(made));
  } else if (tag == "block") {
    TRY_DO(block_tag(made));
  } else if (tag == "generation") {
    TRY_DO(generation_tag(made));
  } else if (tag == "break") {
    TRY_DO(jump_tag(made, StatementKind::kBreak));
  } else if (tag == "continue") {
    TRY_DO(jump_tag(made, StatementKind::kContinue));
  } else if (tag == "include" || tag == "import" || tag == "from" || tag == "extends") {
    TRY_DO(unsupported_tag(made, tag));
  } else {
    return syntax_error(made.line, fmt::format("unknown tag '{}'", tag));
  }
  TRY_DO(block_end());
  return made;
}

Result<void> Parser::for_tag(Statement& made) {
  made.kind = StatementKind::kFor;
  TRY(made.target, expressions_.target(false, "in"));
  if (!tokens_.skip_name("in")) return tokens_.expected("'in'");
  TRY(made.value, expressions_.tuple({.conditions = false, .end_name = "recursive"}));
  const bool could_wait = std::exchange(expressions_.unknown_may_wait, false);
  if (tokens_.skip_name("if")) {
    TRY(made.condition, expressions_.expression());
  }
  made.recursive = tokens_.skip_name("recursive");
  made.uses_loop = made.recursive;
  TRY_DO(block_end());
  expressions_.loops.push_back(&made);
  ++loop_depth_;
  TRY(made.body, statements({"endfor", "else"}, "for", made.line));
  --loop_depth_;
  expressions_.loops.pop_back();
  if (tokens_.skip_name("else")) {
    TRY_DO(block_end());
    TRY(made.otherwise, statements({"endfor"}, "for", made.line));
  }
  tokens_.take();
  expressions_.unknown_may_wait = could_wait;
  return {};
}

Result<void> Parser::if_tag(Statement& made) {
  made.kind = StatementKind::kIf;
  const bool could_wait = std::exchange(expressions_.unknown_may_wait, true);
  while (true) {
    TRY(ExprPtr condition, expressions_.tuple({.conditions = false}));
    made.conditions.push_back(std::move(condition));
    TRY_DO(block_end());
    TRY(Body body, statements({"elif", "else", "endif"}, "if", made.line));
    made.bodies.push_back(std::move(body));
    if (!tokens_.skip_name("elif")) break;
  }
  if (tokens_.skip_name("else")) {
    TRY_DO(block_end());
    TRY(made.otherwise, statements({"endif"}, "if", made.line));
  }
  tokens_.take();
  expressions_.unknown_may_wait = could_wait;
  return {};
}

Result<void> Parser::set_tag(Statement& made) {
  TRY(made.target, expressions_.target(true));
  if (tokens_.skip_operator("=")) {
    made.kind = StatementKind::kSet;
    TRY(made.value, expressions_.tuple({}));
    return {};
  }
  made.kind = StatementKind::kSetBlock;
  if (tokens_.is_operator("|")) {
    TRY(made.value, expressions_.filter_chain());
  }
  TRY_DO(block_end());
  const bool could_wait = std::exchange(expressions_.unknown_may_wait, false);
  TRY(made.body, body_until("endset", "set", made.line));
  expressions_.unknown_may_wait = could_wait;
  return {};
}

Result<void> Parser::with_tag(Statement& made) {
  made.kind = StatementKind::kWith;
  while (!tokens_.is(TokenKind::kBlockEnd)) {
    if (!made.targets.empty()) TRY_DO(tokens_.expect_operator(","));
    TRY(ExprPtr name, expressions_.target(false));
    TRY_DO(tokens_.expect_operator("="));
    TRY(ExprPtr value, expressions_.expression());
    made.targets.push_back(std::move(name));
    made.conditions.push_back(std::move(value));
  }
  TRY_DO(block_end());
  const bool could_wait = std::exchange(expressions_.unknown_may_wait, false);
  TRY(made.body, body_until("endwith", "with", made.line));
  expressions_.unknown_may_wait = could_wait;
  return {};
}

Result<void> Parser::signature(MacroNode& macro) {
  TRY_DO(tokens_.expect_operator("("));
  while (!tokens_.is_operator(")")) {
    if (!macro.parameters.empty()) TRY_DO(tokens_.expect_operator(","));
    TRY(const std::string name, tokens_.expect_any_name());
    macro.parameters.push_back(expressions_.intern(name));
    macro.parameter_names.emplace_back(name);
    if (tokens_.skip_operator("=")) {
      TRY(ExprPtr value, expressions_.expression());
      macro.defaults.push_back(std::move(value));
    } else if (!macro.defaults.empty()) {
      return syntax_error(tokens_.line(), fmt::format("expected a default for parameter '{}'", name));
    }
  }
  tokens_.take();
  return {};
}

Result<void> Parser::macro_body(MacroNode& macro, std::string_view end, std::string_view tag) {
  TRY_DO(block_end());
  const uint32_t loops_outside = std::exchange(loop_depth_, 0U);
  const bool could_wait = std::exchange(expressions_.unknown_may_wait, false);
  expressions_.macros.push_back(&macro);
  TRY(macro.body, body_until(end, tag, macro.line));
  expressions_.macros.pop_back();
  expressions_.unknown_may_wait = could_wait;
  loop_depth_ = loops_outside;
  return {};
}

Result<void> Parser::macro_tag(Statement& made) {
  made.kind = StatementKind::kMacro;
  made.macro = std::make_unique<MacroNode>();
  made.macro->line = made.line;
  TRY(const std::string name, tokens_.expect_any_name());
  made.macro->name = Text(name);
  made.macro_name = expressions_.intern(name);
  expressions_.macros.push_back(made.macro.get());
  TRY_DO(signature(*made.macro));
  expressions_.macros.pop_back();
  return macro_body(*made.macro, "endmacro", "macro");
}

Result<void> Parser::call_tag(Statement& made) {
  made.kind = StatementKind::kCallBlock;
  made.macro = std::make_unique<MacroNode>();
  made.macro->line = made.line;
  made.macro->name = Text("caller");
  if (tokens_.is_operator("(")) TRY_DO(signature(*made.macro));
  TRY(made.value, expressions_.expression());
  if (made.value->kind != ExprKind::kCall) return syntax_error(made.line, "expected a call after 'call'");
  return macro_body(*made.macro, "endcall", "call");
}

Result<void> Parser::filter_tag(Statement& made) {
  made.kind = StatementKind::kFilterBlock;
  TRY(made.value, expressions_.filter_chain());
  TRY_DO(block_end());
  const bool could_wait = std::exchange(expressions_.unknown_may_wait, false);
  TRY(made.body, body_until("endfilter", "filter", made.line));
  expressions_.unknown_may_wait = could_wait;
  return {};
}

Result<void> Parser::block_tag(Statement& made) {
  made.kind = StatementKind::kScope;
  TRY(const std::string name, tokens_.expect_any_name());
  const bool scoped = tokens_.skip_name("scoped");
  tokens_.skip_name("required");
  made.at_root = !scoped;
  TRY_DO(block_end());
  const uint32_t loops_outside = std::exchange(loop_depth_, 0U);
  TRY(made.body, body_until("endblock", "block", made.line));
  loop_depth_ = loops_outside;
  tokens_.skip_name(name);
  return {};
}

// transformers' tag around what the model wrote; it renders its body.
Result<void> Parser::generation_tag(Statement& made) {
  made.kind = StatementKind::kScope;
  TRY_DO(block_end());
  const uint32_t loops_outside = std::exchange(loop_depth_, 0U);
  TRY(made.body, body_until("endgeneration", "generation", made.line));
  loop_depth_ = loops_outside;
  return {};
}

Result<void> Parser::jump_tag(Statement& made, StatementKind kind) {
  made.kind = kind;
  if (loop_depth_ == 0) return syntax_error(made.line, "expected 'break' and 'continue' within a loop only");
  return {};
}

Result<void> Parser::unsupported_tag(Statement& made, const std::string& tag) {
  made.kind = StatementKind::kUnsupported;
  made.data = fmt::format("'{}' needs another template, and a chat template stands alone", tag);
  while (!tokens_.is(TokenKind::kBlockEnd) && !tokens_.is(TokenKind::kEnd)) tokens_.take();
  return {};
}

}  // namespace

Result<Program> parse(std::string_view source) {
  TRY(std::vector<Token> tokens, tokenize(source));
  return Parser(std::move(tokens)).run();
}

}  // namespace baton::text::jinja
