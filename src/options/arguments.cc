#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "options/flags.h"
#include "options/spelling.h"

extern char** environ;  // POSIX; NOLINT

namespace baton::options {
namespace {

Failure refuse(std::string_view flag, std::string_view value, std::string_view expectation) {
  return fail(Code::kInvalid, fmt::format("{}: {}, expected {}", flag, excerpt(value), expectation));
}

Result<int64_t> read_integer(const Flag& flag, std::string_view text, int64_t least, int64_t most) {
  const std::string expectation = fmt::format("an integer from {} to {}", least, most);
  if (flag.kind == Kind::kHumanInteger) {
    const auto number = parse_human_integer(text);
    if (!number) return fail(Code::kInvalid, fmt::format("{}: {}", flag.name, number.error().message));
    if (*number < least || *number > most) return refuse(flag.name, text, expectation);
    return *number;
  }
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number < least || number > most) {
    return refuse(flag.name, text, expectation);
  }
  return number;
}

}  // namespace

Environment process_environment() {
  Environment variables;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    variables.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return variables;
}

const Given* Arguments::find(std::string_view flag) const {
  const auto at = given.find(flag);
  return at == given.end() ? nullptr : &at->second;
}

std::optional<bool> Arguments::switched(std::string_view flag) const {
  const Given* value = find(flag);
  if (value == nullptr) return std::nullopt;
  return value->texts.back() == "true";
}

std::optional<std::string> Arguments::text(std::string_view flag) const {
  const Given* value = find(flag);
  if (value == nullptr) return std::nullopt;
  return value->texts.back();
}

std::vector<std::string> Arguments::texts(std::string_view flag) const {
  const Given* value = find(flag);
  return value == nullptr ? std::vector<std::string>{} : value->texts;
}

Result<std::optional<int64_t>> Arguments::integer(std::string_view flag, int64_t least, int64_t most) const {
  const Given* value = find(flag);
  if (value == nullptr) return std::nullopt;
  TRY(const int64_t number, read_integer(*value->flag, value->texts.back(), least, most));
  return number;
}

Result<std::vector<int64_t>> Arguments::integers(std::string_view flag, int64_t least, int64_t most) const {
  std::vector<int64_t> numbers;
  const Given* value = find(flag);
  if (value == nullptr) return numbers;
  for (const std::string& text : value->texts) {
    TRY(const int64_t number, read_integer(*value->flag, text, least, most));
    numbers.push_back(number);
  }
  return numbers;
}

Result<std::optional<double>> Arguments::number(std::string_view flag, double least, double most) const {
  const Given* value = find(flag);
  if (value == nullptr) return std::nullopt;
  const std::string& text = value->texts.back();
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool fits =
      error == std::errc{} && end == text.data() + text.size() && number >= least && number <= most;
  if (!fits) return refuse(flag, text, fmt::format("a number from {} to {}", least, most));
  return number;
}

Result<void> Arguments::filled(std::string_view flag) const {
  for (const std::string& text : texts(flag)) {
    if (text.empty())
      return fail(Code::kInvalid, fmt::format("{}: empty, expected at least one character", flag));
  }
  return {};
}

const json::object* Arguments::object(std::string_view flag) const {
  const Given* value = find(flag);
  return value == nullptr ? nullptr : &value->object;
}

}  // namespace baton::options
