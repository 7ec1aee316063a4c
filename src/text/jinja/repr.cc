// str() and repr() of values.
#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "text/jinja/object.h"
#include "text/jinja/unicode.h"
#include "text/jinja/value.h"

namespace baton::text::jinja {

std::string int_text(Int value) { return fmt::format("{}", value); }

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<size_t>(end - buffer));
  std::string out;
  if (text.front() == '-') {
    out = "-";
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  int exponent = 0;
  std::from_chars(text.data() + e + (text[e + 1] == '+' ? 2 : 1), text.data() + text.size(), exponent);
  std::string digits(1, text[0]);
  if (e > 2) digits += text.substr(2, e - 2);
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out += "." + digits.substr(1);
    out += fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (exponent < 0) {
    out += "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else if (count <= exponent + 1) {
    out += digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  } else {
    const auto point = static_cast<size_t>(exponent + 1);
    out += digits.substr(0, point) + "." + digits.substr(point);
  }
  return out;
}

namespace {

void append_escaped(std::string& out, char32_t c) {
  if (c == '\n') {
    out += "\\n";
  } else if (c == '\t') {
    out += "\\t";
  } else if (c == '\r') {
    out += "\\r";
  } else if (c < 0x100) {
    out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c));
  } else if (c < 0x10000) {
    out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
  } else {
    out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
  }
}

void append_string_repr(std::string_view text, std::string& out) {
  const bool double_quotes =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  out += quote;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    while (at < text.size() && text[at] >= ' ' && text[at] <= '~' && text[at] != quote && text[at] != '\\')
      ++at;
    if (at > begin) {
      out += text.substr(begin, at - begin);
      continue;
    }
    const char32_t c = next_code_point(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\') out += '\\';
    if (is_printable(c)) {
      out += text.substr(begin, at - begin);
    } else {
      append_escaped(out, c);
    }
  }
  out += quote;
}

void append_bytes_repr(std::string_view bytes, std::string& out) {
  const bool double_quotes =
      bytes.find('\'') != std::string_view::npos && bytes.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  out += 'b';
  out += quote;
  for (const char c : bytes) {
    if (c == quote || c == '\\') out += '\\';
    if (c >= 0x20 && c < 0x7F) {
      out += c;
    } else {
      append_escaped(out, static_cast<uint8_t>(c));
    }
  }
  out += quote;
}

Result<void> append_list_repr(Meter& meter, const List& list, std::string& out) {
  if (list.is_view()) {
    constexpr const char* kNames[] = {"", "", "", "dict_keys(", "dict_values(", "dict_items("};
    out += kNames[static_cast<size_t>(list.kind)];
  }
  out += list.is_tuple() ? '(' : '[';
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) out += ", ";
    TRY_DO(append_repr(meter, list.items[i], out));
  }
  if (list.is_tuple() && list.items.size() == 1) out += ',';
  out += list.is_tuple() ? ')' : ']';
  if (list.is_view()) out += ')';
  return {};
}

Result<void> append_dict_repr(Meter& meter, const Dict& dict, std::string& out) {
  out += '{';
  bool first = true;
  for (const auto& [key, value] : dict.entries()) {
    if (!first) out += ", ";
    first = false;
    TRY_DO(append_repr(meter, key, out));
    out += ": ";
    TRY_DO(append_repr(meter, value, out));
  }
  out += '}';
  return {};
}

std::string object_repr(const Value& value) {
  if (const Bytes* bytes = object<Bytes>(value)) {
    std::string out;
    append_bytes_repr(bytes->bytes, out);
    return out;
  }
  if (const Loop* loop = object<Loop>(value)) {
    return fmt::format("<LoopContext {}/{}>", loop->index0 + 1, loop->items->items.size());
  }
  return fmt::format("<{} object>", type_name(value));
}

}  // namespace

Result<void> append_repr(Meter& meter, const Value& value, std::string& out) {
  TRY_DO(meter.steps(1));
  const size_t before = out.size();
  if (const Text* text = value.get<Text>()) {
    if (text->safe()) out += "Markup(";
    append_string_repr(text->view(), out);
    if (text->safe()) out += ')';
  } else if (const ListRef* list = value.get<ListRef>()) {
    TRY_DO(append_list_repr(meter, **list, out));
  } else if (const DictRef* dict = value.get<DictRef>()) {
    TRY_DO(append_dict_repr(meter, **dict, out));
  } else if (value.is<Undefined>()) {
    out += "Undefined";
  } else {
    return append_text(meter, value, out);
  }
  if (out.size() > kStringBytesMax)
    return type_error(fmt::format("a string of more than {} bytes", kStringBytesMax));
  return value.is<Text>() ? meter.bytes(out.size() - before) : Result<void>{};
}

Result<void> append_text(Meter& meter, const Value& value, std::string& out) {
  if (value.is<Undefined>()) return {};
  if (const Text* text = value.get<Text>()) {
    out += text->view();
    return meter.bytes(text->size());
  }
  if (value.is<None>()) {
    out += "None";
  } else if (const bool* b = value.get<bool>()) {
    out += *b ? "True" : "False";
  } else if (const Int* i = value.get<Int>()) {
    out += int_text(*i);
  } else if (const double* d = value.get<double>()) {
    out += float_text(*d);
  } else if (const Range* range = value.get<Range>()) {
    out += range->step == 1 ? fmt::format("range({}, {})", range->start, range->stop)
                            : fmt::format("range({}, {}, {})", range->start, range->stop, range->step);
  } else if (value.is<ObjectRef>()) {
    out += object_repr(value);
  } else {
    return append_repr(meter, value, out);
  }
  return {};
}

Result<std::string> to_text(Meter& meter, const Value& value) {
  std::string out;
  TRY_DO(append_text(meter, value, out));
  return out;
}

}  // namespace baton::text::jinja
