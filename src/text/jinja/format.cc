#include "text/jinja/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace baton::text::jinja {
namespace {

constexpr int kPrecisionMax = 400;

// A format specification: [[fill]align][sign][#][0][width][grouping][.precision][type]
struct Spec {
  std::string fill = " ";
  char align = '\0';
  char sign = '-';
  bool alternate = false;
  size_t width = 0;
  char grouping = '\0';
  int precision = -1;
  char type = '\0';
};

Result<size_t> read_number(std::string_view text, size_t& at) {
  size_t value = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    value = value * 10 + static_cast<size_t>(text[at++] - '0');
    if (value > kFormatWidthMax) return type_error(fmt::format("a width of more than {}", kFormatWidthMax));
  }
  return value;
}

std::string pad(std::string text, const Spec& spec, char align, size_t prefix = 0) {
  const size_t size = count_code_points(text);
  if (size >= spec.width) return text;
  const size_t missing = spec.width - size;
  const size_t before = align == '>' || align == '=' ? missing : align == '^' ? missing / 2 : 0;
  std::string left;
  std::string right;
  for (size_t i = 0; i < missing; ++i) (i < before ? left : right) += spec.fill;
  if (align == '=') return text.substr(0, prefix) + left + text.substr(prefix);
  return left + text + right;
}

std::string grouped(std::string digits, char separator, size_t every) {
  const size_t end = std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
  for (size_t at = end; separator != '\0' && at > every;) {
    at -= every;
    digits.insert(at, 1, separator);
  }
  return digits;
}

std::string number_text(std::string digits, bool negative, std::string_view prefix, const Spec& spec,
                        size_t every) {
  digits = grouped(std::move(digits), spec.grouping, every);
  std::string sign = negative ? "-" : spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "";
  sign += prefix;
  const size_t signs = sign.size();
  return pad(sign + digits, spec, spec.align == '\0' ? '>' : spec.align, signs);
}

std::string integer_digits(unsigned __int128 value, unsigned base, bool upper) {
  std::string digits;
  do {
    const auto digit = static_cast<unsigned>(value % base);
    digits += static_cast<char>(digit < 10 ? '0' + digit : (upper ? 'A' : 'a') + digit - 10);
    value /= base;
  } while (value != 0);
  std::reverse(digits.begin(), digits.end());
  return digits;
}

Result<std::string> format_integer(Int value, const Spec& spec) {
  const bool negative = value < 0;
  const auto magnitude =
      negative ? -static_cast<unsigned __int128>(value) : static_cast<unsigned __int128>(value);
  switch (spec.type) {
    case '\0':
    case 'd':
    case 'n':
      return number_text(integer_digits(magnitude, 10, false), negative, "", spec, 3);
    case 'x':
    case 'X':
      return number_text(integer_digits(magnitude, 16, spec.type == 'X'), negative,
                         spec.alternate ? (spec.type == 'X' ? "0X" : "0x") : "", spec, 4);
    case 'o':
      return number_text(integer_digits(magnitude, 8, false), negative, spec.alternate ? "0o" : "", spec, 4);
    case 'b':
      return number_text(integer_digits(magnitude, 2, false), negative, spec.alternate ? "0b" : "", spec, 4);
    default:
      return type_error(fmt::format("Unknown format code '{}' for object of type 'int'", spec.type));
  }
}

Result<std::string> format_float(double value, const Spec& spec) {
  if (spec.precision > kPrecisionMax)
    return type_error(fmt::format("a precision of more than {}", kPrecisionMax));
  const double magnitude = std::abs(value);
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  std::string digits;
  switch (spec.type) {
    case '\0':
      digits = spec.precision < 0 ? float_text(magnitude)
                                  : fmt::format("{:.{}g}", magnitude, std::max(precision, 1));
      break;
    case 'f':
    case 'F':
      digits = fmt::format("{:.{}f}", magnitude, precision);
      break;
    case 'e':
      digits = fmt::format("{:.{}e}", magnitude, precision);
      break;
    case 'E':
      digits = fmt::format("{:.{}E}", magnitude, precision);
      break;
    case 'g':
    case 'n':
      digits = fmt::format("{:.{}g}", magnitude, std::max(precision, 1));
      break;
    case 'G':
      digits = fmt::format("{:.{}G}", magnitude, std::max(precision, 1));
      break;
    case '%':
      digits = fmt::format("{:.{}f}%", magnitude * 100, precision);
      break;
    default:
      return type_error(fmt::format("Unknown format code '{}' for object of type 'float'", spec.type));
  }
  return number_text(std::move(digits), std::signbit(value) && !std::isnan(value), "", spec, 3);
}

std::string cut(std::string text, int precision) {
  if (precision >= 0) text.resize(byte_offset(text, static_cast<size_t>(precision)));
  return text;
}

Result<Spec> parse_spec(std::string_view text) {
  Spec spec;
  size_t at = 0;
  const auto is_align = [&](size_t i) {
    return i < text.size() && std::string_view("<>=^").find(text[i]) != std::string_view::npos;
  };
  if (!text.empty()) {
    size_t after_fill = 0;
    next_code_point(text, after_fill);
    if (is_align(after_fill)) {
      spec.fill = text.substr(0, after_fill);
      spec.align = text[after_fill];
      at = after_fill + 1;
    } else if (is_align(0)) {
      spec.align = text[at++];
    }
  }
  if (at < text.size() && (text[at] == '+' || text[at] == '-' || text[at] == ' ')) spec.sign = text[at++];
  if (at < text.size() && text[at] == '#') spec.alternate = text[at++] == '#';
  if (at < text.size() && text[at] == '0') {
    if (spec.align == '\0') {
      spec.fill = "0";
      spec.align = '=';
    }
    ++at;
  }
  TRY(spec.width, read_number(text, at));
  if (at < text.size() && (text[at] == ',' || text[at] == '_')) spec.grouping = text[at++];
  if (at < text.size() && text[at] == '.') {
    ++at;
    TRY(const size_t precision, read_number(text, at));
    spec.precision = static_cast<int>(precision);
  }
  if (at < text.size()) spec.type = text[at++];
  if (at < text.size()) return type_error("Invalid format specifier");
  return spec;
}

Result<std::string> format_value(Meter& meter, const Value& value, const Spec& spec) {
  Int whole = 0;
  const bool integral = as_integer(value, whole) != nullptr;
  const bool plain_bool = value.is<bool>() && spec.type == '\0' && spec.width == 0;
  if (value.is<double>()) return format_float(*value.get<double>(), spec);
  if (integral && !plain_bool) {
    if (spec.type != '\0' && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos) {
      return format_float(static_cast<double>(whole), spec);
    }
    return format_integer(whole, spec);
  }
  if (!value.is<Text>() && (spec.width != 0 || spec.type != '\0' || spec.precision >= 0)) {
    return type_error(fmt::format("unsupported format string passed to {}.__format__", type_name(value)));
  }
  TRY(std::string text, to_text(meter, value));
  if (spec.type != '\0' && spec.type != 's') {
    return type_error(
        fmt::format("Unknown format code '{}' for object of type '{}'", spec.type, type_name(value)));
  }
  if (spec.align == '=') return type_error("'=' alignment not allowed in string format specifier");
  return pad(cut(std::move(text), spec.precision), spec, spec.align == '\0' ? '<' : spec.align);
}

// The fields of a brace format: which argument is next, and the way into it.
class BraceFormatter {
 public:
  BraceFormatter(Meter& meter, const Arguments& arguments) : meter_(meter), arguments_(arguments) {}

  Result<std::string> run(std::string_view format, int depth) {
    std::string out;
    for (size_t at = 0; at < format.size(); ++at) {
      const char c = format[at];
      if (c != '{' && c != '}') {
        out += c;
      } else if (at + 1 < format.size() && format[at + 1] == c) {
        out += c;
        ++at;
      } else if (c == '}') {
        return type_error("Single '}' encountered in format string");
      } else {
        TRY(const size_t end, field_end(format, at + 1));
        TRY(const std::string text, field(format.substr(at + 1, end - at - 1), depth));
        out += text;
        at = end;
      }
      if (out.size() > kStringBytesMax) return type_error("the formatted text is too long");
    }
    TRY_DO(meter_.bytes(out.size()));
    return out;
  }

 private:
  static Result<size_t> field_end(std::string_view format, size_t at) {
    size_t open = 1;
    for (; at < format.size(); ++at) {
      if (format[at] == '{') ++open;
      if (format[at] == '}' && --open == 0) return at;
    }
    return type_error("expected '}' before end of string");
  }

  Result<std::string> field(std::string_view text, int depth) {
    if (depth > 1) return type_error("Max string recursion exceeded");
    const size_t colon = text.find(':');
    std::string_view name = text.substr(0, colon);
    char conversion = '\0';
    if (const size_t mark = name.find('!'); mark != std::string_view::npos) {
      if (mark + 2 != name.size()) return type_error("expected ':' after conversion specifier");
      conversion = name[mark + 1];
      name = name.substr(0, mark);
    }
    TRY(Value value, resolve(name));
    std::string spec_text;
    if (colon != std::string_view::npos) {
      TRY(spec_text, run(text.substr(colon + 1), depth + 1));
    }
    if (conversion != '\0') {
      std::string shown;
      if (conversion == 's') {
        TRY_DO(append_text(meter_, value, shown));
      } else if (conversion == 'r' || conversion == 'a') {
        TRY_DO(append_repr(meter_, value, shown));
      } else {
        return type_error(fmt::format("Unknown conversion specifier '{}'", conversion));
      }
      TRY(value, make_text(std::move(shown)));
    }
    TRY(const Spec spec, parse_spec(spec_text));
    return format_value(meter_, value, spec);
  }

  Result<Value> resolve(std::string_view name) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    TRY(Value value, argument(name.substr(0, end)));
    for (size_t at = end; at < name.size();) {
      if (name[at] == '.') {
        const size_t next = std::min(name.find_first_of(".[", at + 1), name.size());
        TRY(value, attribute(value, Text(std::string(name.substr(at + 1, next - at - 1)))));
        at = next;
        continue;
      }
      const size_t close = name.find(']', at);
      if (close == std::string_view::npos) return type_error("Missing ']' in format string");
      const std::string_view key = name.substr(at + 1, close - at - 1);
      size_t read = 0;
      TRY(const size_t index, read_number(key, read));
      const bool numeric = !key.empty() && read == key.size();
      TRY(value,
          item(value, numeric ? Value::integer(static_cast<int64_t>(index)) : Value::text(std::string(key))));
      at = close + 1;
    }
    return value;
  }

  Result<Value> argument(std::string_view name) {
    size_t at = 0;
    TRY(size_t index, read_number(name, at));
    if (name.empty()) index = next_++;
    if (name.empty() || at == name.size()) {
      if (index < arguments_.positional.size()) return arguments_.positional[index];
      return type_error("Replacement index out of range for positional args tuple");
    }
    for (const auto& [given, value] : arguments_.keyword) {
      if (given == name) return value;
    }
    return type_error(fmt::format("'{}'", name));
  }

  Meter& meter_;
  const Arguments& arguments_;
  size_t next_ = 0;
};

// One "%…" of a percent format.
class PercentFormatter {
 public:
  PercentFormatter(Meter& meter, std::string_view format, const Value& arguments)
      : meter_(meter), format_(format), arguments_(arguments) {
    const ListRef* list = arguments.get<ListRef>();
    if (list && (*list)->is_tuple()) tuple_ = *list;
  }

  Result<std::string> run() {
    std::string out;
    while (at_ < format_.size()) {
      if (format_[at_] != '%') {
        out += format_[at_++];
        continue;
      }
      ++at_;
      TRY(const std::string text, field());
      out += text;
      if (out.size() > kStringBytesMax) return type_error("the formatted text is too long");
    }
    const size_t count = tuple_ ? tuple_->items.size() : 1;
    const bool may_ignore = arguments_.is<DictRef>() || (arguments_.is<ListRef>() && !tuple_);
    if (used_ < count && !may_ignore)
      return type_error("not all arguments converted during string formatting");
    TRY_DO(meter_.bytes(out.size()));
    return out;
  }

 private:
  Result<Value> next_argument() {
    const size_t i = used_++;
    if (tuple_ && i < tuple_->items.size()) return tuple_->items[i];
    if (!tuple_ && i == 0) return arguments_;
    return type_error("not enough arguments for format string");
  }

  Result<Value> keyed_argument() {
    const size_t close = format_.find(')', at_);
    if (close == std::string_view::npos) return type_error("incomplete format key");
    const DictRef* dict = arguments_.get<DictRef>();
    if (!dict) return type_error("format requires a mapping");
    const std::string_view key = format_.substr(at_ + 1, close - at_ - 1);
    at_ = close + 1;
    const Value* value = (*dict)->find(key);
    if (!value) return type_error(fmt::format("'{}'", key));
    return *value;
  }

  Result<void> number_or_star(size_t& value, Spec& spec) {
    if (at_ >= format_.size() || format_[at_] != '*') {
      TRY(value, read_number(format_, at_));
      return {};
    }
    ++at_;
    TRY(const Value given, next_argument());
    Int whole = 0;
    if (!as_integer(given, whole)) return type_error("* wants int");
    if (whole < 0) {
      spec.align = '<';
      whole = -whole;
    }
    if (whole > static_cast<Int>(kFormatWidthMax)) {
      return type_error(fmt::format("a width of more than {}", kFormatWidthMax));
    }
    value = static_cast<size_t>(whole);
    return {};
  }

  Result<std::string> field() {
    Spec spec;
    spec.align = '>';
    std::optional<Value> keyed;
    if (at_ < format_.size() && format_[at_] == '(') {
      TRY(keyed, keyed_argument());
    }
    bool zero = false;
    for (; at_ < format_.size() && std::string_view("-+ #0").find(format_[at_]) != std::string_view::npos;
         ++at_) {
      const char flag = format_[at_];
      if (flag == '-') spec.align = '<';
      if (flag == '+' || (flag == ' ' && spec.sign != '+')) spec.sign = flag;
      if (flag == '#') spec.alternate = true;
      if (flag == '0') zero = true;
    }
    TRY_DO(number_or_star(spec.width, spec));
    if (at_ < format_.size() && format_[at_] == '.') {
      ++at_;
      size_t precision = 0;
      TRY_DO(number_or_star(precision, spec));
      spec.precision = static_cast<int>(precision);
    }
    while (at_ < format_.size() && (format_[at_] == 'h' || format_[at_] == 'l' || format_[at_] == 'L')) ++at_;
    if (at_ >= format_.size()) return type_error("incomplete format");
    const char type = format_[at_++];
    if (type == '%') return std::string("%");
    Value value;
    if (keyed) {
      value = *keyed;
    } else {
      TRY(value, next_argument());
    }
    return convert(value, type, spec, zero);
  }

  Result<std::string> convert(const Value& value, char type, Spec spec, bool zero) {
    if (type == 's' || type == 'r' || type == 'a') {
      std::string text;
      if (type == 's') {
        TRY_DO(append_text(meter_, value, text));
      } else {
        TRY_DO(append_repr(meter_, value, text));
      }
      return pad(cut(std::move(text), spec.precision), spec, spec.align);
    }
    Int whole = 0;
    const bool integral = as_integer(value, whole) != nullptr;
    const double* real = value.get<double>();
    if (type == 'c') {
      std::string text;
      if (integral && whole >= 0 && whole <= 0x10FFFF) append_code_point(text, static_cast<char32_t>(whole));
      if (const Text* given = value.get<Text>(); given && given->code_points() == 1) text = given->view();
      if (text.empty()) return type_error("%c requires int or char");
      return pad(std::move(text), spec, spec.align);
    }
    if (!integral && !real) {
      return type_error(fmt::format("%{} format: a real number is required, not {}", type, type_name(value)));
    }
    if (zero && spec.align == '>') {
      spec.fill = "0";
      spec.align = '=';
    }
    spec.type = type == 'i' || type == 'u' ? 'd' : type;
    if (std::string_view("doxX").find(spec.type) == std::string_view::npos) {
      return format_float(real ? *real : static_cast<double>(whole), spec);
    }
    if (real && !(std::abs(*real) < 1e38)) return type_error("cannot convert float to integer");
    if (real) whole = static_cast<Int>(*real);
    return format_integer(whole, spec);
  }

  Meter& meter_;
  const std::string_view format_;
  const Value& arguments_;
  ListRef tuple_;
  size_t at_ = 0;
  size_t used_ = 0;
};

}  // namespace

Result<Value> percent_format(Meter& meter, const Text& format, const Value& arguments) {
  TRY(std::string text, PercentFormatter(meter, format.view(), arguments).run());
  return make_text(std::move(text), format.safe());
}

Result<Value> brace_format(Meter& meter, const Text& format, const Arguments& arguments) {
  TRY(std::string text, BraceFormatter(meter, arguments).run(format.view(), 0));
  return make_text(std::move(text), format.safe());
}

std::string html_escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace baton::text::jinja
