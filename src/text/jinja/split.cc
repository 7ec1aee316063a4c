#include "text/jinja/split.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/unicode.h"

namespace baton::text::jinja {

std::vector<std::string_view> split(std::string_view text, std::string_view separator, int64_t most,
                                    bool from_right) {
  constexpr size_t kNone = std::string_view::npos;
  std::vector<std::string_view> parts;
  while (most != 0) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == kNone) break;
    if (from_right) {
      parts.push_back(text.substr(at + separator.size()));
      text = text.substr(0, at);
    } else {
      parts.push_back(text.substr(0, at));
      text = text.substr(at + separator.size());
    }
    --most;
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

namespace {

// The end of the run of characters at the left (or right) end of `text` that are white space, or that are
// not.
size_t run_length(std::string_view text, bool space, bool from_right) {
  size_t taken = 0;
  while (taken < text.size()) {
    size_t begin = from_right ? text.size() - taken - 1 : taken;
    while (from_right && begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
    size_t at = begin;
    if (is_space(next_code_point(text, at)) != space) break;
    taken = from_right ? text.size() - begin : at;
  }
  return taken;
}

bool is_line_end(char32_t c) {
  return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

}  // namespace

std::vector<std::string_view> split_space(std::string_view text, int64_t most, bool from_right) {
  std::vector<std::string_view> parts;
  while (true) {
    text = strip(text, !from_right, from_right);
    if (text.empty()) break;
    if (most == 0) {
      parts.push_back(text);
      break;
    }
    const size_t length = run_length(text, false, from_right);
    parts.push_back(from_right ? text.substr(text.size() - length) : text.substr(0, length));
    text = from_right ? text.substr(0, text.size() - length) : text.substr(length);
    --most;
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = next_code_point(text, at);
    if (!is_line_end(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

Result<Value> replaced(Meter& meter, const Text& text, std::string_view from, std::string_view to,
                       int64_t most) {
  const std::string_view source = text.view();
  std::string out;
  size_t at = 0;
  while (most != 0 && at <= source.size()) {
    const size_t found = source.find(from, at);
    if (found == std::string_view::npos) break;
    out += source.substr(at, found - at);
    out += to;
    at = found + from.size();
    --most;
    if (from.empty()) {
      if (found == source.size()) {
        at = source.size();
        break;
      }
      size_t next = found;
      next_code_point(source, next);
      out += source.substr(found, next - found);
      at = next;
    }
    if (out.size() > kStringBytesMax)
      return type_error(fmt::format("a string of more than {} bytes", kStringBytesMax));
  }
  out += source.substr(std::min(at, source.size()));
  TRY_DO(meter.bytes(out.size() + source.size()));
  return make_text(std::move(out), text.safe());
}

Result<Value> padded(Meter& meter, const Text& text, int64_t width, std::string_view fill, char align) {
  if (width > static_cast<int64_t>(kFormatWidthMax)) {
    return type_error(fmt::format("a width of {}, at most {} is allowed", width, kFormatWidthMax));
  }
  const auto size = static_cast<int64_t>(text.code_points());
  const int64_t missing = std::max<int64_t>(width - size, 0);
  // CPython's rule for an odd number of them: the extra one goes left if the width is odd.
  const int64_t centered = missing / 2 + (missing & width & 1);
  const int64_t left = align == '>' ? missing : align == '^' ? centered : 0;
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += text.view();
  for (int64_t i = left; i < missing; ++i) out += fill;
  TRY_DO(meter.bytes(out.size()));
  return make_text(std::move(out));
}

bool is_cased_as(std::string_view text, bool lower) {
  bool any = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (is_title(c) || (lower ? is_upper(c) : is_lower(c))) return false;
    any |= lower ? is_lower(c) : is_upper(c);
  }
  return any;
}

}  // namespace baton::text::jinja
