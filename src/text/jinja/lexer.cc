#include "text/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "text/jinja/unicode.h"

namespace baton::text::jinja {

Failure syntax_error(uint32_t line, std::string_view message) {
  return fail(Code::kCorrupt, fmt::format("chat template, line {}: {}", line, message));
}

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kData:
      return "template text";
    case TokenKind::kPrintBegin:
      return "'{{'";
    case TokenKind::kPrintEnd:
      return "end of print statement";
    case TokenKind::kBlockBegin:
      return "'{%'";
    case TokenKind::kBlockEnd:
      return "end of statement block";
    case TokenKind::kString:
      return "a string";
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return "a number";
    case TokenKind::kEnd:
      return "end of template";
    case TokenKind::kName:
    case TokenKind::kOperator:
      return fmt::format("'{}'", token.text);
  }
  return {};
}

namespace {

constexpr size_t kNone = std::string_view::npos;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<uint8_t>(c) >= 0x80;
}
bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }

// "\r\n" and "\r" become "\n"; one newline at the very end goes.
std::string normalize_newlines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
      continue;
    }
    text += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalize_newlines(source)) {}

  Result<std::vector<Token>> run() {
    while (at_ < text_.size()) TRY_DO(next_piece());
    push(TokenKind::kEnd);
    return std::move(tokens_);
  }

 private:
  Result<void> next_piece();
  Result<void> comment(size_t open);
  Result<void> raw(size_t body, bool strip_after_begin);
  Result<void> expression(TokenKind end_kind);
  Result<bool> expression_end(TokenKind end_kind, bool balanced);
  Result<void> number();
  bool float_number();
  Result<void> string(char quote);
  Result<void> escape(std::string& out);
  Result<void> operator_token();
  size_t raw_begin(size_t open, bool& strip_after) const;

  std::string_view rest(size_t at) const {
    return std::string_view(text_).substr(std::min(at, text_.size()));
  }
  void skip_space() { at_ = text_.size() - strip(rest(at_), true, false).size(); }
  void move_to(size_t to) {
    line_ += static_cast<uint32_t>(std::count(text_.begin() + static_cast<ptrdiff_t>(line_counted_),
                                              text_.begin() + static_cast<ptrdiff_t>(to), '\n'));
    line_counted_ = to;
    at_ = to;
  }
  void count_lines() { move_to(at_); }
  Token& push(TokenKind kind, std::string text = {}) {
    count_lines();
    tokens_.push_back({kind, line_, std::move(text)});
    return tokens_.back();
  }
  void push_data(std::string_view data) {
    if (!data.empty()) tokens_.push_back({TokenKind::kData, line_, std::string(data)});
  }
  // What remains of the text before a tag: `sign` is the character after the tag's opening.
  std::string_view strip_before(std::string_view data, char sign, bool may_lstrip) const;
  // Moves past a tag's end "%}" at `end`, which `sign` precedes, and what it strips.
  void pass_end(size_t after, char sign, bool trims_newline);

  const std::string text_;
  size_t at_ = 0;
  size_t line_counted_ = 0;
  uint32_t line_ = 1;
  bool line_starting_ = true;
  std::vector<char> open_;  // brackets of the expression that are still to be closed
  std::vector<Token> tokens_;
};

std::string_view Lexer::strip_before(std::string_view data, char sign, bool may_lstrip) const {
  if (sign == '-') return strip(data, false, true);
  if (sign == '+' || !may_lstrip) return data;
  const size_t newline = data.rfind('\n');
  const size_t line = newline == kNone ? 0 : newline + 1;
  if ((line > 0 || line_starting_) && strip(data.substr(line), true, false).empty())
    return data.substr(0, line);
  return data;
}

void Lexer::pass_end(size_t after, char sign, bool trims_newline) {
  at_ = after;
  if (sign == '-') {
    skip_space();
  } else if (sign != '+' && trims_newline && at_ < text_.size() && text_[at_] == '\n') {
    ++at_;
  }
  line_starting_ = at_ > 0 && text_[at_ - 1] == '\n';
  count_lines();
}

// Where the body of "{% raw %}" begins if that is what opens here, else npos.
size_t Lexer::raw_begin(size_t open, bool& strip_after) const {
  size_t at = open + 2;
  if (at < text_.size() && (text_[at] == '-' || text_[at] == '+')) ++at;
  at = text_.size() - strip(rest(at), true, false).size();
  if (!rest(at).starts_with("raw")) return kNone;
  at = text_.size() - strip(rest(at + 3), true, false).size();
  strip_after = rest(at).starts_with("-%}");
  if (strip_after) return at + 3;
  return rest(at).starts_with("%}") ? at + 2 : kNone;
}

Result<void> Lexer::next_piece() {
  size_t open = at_;
  while (true) {
    open = text_.find('{', open);
    if (open == kNone || open + 1 >= text_.size()) {
      push_data(rest(at_));
      move_to(text_.size());
      return {};
    }
    const char c = text_[open + 1];
    if (c == '{' || c == '%' || c == '#') break;
    ++open;
  }
  const char kind = text_[open + 1];
  const char sign = open + 2 < text_.size() ? text_[open + 2] : '\0';
  const bool signs = sign == '-' || sign == '+';
  push_data(strip_before(rest(at_).substr(0, open - at_), sign, kind != '{'));
  line_starting_ = false;
  move_to(open);
  if (kind == '#') return comment(open);
  if (kind == '%') {
    bool strip_after = false;
    if (const size_t body = raw_begin(open, strip_after); body != kNone) {
      move_to(body);
      return raw(body, strip_after);
    }
  }
  // "{{+" is a print of "+…", so only "-" belongs to that tag.
  at_ = open + 2 + (signs && (kind == '%' || sign == '-') ? 1 : 0);
  push(kind == '{' ? TokenKind::kPrintBegin : TokenKind::kBlockBegin);
  return expression(kind == '{' ? TokenKind::kPrintEnd : TokenKind::kBlockEnd);
}

Result<void> Lexer::comment(size_t open) {
  const size_t close = text_.find("#}", open + 2);
  if (close == kNone)
    return syntax_error(line_, "expected '#}', the end of this comment, got end of template");
  const char sign = close > open + 2 ? text_[close - 1] : '\0';
  pass_end(close + 2, sign, true);
  return {};
}

Result<void> Lexer::raw(size_t body, bool strip_after_begin) {
  if (strip_after_begin) {
    skip_space();
    body = at_;
  }
  for (size_t open = text_.find("{%", body); open != kNone; open = text_.find("{%", open + 2)) {
    size_t at = open + 2;
    const char sign = at < text_.size() ? text_[at] : '\0';
    if (sign == '-' || sign == '+') ++at;
    at = text_.size() - strip(rest(at), true, false).size();
    if (!rest(at).starts_with("endraw")) continue;
    at = text_.size() - strip(rest(at + 6), true, false).size();
    const char end_sign = at < text_.size() ? text_[at] : '\0';
    if (end_sign == '-' || end_sign == '+') ++at;
    if (!rest(at).starts_with("%}")) continue;
    push_data(strip_before(rest(body).substr(0, open - body), sign, true));
    pass_end(at + 2, end_sign, true);
    return {};
  }
  return syntax_error(line_, "expected 'endraw' for this 'raw', got end of template");
}

// Recognises the end of the tag, with its sign. Inside brackets "}}" closes two of them instead.
Result<bool> Lexer::expression_end(TokenKind end_kind, bool balanced) {
  if (!balanced) return false;
  const std::string_view end = end_kind == TokenKind::kPrintEnd ? "}}" : "%}";
  const char c = text_[at_];
  const bool signs = c == '-' || (c == '+' && end_kind == TokenKind::kBlockEnd);
  if (!rest(at_ + (signs ? 1 : 0)).starts_with(end)) return false;
  push(end_kind);
  pass_end(at_ + (signs ? 3 : 2), signs ? c : '\0', end_kind == TokenKind::kBlockEnd);
  return true;
}

Result<void> Lexer::expression(TokenKind end_kind) {
  open_.clear();
  while (true) {
    skip_space();
    if (at_ >= text_.size()) {
      count_lines();
      return syntax_error(line_, fmt::format("expected '{}', got end of template",
                                             end_kind == TokenKind::kPrintEnd ? "}}" : "%}"));
    }
    TRY(const bool ended, expression_end(end_kind, open_.empty()));
    if (ended) return {};
    const char c = text_[at_];
    if (is_digit(c)) {
      TRY_DO(number());
    } else if (is_name_start(c)) {
      const size_t begin = at_;
      while (at_ < text_.size() && is_name_part(text_[at_])) ++at_;
      push(TokenKind::kName, text_.substr(begin, at_ - begin));
    } else if (c == '\'' || c == '"') {
      TRY_DO(string(c));
    } else {
      TRY_DO(operator_token());
    }
  }
}

// digits ["." digits] ["e" [sign] digits], with at least one of the two parts; not after a "." (a.0.b).
bool Lexer::float_number() {
  if (at_ > 0 && text_[at_ - 1] == '.') return false;
  size_t at = at_;
  const auto digits = [&] {
    const size_t begin = at;
    while (at < text_.size() && (is_digit(text_[at]) || (at > begin && text_[at] == '_' &&
                                                         at + 1 < text_.size() && is_digit(text_[at + 1])))) {
      ++at;
    }
    return at > begin;
  };
  digits();
  bool is_float = false;
  if (at + 1 < text_.size() && text_[at] == '.' && is_digit(text_[at + 1])) {
    ++at;
    digits();
    is_float = true;
  }
  if (at < text_.size() && (text_[at] == 'e' || text_[at] == 'E')) {
    const size_t before = at++;
    if (at < text_.size() && (text_[at] == '+' || text_[at] == '-')) ++at;
    if (digits()) {
      is_float = true;
    } else {
      at = before;
    }
  }
  if (!is_float) return false;
  std::string clean = text_.substr(at_, at - at_);
  std::erase(clean, '_');
  at_ = at;
  double value = 0;
  const auto parsed = std::from_chars(clean.data(), clean.data() + clean.size(), value);
  if (parsed.ec == std::errc::result_out_of_range) {
    const bool tiny = clean.find('-') != kNone;
    value = tiny ? 0.0 : std::numeric_limits<double>::infinity();
  }
  push(TokenKind::kFloat).real = value;
  return true;
}

Result<void> Lexer::number() {
  if (float_number()) return {};
  const std::string_view left = rest(at_);
  int base = 10;
  if (left.size() > 2 && left[0] == '0') {
    const char mark = static_cast<char>(left[1] | 0x20);
    base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
  }
  const auto digit_of = [base](char c) {
    const int d = is_digit(c) ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : 99;
    return d < base ? d : -1;
  };
  size_t i = base == 10 ? 0 : 2;
  const bool zero_led = base == 10 && left[0] == '0';
  Int value = 0;
  for (bool first = true; i < left.size(); ++i, first = false) {
    if (left[i] == '_' && (!first || base != 10) && i + 1 < left.size() && digit_of(left[i + 1]) >= 0)
      continue;
    const int digit = digit_of(left[i]);
    if (digit < 0 || (zero_led && digit > 0)) break;
    if (__builtin_mul_overflow(value, static_cast<Int>(base), &value) ||
        __builtin_add_overflow(value, static_cast<Int>(digit), &value)) {
      return syntax_error(line_, "expected an integer of at most 127 bits");
    }
  }
  at_ += i;
  push(TokenKind::kInteger).whole = value;
  return {};
}

Result<void> Lexer::string(char quote) {
  const size_t begin = at_++;
  std::string value;
  while (true) {
    if (at_ >= text_.size()) {
      return syntax_error(
          line_, fmt::format("expected {}, the end of the string that starts here, got end of template",
                             text_[begin]));
    }
    const char c = text_[at_++];
    if (c == quote) break;
    if (c != '\\') {
      value += c;
      continue;
    }
    TRY_DO(escape(value));
  }
  push(TokenKind::kString, std::move(value));
  return {};
}

// Python's escapes; at_ is after the backslash. An unknown one keeps its backslash.
Result<void> Lexer::escape(std::string& out) {
  if (at_ >= text_.size()) return {};
  const char c = text_[at_++];
  constexpr std::string_view kFrom = "\\'\"abfnrtv";
  constexpr std::string_view kTo = "\\'\"\a\b\f\n\r\t\v";
  if (const size_t i = kFrom.find(c); i != kNone) {
    out += kTo[i];
    return {};
  }
  if (c == '\n') return {};
  size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
  int base = 16;
  if (c >= '0' && c <= '7') {
    base = 8;
    --at_;
    digits = 1;
    while (digits < 3 && at_ + digits < text_.size() && text_[at_ + digits] >= '0' &&
           text_[at_ + digits] <= '7')
      ++digits;
  }
  if (digits == 0) {
    out += '\\';
    out += c;
    return {};
  }
  uint32_t code = 0;
  const char* first = text_.data() + at_;
  const char* last = first + std::min(digits, text_.size() - at_);
  const auto parsed = std::from_chars(first, last, code, base);
  if (parsed.ec != std::errc() || parsed.ptr != first + digits || code > 0x10FFFF ||
      (code >= 0xD800 && code < 0xE000)) {
    return syntax_error(line_, fmt::format("expected a character after '\\{}', as {} digits", c, digits));
  }
  at_ += digits;
  append_code_point(out, code);
  return {};
}

Result<void> Lexer::operator_token() {
  constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
  constexpr std::string_view kOne = "+-*/%~[](){}><=.:|,;";
  const std::string_view left = rest(at_);
  std::string op;
  for (const std::string_view two : kTwo) {
    if (left.starts_with(two)) op = two;
  }
  if (op.empty() && kOne.find(left[0]) != kNone) op = left.substr(0, 1);
  if (op.empty()) return syntax_error(line_, fmt::format("unexpected character '{}'", left[0]));
  const char c = op[0];
  if (c == '(' || c == '[' || c == '{') open_.push_back(c == '(' ? ')' : static_cast<char>(c + 2));
  if (c == ')' || c == ']' || c == '}') {
    if (open_.empty()) return syntax_error(line_, fmt::format("unexpected '{}'", c));
    if (open_.back() != c)
      return syntax_error(line_, fmt::format("expected '{}', got '{}'", open_.back(), c));
    open_.pop_back();
  }
  at_ += op.size();
  push(TokenKind::kOperator, std::move(op));
  return {};
}

}  // namespace

Result<std::vector<Token>> tokenize(std::string_view source) {
  if (source.size() > kTemplateBytesMax) {
    return fail(Code::kCorrupt, fmt::format("chat template: {} bytes, at most {} are allowed", source.size(),
                                            kTemplateBytesMax));
  }
  if (!valid_utf8(source)) return fail(Code::kCorrupt, "chat template: invalid UTF-8");
  return Lexer(source).run();
}

}  // namespace baton::text::jinja
