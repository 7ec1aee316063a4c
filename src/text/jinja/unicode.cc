#include "text/jinja/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>

#include "text/jinja/unicode_special_case.h"

namespace baton::text::jinja {

size_t count_code_points(std::string_view utf8) {
  // Every byte but the continuation bytes (10xxxxxx), eight at a time.
  constexpr uint64_t kLowBits = 0x0101010101010101;
  size_t continuations = 0;
  size_t at = 0;
  for (; at + 8 <= utf8.size(); at += 8) {
    uint64_t bytes = 0;
    std::memcpy(&bytes, utf8.data() + at, 8);
    continuations += static_cast<size_t>(std::popcount((bytes >> 7) & ~(bytes >> 6) & kLowBits));
  }
  for (; at < utf8.size(); ++at) continuations += (static_cast<uint8_t>(utf8[at]) & 0xC0) == 0x80;
  return utf8.size() - continuations;
}

bool valid_utf8(std::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    if (static_cast<uint8_t>(bytes[at]) < 0x80) {
      ++at;
      continue;
    }
    utf8proc_int32_t c = 0;
    const auto* data = reinterpret_cast<const utf8proc_uint8_t*>(bytes.data()) + at;
    const auto used = utf8proc_iterate(data, static_cast<utf8proc_ssize_t>(bytes.size() - at), &c);
    if (used <= 0) return false;
    at += static_cast<size_t>(used);
  }
  return true;
}

char32_t next_code_point(std::string_view utf8, size_t& at) {
  const auto byte = [&](size_t i) { return i < utf8.size() ? static_cast<uint8_t>(utf8[i]) : uint8_t{0x80}; };
  const uint8_t lead = byte(at);
  size_t extra = 0;
  char32_t c = lead;
  if (lead >= 0xF0) {
    extra = 3;
    c = lead & 0x07U;
  } else if (lead >= 0xE0) {
    extra = 2;
    c = lead & 0x0FU;
  } else if (lead >= 0xC0) {
    extra = 1;
    c = lead & 0x1FU;
  }
  for (size_t i = 1; i <= extra; ++i) c = (c << 6) | (byte(at + i) & 0x3FU);
  at = std::min(at + extra + 1, utf8.size());
  return c;
}

void append_code_point(std::string& out, char32_t c) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
    return;
  }
  utf8proc_uint8_t bytes[4];
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(std::max<utf8proc_ssize_t>(count, 0)));
}

size_t byte_offset(std::string_view utf8, size_t index) {
  size_t at = 0;
  while (index > 0 && at < utf8.size()) {
    ++at;
    while (at < utf8.size() && (static_cast<uint8_t>(utf8[at]) & 0xC0) == 0x80) ++at;
    --index;
  }
  return at;
}

std::vector<std::string_view> split_code_points(std::string_view utf8) {
  std::vector<std::string_view> parts;
  size_t at = 0;
  while (at < utf8.size()) {
    const size_t begin = at;
    next_code_point(utf8, at);
    parts.push_back(utf8.substr(begin, at - begin));
  }
  return parts;
}

namespace {

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

const SpecialCase* special_case(char32_t c) {
  const auto* row = std::lower_bound(std::begin(kSpecialCases), std::end(kSpecialCases), c,
                                     [](const SpecialCase& s, char32_t x) { return s.from < x; });
  return row != std::end(kSpecialCases) && row->from == c ? row : nullptr;
}

void append_case(std::string& out, const char32_t (&sequence)[3]) {
  for (const char32_t c : sequence) {
    if (c != 0) append_code_point(out, c);
  }
}

void append_upper(std::string& out, char32_t c) {
  if (const SpecialCase* row = special_case(c)) return append_case(out, row->upper);
  append_code_point(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
}

void append_title(std::string& out, char32_t c) {
  if (const SpecialCase* row = special_case(c)) return append_case(out, row->title);
  append_code_point(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
}

bool is_cased(char32_t c) { return is_lower(c) || is_upper(c) || is_title(c); }

// Final_Sigma of Unicode 3.13: after a cased letter and not before one. Marks between are not skipped here
// but for the common combining ones.
bool is_final_sigma(std::string_view text, size_t begin, size_t end) {
  const auto ignorable = [](char32_t c) {
    const auto k = category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF ||
           k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' ||
           c == 0x2019;
  };
  bool before = false;
  size_t at = begin;
  while (at > 0) {
    do --at;
    while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
    size_t next = at;
    const char32_t c = next_code_point(text, next);
    if (ignorable(c)) continue;
    before = is_cased(c);
    break;
  }
  if (!before) return false;
  at = end;
  while (at < text.size()) {
    const char32_t c = next_code_point(text, at);
    if (ignorable(c)) continue;
    return !is_cased(c);
  }
  return true;
}

void append_lower(std::string& out, std::string_view text, size_t begin, size_t end) {
  size_t at = begin;
  const char32_t c = next_code_point(text, at);
  if (c == 0x130) {
    append_code_point(out, 'i');
    append_code_point(out, 0x307);
  } else if (c == 0x3A3) {
    append_code_point(out, is_final_sigma(text, begin, end) ? 0x3C2 : 0x3C3);
  } else {
    append_code_point(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

}  // namespace

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_alpha(char32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool is_decimal(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }

bool is_numeric(char32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO;
}

bool is_lower(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA || (c >= 0x24D0 && c <= 0x24E9) ||
         (c >= 0x2170 && c <= 0x217F);
}

bool is_upper(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LU || (c >= 0x24B6 && c <= 0x24CF) || (c >= 0x2160 && c <= 0x216F);
}

bool is_title(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  const auto k = category(c);
  return k != UTF8PROC_CATEGORY_CN && k < UTF8PROC_CATEGORY_ZS;
}

std::string to_upper(std::string_view utf8) {
  std::string out;
  out.reserve(utf8.size());
  for (size_t at = 0; at < utf8.size();) append_upper(out, next_code_point(utf8, at));
  return out;
}

std::string to_lower(std::string_view utf8) {
  std::string out;
  out.reserve(utf8.size());
  for (size_t at = 0; at < utf8.size();) {
    const size_t begin = at;
    next_code_point(utf8, at);
    append_lower(out, utf8, begin, at);
  }
  return out;
}

std::string to_title(std::string_view utf8) {
  std::string out;
  bool within_word = false;
  for (size_t at = 0; at < utf8.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(utf8, at);
    if (within_word) {
      append_lower(out, utf8, begin, at);
    } else {
      append_title(out, c);
    }
    within_word = is_cased(c);
  }
  return out;
}

std::string to_capitalized(std::string_view utf8) {
  std::string out;
  for (size_t at = 0; at < utf8.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(utf8, at);
    if (begin == 0) {
      append_title(out, c);
    } else {
      append_lower(out, utf8, begin, at);
    }
  }
  return out;
}

std::string swap_case(std::string_view utf8) {
  std::string out;
  for (size_t at = 0; at < utf8.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(utf8, at);
    if (is_upper(c)) {
      append_lower(out, utf8, begin, at);
    } else if (is_lower(c)) {
      append_upper(out, c);
    } else {
      append_code_point(out, c);
    }
  }
  return out;
}

namespace {

template <class Drop>
std::string_view strip_if(std::string_view text, bool left, bool right, const Drop& drop) {
  size_t begin = 0;
  while (left && begin < text.size()) {
    size_t next = begin;
    if (!drop(next_code_point(text, next))) break;
    begin = next;
  }
  size_t end = text.size();
  while (right && end > begin) {
    size_t last = end - 1;
    while (last > begin && (static_cast<uint8_t>(text[last]) & 0xC0) == 0x80) --last;
    size_t at = last;
    if (!drop(next_code_point(text, at))) break;
    end = last;
  }
  return text.substr(begin, end - begin);
}

}  // namespace

std::string_view strip(std::string_view text, bool left, bool right) {
  return strip_if(text, left, right, is_space);
}

std::string_view strip(std::string_view text, std::string_view chars, bool left, bool right) {
  std::vector<char32_t> set;
  for (size_t at = 0; at < chars.size();) set.push_back(next_code_point(chars, at));
  std::sort(set.begin(), set.end());
  return strip_if(text, left, right,
                  [&](char32_t c) { return std::binary_search(set.begin(), set.end(), c); });
}

}  // namespace baton::text::jinja
