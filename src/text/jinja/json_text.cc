#include "text/jinja/json_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/merge_sort.h"
#include "text/jinja/unicode.h"

namespace baton::text::jinja {
namespace {

class JsonWriter {
 public:
  JsonWriter(Meter& meter, const JsonStyle& style) : meter_(meter), style_(style) {}

  Result<void> write(const Value& value);
  std::string take() { return std::move(out_); }

 private:
  void write_string(std::string_view text);
  void write_escape(char32_t c);
  Result<void> write_list(const List& list);
  Result<void> write_dict(const Dict& dict);
  Result<void> write_key(const Value& key);
  void write_float(double value) {
    out_ += std::isnan(value)   ? "NaN"
            : std::isinf(value) ? (value < 0 ? "-Infinity" : "Infinity")
                                : float_text(value);
  }
  void new_line() {
    if (!style_.indent) return;
    out_ += '\n';
    for (size_t i = 0; i < level_; ++i) out_ += *style_.indent;
  }
  void separate(bool first) {
    if (!first) out_ += style_.item_separator;
    new_line();
  }

  Meter& meter_;
  const JsonStyle& style_;
  std::string out_;
  size_t level_ = 0;
};

void JsonWriter::write_escape(char32_t c) {
  if (c >= 0x10000) {
    const uint32_t rest = static_cast<uint32_t>(c) - 0x10000;
    out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
  } else {
    out_ += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
  }
}

void JsonWriter::write_string(std::string_view text) {
  constexpr std::string_view kFrom = "\"\\\n\r\t\f\b";
  constexpr std::string_view kTo = "\"\\nrtfb";
  out_ += '"';
  size_t at = 0;
  size_t plain = 0;
  while (at < text.size()) {
    const char c = text[at];
    const bool is_ascii = static_cast<uint8_t>(c) < 0x80;
    const bool as_it_is =
        is_ascii ? static_cast<uint8_t>(c) >= 0x20 && c != '"' && c != '\\' : !style_.ensure_ascii;
    if (as_it_is) {
      ++at;
      continue;
    }
    out_ += text.substr(plain, at - plain);
    if (const size_t i = kFrom.find(c); is_ascii && i != std::string_view::npos) {
      out_ += '\\';
      out_ += kTo[i];
      ++at;
    } else {
      write_escape(next_code_point(text, at));
    }
    plain = at;
  }
  out_ += text.substr(plain);
  out_ += '"';
}

Result<void> JsonWriter::write_list(const List& list) {
  out_ += '[';
  ++level_;
  bool first = true;
  for (const Value& item : list.items) {
    separate(first);
    first = false;
    TRY_DO(write(item));
  }
  --level_;
  if (!first) new_line();
  out_ += ']';
  return {};
}

Result<void> JsonWriter::write_key(const Value& key) {
  if (const Text* text = key.get<Text>()) {
    write_string(text->view());
  } else if (key.is<None>()) {
    out_ += "\"null\"";
  } else if (const bool* flag = key.get<bool>()) {
    out_ += *flag ? "\"true\"" : "\"false\"";
  } else if (const Int* whole = key.get<Int>()) {
    out_ += '"' + int_text(*whole) + '"';
  } else if (const double* real = key.get<double>()) {
    out_ += '"';
    write_float(*real);
    out_ += '"';
  }
  out_ += style_.key_separator;
  return {};
}

Result<void> JsonWriter::write_dict(const Dict& dict) {
  std::vector<const Dict::Entry*> entries;
  for (const Dict::Entry& entry : dict.entries()) entries.push_back(&entry);
  if (style_.sort_keys) {
    Error error;
    bool failed = false;
    merge_sort(entries, [&](const Dict::Entry* a, const Dict::Entry* b) {
      const Result<bool> order = failed ? Result<bool>(false) : less(meter_, a->first, b->first);
      if (!order) {
        failed = true;
        error = order.error();
      }
      return order.value_or(false);
    });
    if (failed) return Failure(std::move(error));
  }
  out_ += '{';
  ++level_;
  bool first = true;
  for (const Dict::Entry* entry : entries) {
    separate(first);
    first = false;
    TRY_DO(write_key(entry->first));
    TRY_DO(write(entry->second));
  }
  --level_;
  if (!first) new_line();
  out_ += '}';
  return {};
}

Result<void> JsonWriter::write(const Value& value) {
  TRY_DO(meter_.steps(1));
  if (out_.size() > kStringBytesMax)
    return type_error(fmt::format("a string of more than {} bytes", kStringBytesMax));
  if (const Text* text = value.get<Text>()) {
    TRY_DO(meter_.bytes(text->size()));
    write_string(text->view());
  } else if (value.is<None>()) {
    out_ += "null";
  } else if (const bool* flag = value.get<bool>()) {
    out_ += *flag ? "true" : "false";
  } else if (const Int* whole = value.get<Int>()) {
    out_ += int_text(*whole);
  } else if (const double* real = value.get<double>()) {
    write_float(*real);
  } else if (const ListRef* list = value.get<ListRef>(); list && !(*list)->is_view()) {
    return write_list(**list);
  } else if (const DictRef* dict = value.get<DictRef>()) {
    return write_dict(**dict);
  } else {
    return type_error(fmt::format("Object of type {} is not JSON serializable", type_name(value)));
  }
  return {};
}

}  // namespace

Result<std::string> json_text(Meter& meter, const Value& value, const JsonStyle& style) {
  JsonWriter writer(meter, style);
  TRY_DO(writer.write(value));
  return writer.take();
}

}  // namespace baton::text::jinja
