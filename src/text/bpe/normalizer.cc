#include "text/bpe/normalizer.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

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

struct Free {
  void operator()(utf8proc_uint8_t* bytes) const { std::free(bytes); }
};

}  // namespace

Result<std::string_view> Normalizer::apply(std::string_view text, std::string& scratch) const {
  for (const NormalForm form : forms) {
    const unsigned char first = first_byte_that_matters(form);
    const bool unchanged =
        std::ranges::none_of(text, [&](char c) { return static_cast<unsigned char>(c) >= first; });
    if (unchanged) continue;
    utf8proc_uint8_t* mapped = nullptr;
    const utf8proc_ssize_t bytes =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                     static_cast<utf8proc_ssize_t>(text.size()), &mapped, options_of(form));
    const std::unique_ptr<utf8proc_uint8_t, Free> owner(mapped);
    if (bytes < 0) return fail(Code::kInvalid, fmt::format("normalizer: {}", utf8proc_errmsg(bytes)));
    scratch.assign(reinterpret_cast<const char*>(mapped), static_cast<size_t>(bytes));
    text = scratch;
  }
  return text;
}

}  // namespace baton::text::bpe
