#include "options/print_texts.h"

#include <fmt/format.h>

#include <cstdio>
#include <vector>

#include "options/help.h"
#include "options/spelling.h"

namespace baton::options {
namespace {

constexpr std::string_view kManUsage = "usage: baton man [COMMAND]\n";
constexpr std::string_view kCompletionUsage = "usage: baton completion bash|zsh|fish\n";

bool asks_for_help(std::span<const std::string> arguments) {
  return !arguments.empty() && (arguments[0] == "--help" || arguments[0] == "-h");
}

}  // namespace

int run_man(std::span<const std::string> arguments) {
  if (asks_for_help(arguments)) {
    fmt::print("{}", kManUsage);
    return 0;
  }
  if (arguments.empty()) {
    fmt::print("{}", overview_page());
    return 0;
  }
  std::vector<std::string_view> names;
  for (const Command& command : commands()) {
    names.push_back(command.name);
    if (command.name != arguments[0] || arguments.size() > 1) continue;
    fmt::print("{}", man_page(command));
    return 0;
  }
  const std::string meant = did_you_mean(arguments[0], names);
  fmt::print(stderr, "baton man: {}: not a command with a page{}, expected one of {}\n",
             excerpt(arguments[0]), meant.empty() ? "" : fmt::format(" (did you mean {}?)", meant),
             fmt::join(names, ", "));
  return 2;
}

int run_completion(std::span<const std::string> arguments) {
  if (asks_for_help(arguments)) {
    fmt::print("{}", kCompletionUsage);
    return 0;
  }
  if (arguments.size() != 1) {
    fmt::print(stderr, "{}", kCompletionUsage);
    return 2;
  }
  const auto script = completion_script(arguments[0]);
  if (!script) {
    fmt::print(stderr, "baton completion: {}\n", script.error().message);
    return 2;
  }
  fmt::print("{}", *script);
  return 0;
}

}  // namespace baton::options
