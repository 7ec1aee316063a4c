// The door: a table of commands, nothing else.
#include <fmt/format.h>

#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "options/flags.h"
#include "options/print_texts.h"
#include "proxy/proxy.h"
#include "serve/replay.h"
#include "serve/serve.h"
#include "serve/write_checkpoint.h"
#include "top/top.h"

namespace {

struct Command {
  std::string_view name;
  int (*run)(std::span<const std::string> arguments);
  std::string_view help;
};

constexpr Command kCommands[] = {
    {"serve", baton::serve::run, "one engine instance behind an OpenAI-compatible API; role P, D or both"},
    {"proxy", baton::proxy::run, "takes clients' requests, picks P and D, relays the stream"},
    {"top", baton::top::run, "shows every request of a cluster with what it waits for"},
    {"replay", baton::serve::run_replay, "does again what a flight record or a receipt tells of, to the bit"},
    {"random-checkpoint", baton::serve::run_write_checkpoint,
     "writes random weights of a real model's shape"},
    {"man", baton::options::run_man, "prints the manual page of a command"},
    {"completion", baton::options::run_completion, "prints a completion script for bash, zsh or fish"},
};

int usage(std::FILE* out) {
  fmt::print(out, "usage: baton COMMAND [options]\n\n");
  for (const Command& command : kCommands) fmt::print(out, "  {:18} {}\n", command.name, command.help);
  fmt::print(out,
             "\n`baton COMMAND --help` lists the options of a command; `baton --version` says which build "
             "this is.\n");
  return out == stdout ? 0 : 2;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.empty()) return usage(stderr);
  if (words[0] == "--help" || words[0] == "-h" || words[0] == "help") return usage(stdout);
  if (words[0] == "--version") {
    fmt::print("baton {}\n", BATON_VERSION);
    return 0;
  }
  std::vector<std::string_view> names;
  for (const Command& command : kCommands) {
    if (command.name == words[0]) return command.run(std::span(words).subspan(1));
    names.push_back(command.name);
  }
  const std::string meant = baton::options::did_you_mean(words[0], names);
  fmt::print(stderr, "baton: unknown command '{}'{}\n\n", words[0],
             meant.empty() ? "" : fmt::format(" (did you mean {}?)", meant));
  return usage(stderr);
}
