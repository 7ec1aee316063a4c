#include <array>

#include "options/flags.h"

namespace baton::options {
namespace {

constexpr std::string_view kGroup = "Options";

constexpr auto kReplayFlags = std::to_array<Flag>({
    {.name = "--model", .values = "DIR", .group = kGroup, .help = "The checkpoint that the engine served."},
    {.name = "--request",
     .values = "FILE",
     .group = kGroup,
     .help = "Of a receipt that has no token ids: the request's body, whose prompt is tokenised."},
    {.name = "--help", .aliases = "-h", .kind = Kind::kSwitch, .group = kGroup, .help = "This text."},
});

constexpr auto kTopFlags = std::to_array<Flag>({
    {.name = "--once",
     .kind = Kind::kSwitch,
     .group = kGroup,
     .help = "One look, then exit; else one each second."},
    {.name = "--json", .kind = Kind::kSwitch, .group = kGroup, .help = "One line of JSON per look."},
    {.name = "--admin-key",
     .default_text = "none",
     .values = "KEY",
     .group = kGroup,
     .help = "Bearer token of the admin routes of the proxy and its instances; without one they answer on "
             "loopback "
             "only."},
    {.name = "--help", .aliases = "-h", .kind = Kind::kSwitch, .group = kGroup, .help = "This text."},
});

constexpr auto kTopVariables = std::to_array<Variable>({
    {"BATON_ADMIN_KEY", Treatment::kImplemented, "As --admin-key."},
});

constexpr auto kRandomCheckpointFlags = std::to_array<Flag>({
    {.name = "--tokenizer", .values = "DIR", .group = kGroup, .help = "Where a tokenizer.json is."},
    {.name = "--seed",
     .kind = Kind::kInteger,
     .default_text = "0",
     .values = "N",
     .group = kGroup,
     .help = "Of the weights: the same shape and seed give the same bytes everywhere."},
    {.name = "--help", .aliases = "-h", .kind = Kind::kSwitch, .group = kGroup, .help = "This text."},
});

}  // namespace

const Command& replay_command() {
  static constexpr Command kCommand{
      .name = "replay",
      .usage = "baton replay FILE --model DIR",
      .summary = "Does again what a flight record or a receipt tells of, and compares every bit.",
      .flags = kReplayFlags,
      .variables = {},
      .positional = "FILE",
  };
  return kCommand;
}

const Command& top_command() {
  static constexpr Command kCommand{
      .name = "top",
      .usage = "baton top PROXY [--once] [--json] [--admin-key KEY]",
      .summary = "Shows every request of a proxy (HOST:PORT) and its instances, and what each waits for.",
      .flags = kTopFlags,
      .variables = kTopVariables,
      .positional = "PROXY",
  };
  return kCommand;
}

const Command& random_checkpoint_command() {
  static constexpr Command kCommand{
      .name = "random-checkpoint",
      .usage = "baton random-checkpoint SHAPE DIRECTORY --tokenizer DIR",
      .summary = "Writes a checkpoint with random weights of a real model's shape; its answers are noise.",
      .flags = kRandomCheckpointFlags,
      .variables = {},
      .positional = "SHAPE DIRECTORY",
  };
  return kCommand;
}

}  // namespace baton::options
