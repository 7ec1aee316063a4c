// The tokens of a template, one at a time, as both halves of the parser read them.
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/lexer.h"

namespace baton::text::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  uint32_t line() const { return current().line; }
  Token take() {
    Token token = std::move(tokens_[at_]);
    if (at_ + 1 < tokens_.size()) {
      ++at_;
    } else {
      tokens_[at_] = Token{.kind = TokenKind::kEnd, .line = token.line, .text = {}};
    }
    return token;
  }
  bool is(TokenKind kind) const { return current().kind == kind; }
  bool is_operator(std::string_view op) const { return is(TokenKind::kOperator) && current().text == op; }
  bool is_name(std::string_view name) const { return is(TokenKind::kName) && current().text == name; }
  bool skip_operator(std::string_view op) {
    if (!is_operator(op)) return false;
    take();
    return true;
  }
  bool skip_name(std::string_view name) {
    if (!is_name(name)) return false;
    take();
    return true;
  }
  Failure expected(std::string_view what) const {
    return syntax_error(line(), "expected " + std::string(what) + ", got " + describe(current()));
  }
  Result<void> expect_operator(std::string_view op) {
    if (!skip_operator(op)) return expected("'" + std::string(op) + "'");
    return {};
  }
  Result<void> expect(TokenKind kind) {
    if (!is(kind)) return expected(describe(Token{.kind = kind, .text = {}}));
    take();
    return {};
  }
  Result<std::string> expect_any_name() {
    if (!is(TokenKind::kName)) return expected("a name");
    return take().text;
  }

 private:
  std::vector<Token> tokens_;  // the last one is kEnd
  size_t at_ = 0;
};

}  // namespace baton::text::jinja
