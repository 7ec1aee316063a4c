#include "options/spelling.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/parse.hpp>
#include <boost/json/parser.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <cmath>

namespace baton::options {
namespace {

constexpr size_t kExcerptBytesMax = 64;
constexpr double kWholeMax = 9007199254740992.0;  // 2^53

// Edits (insert, delete, replace, swap of neighbours) between two words: the optimal string alignment
// distance.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> table(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        table[i][j] = i + j;
        continue;
      }
      const size_t replaced = table[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      size_t best = std::min({table[i - 1][j] + 1, table[i][j - 1] + 1, replaced});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) best = std::min(best, table[i - 2][j - 2] + 1);
      table[i][j] = best;
    }
  }
  return table[a.size()][b.size()];
}

std::string bare(std::string_view word) {
  std::string out;
  for (const char c : word) {
    if (c == '-' && out.empty()) continue;
    out += c == '_' ? '-' : c;
  }
  return out;
}

}  // namespace

std::string normalised_name(std::string_view name) {
  std::string out(name);
  const size_t end = std::min(name.find_first_of(".="), name.size());
  std::replace(out.begin(), out.begin() + static_cast<ptrdiff_t>(end), '_', '-');
  return out;
}

std::string listed(std::string_view values) {
  std::string out;
  split(values, '|', [&](std::string_view value) { out += (out.empty() ? "" : ", ") + std::string(value); });
  return out;
}

void split(std::string_view text, char separator, const std::function<void(std::string_view)>& visit) {
  while (true) {
    const size_t at = text.find(separator);
    visit(text.substr(0, at));
    if (at == std::string_view::npos) return;
    text.remove_prefix(at + 1);
  }
}

json::value read_value(std::string_view text) {
  json::parse_options bounds;
  bounds.max_depth = kJsonDepthMax;
  json::error_code error;
  json::value value = json::parse(text, error, {}, bounds);
  if (error) return json::string(text);
  return value;
}

Result<json::object> read_object(std::string_view flag, std::string_view text) {
  json::parse_options bounds;
  bounds.max_depth = kJsonDepthMax;
  json::parser parser({}, bounds);
  json::error_code error;
  const size_t read = parser.write_some(text.data(), text.size(), error);
  if (!error && read < text.size()) error = json::error::extra_data;
  if (error) {
    return fail(Code::kInvalid, fmt::format("{}: {}, expected a JSON object (at byte {}: {})", flag,
                                            excerpt(text), read, error.message()));
  }
  json::value value = parser.release();
  if (!value.is_object()) {
    return fail(Code::kInvalid, fmt::format("{}: {}, expected a JSON object", flag, excerpt(text)));
  }
  return std::move(value.get_object());
}

std::string excerpt(std::string_view text) {
  if (text.size() <= kExcerptBytesMax) return std::string(text);
  return std::string(text.substr(0, kExcerptBytesMax - 3)) + "...";
}

std::string excerpt(const json::value& value) {
  if (const double* number = value.if_double()) return fmt::format("{}", *number);  // 1.5, not 1.5E0
  return excerpt(json::serialize(value));
}

std::optional<int64_t> lax_integer(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  if (value.is_double() && std::trunc(value.get_double()) == value.get_double() &&
      std::fabs(value.get_double()) <= kWholeMax) {
    return static_cast<int64_t>(value.get_double());
  }
  if (!value.is_string()) return std::nullopt;
  const std::string_view text = value.get_string();
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<bool> lax_switch(const json::value& value) {
  if (value.is_bool()) return value.get_bool();
  if (value.is_int64() && (value.get_int64() == 0 || value.get_int64() == 1)) return value.get_int64() == 1;
  if (!value.is_string()) return std::nullopt;
  const std::string_view text = value.get_string();
  if (text == "true" || text == "True" || text == "1") return true;
  if (text == "false" || text == "False" || text == "0") return false;
  return std::nullopt;
}

Result<int64_t> parse_human_integer(std::string_view text) {
  constexpr std::string_view kLetters = "kmgt";
  const auto refuse = [text] {
    return fail(
        Code::kInvalid,
        fmt::format("{}, expected a whole number such as 40000, 40k (40000) or 40K (40960)", excerpt(text)));
  };
  if (text.empty()) return refuse();
  const char last = text.back();
  const char lower = static_cast<char>(last | 0x20);
  const size_t power = kLetters.find(lower);
  const bool has_letter = power != std::string_view::npos;
  const std::string_view digits = has_letter ? text.substr(0, text.size() - 1) : text;
  const bool binary = has_letter && last != lower;
  double scale = 1;
  for (size_t i = 0; has_letter && i <= power; ++i) scale *= binary ? 1024 : 1000;

  double number = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), number, std::chars_format::fixed);
  if (error != std::errc{} || end != digits.data() + digits.size()) return refuse();
  const bool whole = digits.find('.') == std::string_view::npos;
  if (!whole && (binary || !has_letter)) return refuse();
  const double value = std::trunc(number * scale);
  if (std::fabs(value) > kWholeMax) return refuse();
  return static_cast<int64_t>(value);
}

std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates) {
  constexpr size_t kWordBytesMax = 64;
  if (word.size() > kWordBytesMax) return {};
  const std::string sought = bare(word);
  std::string_view best;
  size_t best_distance = sought.size() / 3 + 1;
  for (const std::string_view candidate : candidates) {
    if (candidate.size() > kWordBytesMax) continue;
    const size_t distance = edit_distance(sought, bare(candidate));
    if (distance >= best_distance) continue;
    best = candidate;
    best_distance = distance;
  }
  return std::string(best);
}

}  // namespace baton::options
