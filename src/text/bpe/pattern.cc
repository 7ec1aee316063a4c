#include "text/bpe/pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

namespace baton::text::bpe {

namespace {

// Members of a class: the property White_Space (Unicode 15.0, PropList.txt) and its complement.
constexpr std::string_view kSpace =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNoSpace =
    R"(\x00-\x08\x0e-\x1f\x21-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";

// Property names that are neither general categories nor scripts, and how PCRE2 calls them.
constexpr std::array<std::array<std::string_view, 2>, 10> kProperties = {{{"alpha", "Alphabetic"},
                                                                          {"alphabetic", "Alphabetic"},
                                                                          {"upper", "Uppercase"},
                                                                          {"uppercase", "Uppercase"},
                                                                          {"lower", "Lowercase"},
                                                                          {"lowercase", "Lowercase"},
                                                                          {"space", "White_Space"},
                                                                          {"white_space", "White_Space"},
                                                                          {"digit", "Nd"},
                                                                          {"any", "Any"}}};

constexpr std::array<std::string_view, 8> kGroups = {"?:", "?=", "?!", "?>", "?<=", "?<!", "?i:", "?-i:"};

class Translation {
 public:
  explicit Translation(std::string_view in) : in_(in) {}

  Result<std::string> run() {
    if (in_.starts_with("(?i)")) take(4);
    while (at_ < in_.size()) {
      switch (in_[at_]) {
        case '\\':
          TRY_DO(escape(false));
          break;
        case '[':
          TRY_DO(char_class());
          break;
        case '(':
          TRY_DO(group());
          break;
        case '{':
          TRY_DO(interval());
          break;
        default:
          take(1);
      }
    }
    return std::move(out_);
  }

 private:
  std::string_view rest() const { return in_.substr(at_); }

  void take(size_t bytes) {
    out_ += in_.substr(at_, bytes);
    at_ += bytes;
  }

  void replace(size_t bytes, std::string_view with) {
    out_ += with;
    at_ += bytes;
  }

  Failure refuse(size_t bytes) const {
    return fail(Code::kCorrupt, fmt::format("at byte {}: {} is not supported", at_, in_.substr(at_, bytes)));
  }

  Result<void> group() {
    if (!rest().starts_with("(?")) {
      take(1);
      return {};
    }
    for (const std::string_view open : kGroups) {
      if (!rest().substr(1).starts_with(open)) continue;
      take(1 + open.size());
      return {};
    }
    return refuse(3);
  }

  // {n} {n,} {n,m} {,m}; a brace that opens none of these is a character.
  Result<void> interval() {
    size_t end = at_ + 1;
    while (end < in_.size() && (std::isdigit(static_cast<unsigned char>(in_[end])) != 0 || in_[end] == ','))
      ++end;
    const std::string_view inside = in_.substr(at_ + 1, end - at_ - 1);
    const bool valid = end < in_.size() && in_[end] == '}' && inside.size() > 0 && inside != "," &&
                       std::ranges::count(inside, ',') <= 1;
    if (!valid) {
      replace(1, R"(\{)");
      return {};
    }
    const char after = end + 1 < in_.size() ? in_[end + 1] : '\0';
    if (after == '+' || (after == '?' && !inside.contains(','))) return refuse(end + 2 - at_);
    if (inside.starts_with(',')) {
      replace(1, "{0");
    }
    take(end + 1 - at_);
    return {};
  }

  Result<void> char_class() {
    take(1);
    if (rest().starts_with('^')) take(1);
    if (rest().starts_with(']')) return refuse(1);
    while (at_ < in_.size() && in_[at_] != ']') {
      if (in_[at_] == '[' || rest().starts_with("&&")) return refuse(2);
      if (in_[at_] == '\\') {
        TRY_DO(escape(true));
      } else {
        take(1);
      }
    }
    if (at_ == in_.size()) return fail(Code::kCorrupt, fmt::format("at byte {}: expected ]", at_));
    take(1);
    return {};
  }

  // Puts a class of `members` here, or only these when a class is open.
  void members(bool in_class, std::string_view members) {
    replace(2, in_class ? std::string(members) : fmt::format("[{}]", members));
  }

  Result<void> escape(bool in_class) {
    if (at_ + 1 == in_.size())
      return fail(Code::kCorrupt, fmt::format("at byte {}: expected a character", at_ + 1));
    const char c = in_[at_ + 1];
    switch (c) {
      case 's':
        members(in_class, kSpace);
        return {};
      case 'S':
        members(in_class, kNoSpace);
        return {};
      case 'w':
        members(in_class, kWord);
        return {};
      case 'W':
        if (in_class) return refuse(2);
        replace(2, fmt::format("[^{}]", kWord));
        return {};
      case 'v':
        replace(2, R"(\x0b)");
        return {};
      case 'p':
      case 'P':
        return property();
      case 'x':
      case 'u':
        return code_point();
      case 'd':
      case 'D':
      case 'r':
      case 'n':
      case 't':
      case 'f':
      case 'a':
      case 'e':
        take(2);
        return {};
      case 'A':
      case 'z':
      case 'Z':
        if (in_class) return refuse(2);
        take(2);
        return {};
      default:
        break;
    }
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) return refuse(2);
    take(2);
    return {};
  }

  // \uHHHH, \x{H...} and \xHH below 80 (above, Oniguruma means a byte).
  Result<void> code_point() {
    const bool braces = rest().starts_with("\\x{");
    size_t end = at_ + (braces ? 3 : 2);
    const size_t begin = end;
    const size_t digits_max = braces ? 6 : in_[at_ + 1] == 'u' ? 4 : 2;
    while (end < in_.size() && end - begin < digits_max &&
           std::isxdigit(static_cast<unsigned char>(in_[end])) != 0) {
      ++end;
    }
    const std::string_view digits = in_.substr(begin, end - begin);
    const bool whole =
        braces ? !digits.empty() && end < in_.size() && in_[end] == '}' : digits.size() == digits_max;
    const bool byte = !braces && digits_max == 2;
    if (!whole || (byte && digits[0] > '7')) return refuse(end - at_);
    replace(end - at_ + (braces ? 1 : 0), fmt::format("\\x{{{}}}", digits));
    return {};
  }

  Result<void> property() {
    const size_t end = rest().find('}');
    if (!rest().substr(2).starts_with('{') || end == std::string_view::npos) return refuse(2);
    std::string name(rest().substr(3, end - 3));
    const bool negated = name.starts_with('^');
    if (negated) name.erase(0, 1);
    if (name.empty() ||
        !std::ranges::all_of(name, [](unsigned char c) { return std::isalpha(c) || c == '_'; })) {
      return refuse(end + 1);
    }
    out_ += rest().substr(0, 2);
    out_ += negated ? "{^" : "{";
    out_ += name.size() <= 2 ? name : long_property(name);
    out_ += "}";
    at_ += end + 1;
    return {};
  }

  static std::string long_property(const std::string& name) {
    std::string lower = name;
    std::ranges::transform(lower, lower.begin(),
                           [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    for (const auto& [oniguruma, pcre2] : kProperties) {
      if (lower == oniguruma) return std::string(pcre2);
    }
    return "sc:" + name;
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

Result<std::string> pcre2_pattern(std::string_view oniguruma) { return Translation(oniguruma).run(); }

std::string literal_pattern(std::string_view literal) {
  std::string pattern;
  for (const char c : literal) {
    if (std::ispunct(static_cast<unsigned char>(c)) != 0) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace baton::text::bpe
