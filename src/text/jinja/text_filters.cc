// Filters of strings and numbers.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "text/jinja/filter_tables.h"
#include "text/jinja/format.h"
#include "text/jinja/json_text.h"
#include "text/jinja/numbers.h"
#include "text/jinja/operators.h"
#include "text/jinja/parameters.h"
#include "text/jinja/pretty.h"
#include "text/jinja/split.h"
#include "text/jinja/unicode.h"

namespace baton::text::jinja {
namespace {

// The input as text, whatever it is.
Result<Text> input_text(Meter& meter, const Value& input) {
  if (const Text* text = input.get<Text>()) return *text;
  TRY(std::string text, to_text(meter, input));
  return Text(std::move(text));
}

Result<Value> made(Meter& meter, std::string text) {
  TRY_DO(meter.bytes(text.size()));
  return make_text(std::move(text));
}

template <std::string (*Map)(std::string_view)>
Result<Value> mapped(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("filter", arguments, {}));
  TRY(const Text text, input_text(meter, input));
  return made(meter, Map(text.view()));
}

// Jinja's own idea of a title: words end at white space, "-" and opening brackets only.
std::string title_words(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    size_t end = at;
    while (end < text.size()) {
      size_t next = end;
      const char32_t c = next_code_point(text, next);
      if (is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<') break;
      end = next;
    }
    if (end > begin) {
      size_t first = begin;
      next_code_point(text, first);
      out += to_upper(text.substr(begin, first - begin)) + to_lower(text.substr(first, end - first));
    }
    at = end;
    if (at < text.size()) {
      next_code_point(text, at);
      out += text.substr(end, at - end);
    }
  }
  return out;
}

Result<Value> trim(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("trim", arguments, {"chars"}));
  TRY(const Text text, input_text(meter, input));
  if (p.absent(0)) return made(meter, std::string(strip(text.view(), true, true)));
  TRY(const Text chars, p.text(0, ""));
  return made(meter, std::string(strip(text.view(), chars.view(), true, true)));
}

Result<Value> replace(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("replace", arguments, {"old", "new", "count"}, 2));
  TRY(const Text text, input_text(meter, input));
  TRY(const Text from, input_text(meter, *p[0]));
  TRY(const Text to, input_text(meter, *p[1]));
  int64_t most = -1;
  if (!p.absent(2)) {
    TRY(most, p.integer(2, -1));
  }
  return replaced(meter, text, from.view(), to.view(), most);
}

Result<Value> center(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("center", arguments, {"width"}));
  TRY(const int64_t width, p.integer(0, 80));
  TRY(const Text text, input_text(meter, input));
  return padded(meter, text, width, " ", '^');
}

Result<Value> indent(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("indent", arguments, {"width", "first", "blank"}));
  TRY(const Text text, input_text(meter, input));
  std::string indention(4, ' ');
  if (p[0] && p[0]->is<Text>()) {
    indention = p[0]->get<Text>()->view();
  } else if (p[0]) {
    TRY(const int64_t width, p.integer(0, 4));
    if (width > static_cast<int64_t>(kFormatWidthMax)) {
      return type_error(fmt::format("a width of {}, at most {} is allowed", width, kFormatWidthMax));
    }
    indention.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const bool blank = p.flag(2, false);
  const std::string source = std::string(text.view()) + "\n";
  std::string out = p.flag(1, false) ? indention : "";
  bool first = true;
  for (const std::string_view line : split_lines(source, false)) {
    if (!first) {
      out += '\n';
      if (blank || !line.empty()) out += indention;
    }
    first = false;
    out += line;
    if (out.size() > kStringBytesMax) break;
  }
  return made(meter, std::move(out));
}

Result<Value> truncate(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("truncate", arguments, {"length", "killwords", "end", "leeway"}));
  TRY(const Text text, input_text(meter, input));
  TRY(const int64_t length, p.integer(0, 255));
  TRY(const Text end, p.text(2, "..."));
  int64_t leeway = 5;
  if (!p.absent(3)) {
    TRY(leeway, p.integer(3, 5));
  }
  const int64_t kept = length - static_cast<int64_t>(end.code_points());
  if (kept < 0) return type_error(fmt::format("expected length >= {}, got {}", end.code_points(), length));
  if (leeway < 0) return type_error(fmt::format("expected leeway >= 0, got {}", leeway));
  if (static_cast<int64_t>(text.code_points()) <= length + leeway) return Value(text);
  std::string_view head = text.view().substr(0, byte_offset(text.view(), static_cast<size_t>(kept)));
  if (!p.flag(1, false)) head = head.substr(0, std::min(head.rfind(' '), head.size()));
  return made(meter, std::string(head) + std::string(end.view()));
}

// A line of words no longer than `width`, as Python's textwrap fills it.
Result<Value> word_wrap(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p,
      bind("wordwrap", arguments, {"width", "break_long_words", "wrapstring", "break_on_hyphens"}));
  TRY(const Text text, input_text(meter, input));
  TRY(const int64_t width, p.integer(0, 79));
  if (width <= 0) return type_error("expected a width above 0");
  const bool breaks = p.flag(1, true);
  std::string newline = "\n";
  if (!p.absent(2)) {
    TRY(const Text given, p.text(2, "\n"));
    newline = given.view();
  }
  std::string out;
  bool first_line = true;
  for (const std::string_view line : split_lines(text.view(), false)) {
    if (!std::exchange(first_line, false)) out += newline;
    int64_t column = 0;
    for (std::string_view word : split_space(line, -1, false)) {
      auto size = static_cast<int64_t>(count_code_points(word));
      if (column > 0 && column + 1 + size > width) {
        out += newline;
        column = 0;
      }
      for (; breaks && column == 0 && size > width; size -= width) {
        const size_t cut = byte_offset(word, static_cast<size_t>(width));
        out += word.substr(0, cut);
        out += newline;
        word.remove_prefix(cut);
      }
      if (column > 0) out += ' ';
      out += word;
      column += size + (column > 0 ? 1 : 0);
    }
    if (out.size() > kStringBytesMax) break;
  }
  return made(meter, std::move(out));
}

Result<Value> word_count(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("wordcount", arguments, {}));
  TRY(const Text text, input_text(meter, input));
  TRY_DO(meter.bytes(text.size()));
  int64_t words = 0;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text.view(), at);
    const bool part = is_alpha(c) || is_numeric(c) || c == '_';
    words += part && !in_word;
    in_word = part;
  }
  return Value::integer(words);
}

Result<Value> escape(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("escape", arguments, {}));
  TRY(const Text text, input_text(meter, input));
  if (text.safe()) return Value(text);
  std::string out = html_escaped(text.view());
  TRY_DO(meter.bytes(out.size()));
  return make_text(std::move(out), true);
}

Result<Value> force_escape(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("forceescape", arguments, {}));
  TRY(const Text text, input_text(meter, input));
  std::string out = html_escaped(text.view());
  TRY_DO(meter.bytes(out.size()));
  return make_text(std::move(out), true);
}

Result<Value> safe(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("safe", arguments, {}));
  TRY(const Text text, input_text(meter, input));
  return Value(text.as_safe());
}

Result<Value> string(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("string", arguments, {}));
  TRY(const Text text, input_text(meter, input));
  return Value(text);
}

Result<Value> strip_tags(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("striptags", arguments, {}));
  TRY(const Text text, input_text(meter, input));
  TRY_DO(meter.bytes(text.size()));
  constexpr size_t kNone = std::string_view::npos;
  const std::string_view source = text.view();
  std::string bare;
  bool comments_end = true;
  for (size_t at = 0; at < source.size();) {
    const bool is_comment = comments_end && source.substr(at).starts_with("<!--");
    const size_t close =
        source[at] != '<' ? kNone : source.find(is_comment ? "-->" : ">", at + (is_comment ? 4 : 1));
    if (is_comment && close == kNone) {
      comments_end = false;
      continue;
    }
    if (close == kNone) {
      bare += source[at++];
    } else {
      at = close + (is_comment ? 3 : 1);
    }
  }
  std::string out;
  for (const std::string_view word : split_space(bare, -1, false)) {
    if (!out.empty()) out += ' ';
    out += word;
  }
  constexpr std::pair<std::string_view, std::string_view> kEntities[] = {
      {"&lt;", "<"}, {"&gt;", ">"}, {"&#34;", "\""}, {"&quot;", "\""}, {"&#39;", "'"}, {"&amp;", "&"}};
  Text plain(std::move(out));
  for (const auto& [entity, character] : kEntities) {
    TRY(const Value next, replaced(meter, plain, entity, character, -1));
    plain = *next.get<Text>();
  }
  return Value(plain);
}

std::string percent_encoded(std::string_view text, bool in_query) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-~";
  std::string out;
  for (const char c : text) {
    if (kPlain.find(c) != std::string_view::npos || (c == '/' && !in_query)) {
      out += c;
    } else if (c == ' ' && in_query) {
      out += '+';
    } else {
      out += fmt::format("%{:02X}", static_cast<uint8_t>(c));
    }
  }
  return out;
}

Result<Value> url_encode(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("urlencode", arguments, {}));
  if (!input.is<DictRef>() && !input.is<ListRef>()) {
    TRY(const Text text, input_text(meter, input));
    return made(meter, percent_encoded(text.view(), false));
  }
  std::vector<Dict::Entry> pairs;
  if (const DictRef* dict = input.get<DictRef>()) {
    pairs = (*dict)->entries();
  } else {
    for (const Value& pair : (*input.get<ListRef>())->items) {
      TRY(const ListRef parts, iterate(meter, pair));
      if (parts->items.size() != 2) return type_error("urlencode expects pairs");
      pairs.emplace_back(parts->items[0], parts->items[1]);
    }
  }
  std::string out;
  for (const auto& [key, value] : pairs) {
    TRY(const Text name, input_text(meter, key));
    TRY(const Text shown, input_text(meter, value));
    if (!out.empty()) out += '&';
    out += percent_encoded(name.view(), true) + "=" + percent_encoded(shown.view(), true);
  }
  return made(meter, std::move(out));
}

Result<Value> format(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Text text, input_text(meter, input));
  if (!arguments.keyword.empty() && !arguments.positional.empty()) {
    return type_error("can't handle positional and keyword arguments at the same time");
  }
  if (arguments.keyword.empty()) {
    TRY(const Value tuple, make_tuple(arguments.positional));
    return percent_format(meter, text, tuple);
  }
  std::vector<Dict::Entry> entries;
  for (const auto& [name, value] : arguments.keyword) entries.emplace_back(Value::text(name), value);
  TRY(const Value dict, make_dict(std::move(entries)));
  return percent_format(meter, text, dict);
}

Result<Value> to_int(Meter& /*meter*/, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("int", arguments, {"default", "base"}));
  TRY(const int64_t base, p.integer(1, 10));
  if (const Undefined* u = input.get<Undefined>()) return type_error(undefined_message(*u));
  Int whole = 0;
  if (as_integer(input, whole)) return Value(whole);
  const Value fallback = p[0] ? *p[0] : Value(Int{0});
  std::optional<double> real;
  if (const Text* text = input.get<Text>()) {
    if (const std::optional<Int> parsed = parse_integer(text->view(), static_cast<int>(base)))
      return Value(*parsed);
    real = parse_float(text->view());
  }
  if (const double* given = input.get<double>()) real = *given;
  constexpr double kIntMax = 1.7e38;
  if (!real || !(std::abs(*real) < kIntMax)) return fallback;
  return Value(static_cast<Int>(*real));
}

Result<Value> to_float(Meter& /*meter*/, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("float", arguments, {"default"}));
  if (const Undefined* u = input.get<Undefined>()) return type_error(undefined_message(*u));
  Int whole = 0;
  if (as_integer(input, whole)) return Value(static_cast<double>(whole));
  if (input.is<double>()) return input;
  if (const Text* text = input.get<Text>()) {
    if (const std::optional<double> parsed = parse_float(text->view())) return Value(*parsed);
  }
  return p[0] ? *p[0] : Value(0.0);
}

Result<Value> absolute(Meter& /*meter*/, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("abs", arguments, {}));
  Int whole = 0;
  if (as_integer(input, whole)) return whole < 0 ? negate(Value(whole)) : Value(whole);
  if (const double* real = input.get<double>()) return Value(std::abs(*real));
  return type_error(fmt::format("bad operand type for abs(): '{}'", type_name(input)));
}

Result<Value> round(Meter& /*meter*/, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("round", arguments, {"precision", "method"}));
  TRY(const int64_t precision, p.integer(0, 0));
  TRY(const Text method, p.text(1, "common"));
  if (precision > 300 || precision < -300) return type_error("expected a precision from -300 to 300");
  Int whole = 0;
  const bool integral = as_integer(input, whole) != nullptr;
  if (!integral && !input.is<double>()) {
    return type_error(fmt::format("type {} doesn't define __round__ method", type_name(input)));
  }
  if (method.view() == "common") {
    if (integral) return Value(round_integer(whole, static_cast<int>(precision)));
    return Value(round_float(*input.get<double>(), static_cast<int>(precision)));
  }
  if (method.view() != "ceil" && method.view() != "floor")
    return type_error("method must be common, ceil or floor");
  const double value = integral ? static_cast<double>(whole) : *input.get<double>();
  const double scale = std::pow(10.0, static_cast<double>(precision));
  return Value((method.view() == "ceil" ? std::ceil(value * scale) : std::floor(value * scale)) / scale);
}

Result<Value> file_size(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("filesizeformat", arguments, {"binary"}));
  TRY(const Value size, to_float(meter, input, {}));
  const double bytes = *size.get<double>();
  const bool binary = p.flag(0, false);
  const double base = binary ? 1024 : 1000;
  constexpr std::string_view kDecimal[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
  constexpr std::string_view kBinary[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"};
  if (bytes == 1) return Value::text("1 Byte");
  if (bytes < base) return Value::text(fmt::format("{:.0f} Bytes", std::trunc(bytes)));
  double unit = base;
  size_t i = 0;
  for (; i + 1 < std::size(kDecimal) && bytes >= unit * base; ++i) unit *= base;
  return Value::text(fmt::format("{:.1f} {}", bytes / unit, binary ? kBinary[i] : kDecimal[i]));
}

Result<Value> to_json(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ensure_ascii = p.flag(0, false);
  style.sort_keys = p.flag(3, false);
  if (!p.absent(1)) {
    style.item_separator = ",";
    if (const Text* text = p[1]->get<Text>()) {
      style.indent = std::string(text->view());
    } else {
      TRY(const int64_t width, p.integer(1, 0));
      style.indent = std::string(static_cast<size_t>(std::clamp<int64_t>(width, 0, 1000)), ' ');
    }
  }
  if (!p.absent(2)) {
    TRY(const ListRef separators, iterate(meter, *p[2]));
    const auto& parts = separators->items;
    if (parts.size() != 2 || !parts[0].is<Text>() || !parts[1].is<Text>()) {
      return type_error("expected two strings as separators");
    }
    style.item_separator = parts[0].get<Text>()->view();
    style.key_separator = parts[1].get<Text>()->view();
  }
  TRY(std::string text, json_text(meter, input, style));
  return made(meter, std::move(text));
}

Result<Value> pretty(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("pprint", arguments, {}));
  TRY(std::string text, pretty_text(meter, input));
  return made(meter, std::move(text));
}

constexpr Filter kTextFilters[] = {
    {"abs", absolute},
    {"capitalize", mapped<to_capitalized>},
    {"center", center},
    {"e", escape},
    {"escape", escape},
    {"filesizeformat", file_size},
    {"float", to_float},
    {"forceescape", force_escape},
    {"format", format},
    {"indent", indent},
    {"int", to_int},
    {"lower", mapped<to_lower>},
    {"pprint", pretty},
    {"replace", replace},
    {"round", round},
    {"safe", safe},
    {"string", string},
    {"striptags", strip_tags},
    {"title", mapped<title_words>},
    {"tojson", to_json},
    {"trim", trim},
    {"truncate", truncate},
    {"upper", mapped<to_upper>},
    {"urlencode", url_encode},
    {"wordcount", word_count},
    {"wordwrap", word_wrap},
};

}  // namespace

std::span<const Filter> text_filters() { return kTextFilters; }

}  // namespace baton::text::jinja
