// Methods of str.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "text/jinja/format.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"
#include "text/jinja/parameters.h"
#include "text/jinja/split.h"
#include "text/jinja/unicode.h"

namespace baton::text::jinja {
namespace {

constexpr size_t kNone = std::string_view::npos;

const Text& self_text(const Value& self) { return *self.get<Text>(); }

Result<Value> made(Meter& meter, std::string text) {
  TRY_DO(meter.bytes(text.size()));
  return make_text(std::move(text));
}

template <std::string (*Map)(std::string_view)>
Result<Value> mapped(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY_DO(bind("str method", arguments, {}));
  return made(meter, Map(self_text(self).view()));
}

template <bool Left, bool Right>
Result<Value> strip_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("strip", arguments, {"chars"}));
  const std::string_view text = self_text(self).view();
  if (p.absent(0)) return made(meter, std::string(strip(text, Left, Right)));
  TRY(const Text chars, p.text(0, ""));
  return made(meter, std::string(strip(text, chars.view(), Left, Right)));
}

template <bool FromRight>
Result<Value> split_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("split", arguments, {"sep", "maxsplit"}));
  TRY(const int64_t most, p.integer(1, -1));
  std::optional<Text> separator;
  if (!p.absent(0)) {
    TRY(separator, p.text(0, ""));
    if (separator->size() == 0) return type_error("empty separator");
  }
  TRY_DO(meter.bytes(self_text(self).size()));
  const std::string_view text = self_text(self).view();
  const std::vector<std::string_view> parts =
      separator ? split(text, separator->view(), most, FromRight) : split_space(text, most, FromRight);
  TRY_DO(meter.steps(parts.size()));
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view part : parts) items.push_back(Value::text(std::string(part)));
  return make_list(std::move(items));
}

Result<Value> splitlines_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("splitlines", arguments, {"keepends"}));
  TRY_DO(meter.bytes(self_text(self).size()));
  std::vector<Value> items;
  for (const std::string_view line : split_lines(self_text(self).view(), p.flag(0, false))) {
    items.push_back(Value::text(std::string(line)));
  }
  return make_list(std::move(items));
}

template <bool FromRight>
Result<Value> partition_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("partition", arguments, {"sep"}, 1));
  TRY(const Text separator, p.text(0, ""));
  if (separator.size() == 0) return type_error("empty separator");
  const std::string_view text = self_text(self).view();
  TRY_DO(meter.bytes(text.size()));
  const size_t at = FromRight ? text.rfind(separator.view()) : text.find(separator.view());
  std::vector<Value> items(3, Value::text(""));
  if (at == kNone) {
    items[FromRight ? 2 : 0] = self;
  } else {
    items[0] = Value::text(std::string(text.substr(0, at)));
    items[1] = Value(separator);
    items[2] = Value::text(std::string(text.substr(at + separator.size())));
  }
  return make_tuple(std::move(items));
}

// text[start:end] of the searching methods, start and end being their parameters 1 and 2. Nothing when start
// is past the end.
struct Window {
  std::string_view text;
  size_t begin = 0;  // code points before it
};
Result<std::optional<Window>> window(const Text& text, const Parameters& p) {
  const auto size = static_cast<int64_t>(text.code_points());
  int64_t bounds[2] = {0, size};
  for (size_t i = 0; i < 2; ++i) {
    if (p.absent(i + 1)) continue;
    TRY(bounds[i], p.integer(i + 1, 0));
    if (bounds[i] < 0) bounds[i] = std::max<int64_t>(bounds[i] + size, 0);
  }
  bounds[1] = std::min(bounds[1], size);
  if (bounds[0] > size || bounds[0] > bounds[1]) return std::nullopt;
  const size_t begin = byte_offset(text.view(), static_cast<size_t>(bounds[0]));
  const size_t end =
      begin + byte_offset(text.view().substr(begin), static_cast<size_t>(bounds[1] - bounds[0]));
  return Window{text.view().substr(begin, end - begin), static_cast<size_t>(bounds[0])};
}

// The index in code points, or -1.
template <bool FromRight>
Result<int64_t> search(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("find", arguments, {"sub", "start", "end"}, 1));
  TRY(const Text part, p.text(0, ""));
  TRY_DO(meter.bytes(self_text(self).size()));
  TRY(const std::optional<Window> where, window(self_text(self), p));
  if (!where) return -1;
  const size_t at = FromRight ? where->text.rfind(part.view()) : where->text.find(part.view());
  if (at == kNone) return -1;
  return static_cast<int64_t>(where->begin + count_code_points(where->text.substr(0, at)));
}

template <bool FromRight, bool MustFind>
Result<Value> find_method_of_text(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const int64_t at, search<FromRight>(meter, self, arguments));
  if (MustFind && at < 0) return type_error("substring not found");
  return Value::integer(at);
}

Result<Value> count_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("count", arguments, {"sub", "start", "end"}, 1));
  TRY(const Text part, p.text(0, ""));
  TRY_DO(meter.bytes(self_text(self).size()));
  TRY(const std::optional<Window> where, window(self_text(self), p));
  if (!where) return Value::integer(0);
  if (part.size() == 0) return Value::integer(static_cast<int64_t>(count_code_points(where->text)) + 1);
  int64_t count = 0;
  for (size_t at = where->text.find(part.view()); at != kNone;
       at = where->text.find(part.view(), at + part.size())) {
    ++count;
  }
  return Value::integer(count);
}

template <bool AtStart>
Result<Value> affix_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p,
      bind(AtStart ? "startswith" : "endswith", arguments, {"prefix", "start", "end"}, 1));
  std::vector<Value> choices;
  if (const ListRef* tuple = p[0]->get<ListRef>(); tuple && (*tuple)->is_tuple()) {
    choices = (*tuple)->items;
  } else {
    choices.push_back(*p[0]);
  }
  TRY(const std::optional<Window> where, window(self_text(self), p));
  for (const Value& choice : choices) {
    TRY_DO(meter.steps(1));
    const Text* affix = choice.get<Text>();
    if (!affix) {
      return type_error(fmt::format("{} first arg must be str or a tuple of str, not {}",
                                    AtStart ? "startswith" : "endswith", type_name(choice)));
    }
    if (!where) continue;
    if (AtStart ? where->text.starts_with(affix->view()) : where->text.ends_with(affix->view()))
      return Value(true);
  }
  return Value(false);
}

template <bool AtStart>
Result<Value> remove_affix(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("removeprefix", arguments, {"prefix"}, 1));
  TRY(const Text affix, p.text(0, ""));
  std::string_view text = self_text(self).view();
  if (AtStart && text.starts_with(affix.view())) text.remove_prefix(affix.size());
  if (!AtStart && text.ends_with(affix.view())) text.remove_suffix(affix.size());
  return made(meter, std::string(text));
}

Result<Value> replace_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("replace", arguments, {"old", "new", "count"}, 2));
  TRY(const Text from, p.text(0, ""));
  TRY(const Text to, p.text(1, ""));
  TRY(const int64_t most, p.integer(2, -1));
  return replaced(meter, self_text(self), from.view(), to.view(), most);
}

Result<Value> join_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("join", arguments, {"iterable"}, 1));
  TRY(const ListRef items, iterate(meter, *p[0]));
  std::string out;
  for (size_t i = 0; i < items->items.size(); ++i) {
    const Text* text = items->items[i].get<Text>();
    if (!text) {
      return type_error(
          fmt::format("sequence item {}: expected str instance, {} found", i, type_name(items->items[i])));
    }
    if (i > 0) out += self_text(self).view();
    out += text->view();
    if (out.size() > kStringBytesMax) break;
  }
  return made(meter, std::move(out));
}

// All characters satisfy `Each`, and there is one (or `EmptyToo`).
template <bool (*Each)(char32_t), bool EmptyToo = false>
Result<Value> all_are(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY_DO(bind("str method", arguments, {}));
  TRY_DO(meter.bytes(self_text(self).size()));
  const std::string_view text = self_text(self).view();
  for (size_t at = 0; at < text.size();) {
    if (!Each(next_code_point(text, at))) return Value(false);
  }
  return Value(EmptyToo || !text.empty());
}

bool is_alnum(char32_t c) { return is_alpha(c) || is_numeric(c); }
bool is_ascii(char32_t c) { return c < 0x80; }
bool is_digit(char32_t c) {
  return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || (c >= 0x2070 && c <= 0x2089);
}

template <bool Lower>
Result<Value> has_case(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY_DO(bind("str method", arguments, {}));
  TRY_DO(meter.bytes(self_text(self).size()));
  return Value(is_cased_as(self_text(self).view(), Lower));
}

Result<Value> istitle_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY_DO(bind("istitle", arguments, {}));
  TRY_DO(meter.bytes(self_text(self).size()));
  const std::string_view text = self_text(self).view();
  bool any = false;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    const bool upper = is_upper(c) || is_title(c);
    if (upper ? in_word : is_lower(c) && !in_word) return Value(false);
    in_word = upper || is_lower(c);
    any |= in_word;
  }
  return Value(any);
}

// How text of `size` code points is padded to the width of parameter 0.
template <char Align>
Result<Value> justify(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("ljust", arguments, {"width", "fillchar"}, 1));
  TRY(const int64_t width, p.integer(0, 0));
  TRY(const Text fill, p.text(1, " "));
  if (fill.code_points() != 1) return type_error("The fill character must be exactly one character long");
  return padded(meter, self_text(self), width, fill.view(), Align);
}

Result<Value> zfill_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("zfill", arguments, {"width"}, 1));
  TRY(const int64_t width, p.integer(0, 0));
  const std::string_view text = self_text(self).view();
  const bool has_sign = !text.empty() && (text[0] == '-' || text[0] == '+');
  TRY(const Value digits,
      padded(meter, Text(std::string(text.substr(has_sign ? 1 : 0))), width - (has_sign ? 1 : 0), "0", '>'));
  return made(meter, std::string(text.substr(0, has_sign ? 1 : 0)) + std::string(digits.get<Text>()->view()));
}

Result<Value> format_method(Meter& meter, const Value& self, const Arguments& arguments) {
  return brace_format(meter, self_text(self), arguments);
}

Result<Value> format_map_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("format_map", arguments, {"mapping"}, 1));
  const DictRef* dict = p[0]->get<DictRef>();
  if (!dict) return type_error("format_map() expects a mapping");
  Arguments given;
  for (const auto& [key, value] : (*dict)->entries()) {
    if (const Text* name = key.get<Text>()) given.keyword.emplace_back(std::string(name->view()), value);
  }
  return brace_format(meter, self_text(self), given);
}

Result<Value> encode_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("encode", arguments, {"encoding", "errors"}));
  TRY(const Text encoding, p.text(0, "utf-8"));
  const std::string name = to_lower(encoding.view());
  if (name != "utf-8" && name != "utf8") return type_error("expected the encoding 'utf-8'");
  TRY_DO(meter.bytes(self_text(self).size()));
  return make_object(Bytes{std::string(self_text(self).view())});
}

Result<Value> expandtabs_method(Meter& meter, const Value& self, const Arguments& arguments) {
  TRY(const Parameters p, bind("expandtabs", arguments, {"tabsize"}));
  TRY(const int64_t size, p.integer(0, 8));
  if (size > static_cast<int64_t>(kFormatWidthMax))
    return type_error(fmt::format("a width of more than {}", kFormatWidthMax));
  const std::string_view text = self_text(self).view();
  std::string out;
  int64_t column = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(text, at);
    if (c == '\t' && size > 0) {
      out.append(static_cast<size_t>(size - column % size), ' ');
      column += size - column % size;
    } else if (c != '\t') {
      out += text.substr(begin, at - begin);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    }
    if (out.size() > kStringBytesMax) break;
  }
  return made(meter, std::move(out));
}

constexpr Method kTextMethods[] = {
    {"strip", strip_method<true, true>},
    {"split", split_method<false>},
    {"startswith", affix_method<true>},
    {"endswith", affix_method<false>},
    {"lstrip", strip_method<true, false>},
    {"rstrip", strip_method<false, true>},
    {"replace", replace_method},
    {"join", join_method},
    {"format", format_method},
    {"upper", mapped<to_upper>},
    {"lower", mapped<to_lower>},
    {"title", mapped<to_title>},
    {"capitalize", mapped<to_capitalized>},
    {"swapcase", mapped<swap_case>},
    {"casefold", mapped<to_lower>},
    {"rsplit", split_method<true>},
    {"splitlines", splitlines_method},
    {"partition", partition_method<false>},
    {"rpartition", partition_method<true>},
    {"find", find_method_of_text<false, false>},
    {"rfind", find_method_of_text<true, false>},
    {"index", find_method_of_text<false, true>},
    {"rindex", find_method_of_text<true, true>},
    {"count", count_method},
    {"removeprefix", remove_affix<true>},
    {"removesuffix", remove_affix<false>},
    {"isdigit", all_are<is_digit>},
    {"isdecimal", all_are<is_decimal>},
    {"isnumeric", all_are<is_numeric>},
    {"isalpha", all_are<is_alpha>},
    {"isalnum", all_are<is_alnum>},
    {"isspace", all_are<is_space>},
    {"isascii", all_are<is_ascii, true>},
    {"isprintable", all_are<is_printable, true>},
    {"islower", has_case<true>},
    {"isupper", has_case<false>},
    {"istitle", istitle_method},
    {"zfill", zfill_method},
    {"ljust", justify<'<'>},
    {"rjust", justify<'>'>},
    {"center", justify<'^'>},
    {"expandtabs", expandtabs_method},
    {"format_map", format_map_method},
    {"encode", encode_method},
};

}  // namespace

std::span<const Method> text_methods() { return kTextMethods; }

}  // namespace baton::text::jinja
