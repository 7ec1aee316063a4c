#include "options/tool_options.h"

#include <fmt/format.h>

#include "options/spelling.h"

namespace baton::options {
namespace {

// Every word of `command.positional` must be there, and no other.
Result<void> check_positionals(const Command& command, const Arguments& given) {
  size_t expected = 0;
  std::string missing;
  split(command.positional, ' ', [&](std::string_view name) {
    if (expected++ == given.positionals.size()) missing = name;
  });
  if (!missing.empty())
    return fail(Code::kInvalid, fmt::format("{}: missing, expected {}", missing, command.usage));
  if (given.positionals.size() == expected) return {};
  return fail(Code::kInvalid, fmt::format("{}: one word too many, expected {}",
                                          excerpt(given.positionals[expected]), command.usage));
}

Result<std::string> needed(const Command& command, const Arguments& given, std::string_view flag) {
  auto value = given.text(flag);
  if (value) return *std::move(value);
  return fail(Code::kInvalid, fmt::format("{}: missing, expected {}", flag, command.usage));
}

}  // namespace

Result<TopOptions> parse_top(std::span<const std::string> argv, const Environment& environment) {
  const Command& command = top_command();
  TRY(const Arguments given, parse_arguments(command, argv));
  TopOptions options;
  options.help = given.help;
  if (given.help) return options;
  TRY_DO(check_positionals(command, given));
  TRY(options.proxy, parse_endpoint(given.positionals[0]));
  options.once = given.switched("--once").value_or(false);
  options.json = given.switched("--json").value_or(false);
  const auto variable = environment.find("BATON_ADMIN_KEY");
  options.admin_key =
      given.text("--admin-key").value_or(variable == environment.end() ? "" : variable->second);
  return options;
}

Result<ReplayOptions> parse_replay(std::span<const std::string> argv) {
  const Command& command = replay_command();
  TRY(const Arguments given, parse_arguments(command, argv));
  ReplayOptions options;
  options.help = given.help;
  if (given.help) return options;
  TRY_DO(check_positionals(command, given));
  options.file = given.positionals[0];
  TRY(options.model, needed(command, given, "--model"));
  options.request = given.text("--request").value_or("");
  return options;
}

Result<RandomCheckpointOptions> parse_random_checkpoint(std::span<const std::string> argv) {
  const Command& command = random_checkpoint_command();
  TRY(const Arguments given, parse_arguments(command, argv));
  RandomCheckpointOptions options;
  options.help = given.help;
  if (given.help) return options;
  TRY_DO(check_positionals(command, given));
  options.shape = given.positionals[0];
  options.directory = given.positionals[1];
  TRY(options.tokenizer, needed(command, given, "--tokenizer"));
  TRY(const auto seed, given.integer("--seed", 0, INT64_MAX));
  if (seed) options.seed = static_cast<uint64_t>(*seed);
  return options;
}

}  // namespace baton::options
