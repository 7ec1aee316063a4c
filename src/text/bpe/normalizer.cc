#include "text/bpe/normalizer.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "text/utf8.h"

namespace baton::text::bpe {

namespace {

// The lowest character that a form may change, or that composes with one before it, as its first UTF-8 byte:
// U+0300 (CC 80) for NFC, U+00A0 (C2 A0) for the others.
constexpr unsigned char first_byte_that_matters(NormalForm form) {
  return form == NormalForm::kNfc ? 0xCC : 0xC2;
}

constexpr utf8proc_option_t options_of(NormalForm form) {
  unsigned options = UTF8PROC_STABLE;
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  options |= compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  return static_cast<utf8proc_option_t>(options);
}

utf8proc_propval_t combining_class(utf8proc_int32_t point) {
  return utf8proc_get_property(point)->combining_class;
}

struct Mark {
  utf8proc_propval_t combining_class;
  std::ptrdiff_t place;  // in its run: marks of one class keep their order
  utf8proc_int32_t point;
};

// Sorts every run of characters that combine, stably, by class (Unicode 15.0, D109). utf8proc_map exchanges
// neighbours instead, in the square of a run's length.
void order_canonically(std::span<utf8proc_int32_t> points) {
  const auto combines = [](utf8proc_int32_t point) { return combining_class(point) != 0; };
  for (auto at = points.begin(); at != points.end();) {
    const auto begin = std::find_if(at, points.end(), combines);
    at = std::find_if_not(begin, points.end(), combines);
    if (std::ranges::is_sorted(begin, at, {}, combining_class)) continue;
    std::vector<Mark> marks;
    for (auto mark = begin; mark != at; ++mark)
      marks.push_back({combining_class(*mark), mark - begin, *mark});
    std::ranges::sort(marks, {},
                      [](const Mark& mark) { return std::pair(mark.combining_class, mark.place); });
    std::ranges::transform(marks, begin, &Mark::point);
  }
}

constexpr size_t kDecomposedMax = 32;  // of one character; the longest, U+FDFA, has 18

Result<void> normalize(std::string_view text, utf8proc_option_t options, std::string& normalized) {
  const auto failed = [](utf8proc_ssize_t code) {
    return fail(Code::kInvalid, fmt::format("normalizer: {}", utf8proc_errmsg(code)));
  };
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  std::array<utf8proc_int32_t, kDecomposedMax> decomposed{};
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t point = 0;
    const utf8proc_ssize_t bytes = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(&text[at]),
                                                    static_cast<utf8proc_ssize_t>(text.size() - at), &point);
    if (bytes < 0) return failed(bytes);
    at += static_cast<size_t>(bytes);
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(point, decomposed.data(), kDecomposedMax, options, nullptr);
    if (count < 0) return failed(count);
    CHECK(static_cast<size_t>(count) <= kDecomposedMax, "U+{:04X} becomes {} characters", point, count);
    points.insert(points.end(), decomposed.begin(), decomposed.begin() + count);
  }
  order_canonically(points);
  const utf8proc_ssize_t kept =
      utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()), options);
  if (kept < 0) return failed(kept);
  points.resize(static_cast<size_t>(kept));
  normalized.clear();
  for (const utf8proc_int32_t point : points) append_utf8(normalized, static_cast<char32_t>(point));
  return {};
}

}  // namespace

Result<std::string_view> Normalizer::apply(std::string_view text, std::string& scratch) const {
  for (const NormalForm form : forms) {
    const unsigned char first = first_byte_that_matters(form);
    const bool unchanged =
        std::ranges::none_of(text, [&](char c) { return static_cast<unsigned char>(c) >= first; });
    if (unchanged) continue;
    std::string normalized;
    TRY_DO(normalize(text, options_of(form), normalized));
    scratch = std::move(normalized);
    text = scratch;
  }
  return text;
}

}  // namespace baton::text::bpe
