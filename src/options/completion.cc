#include <fmt/format.h>

#include <vector>

#include "options/help.h"
#include "options/spelling.h"

namespace baton::options {
namespace {

constexpr std::string_view kShells = "bash|zsh|fish";

// What may follow a flag.
enum class Follows { kNothing, kChoice, kDirectory, kFile, kOther };

Follows follows(const Flag& flag) {
  if (flag.kind == Kind::kSwitch) return Follows::kNothing;
  if (flag.kind == Kind::kChoice) return Follows::kChoice;
  if (flag.values == "DIR") return Follows::kDirectory;
  if (flag.values.starts_with("FILE")) return Follows::kFile;
  return Follows::kOther;
}

bool is_offered(const Flag& flag) {
  return flag.treatment == Treatment::kImplemented || flag.treatment == Treatment::kMapped;
}

// Every spelling of a flag that starts with two dashes, and of its negation.
std::vector<std::string> spellings(const Flag& flag) {
  std::vector<std::string> found{std::string(flag.name)};
  if (flag.negatable) found.push_back(fmt::format("--no-{}", flag.name.substr(2)));
  return found;
}

std::string choices(const Flag& flag) {
  std::string out;
  split(flag.values, '|',
        [&](std::string_view value) { out += fmt::format("{}{}", out.empty() ? "" : " ", value); });
  return out;
}

std::string command_names() {
  std::string out;
  for (const Command& command : commands()) out += fmt::format("{}{}", out.empty() ? "" : " ", command.name);
  return out;
}

// Single quotes for every shell; fish wants its own escape of a quote.
std::string quoted(std::string_view text, std::string_view quote_inside) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') {
      out += quote_inside;
    } else {
      out += c;
    }
  }
  return out + "'";
}

std::string bash_script() {
  std::string out =
      "# bash completion of baton(1)\n"
      "_baton() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} flags=\n"
      "  COMPREPLY=()\n";
  out += fmt::format(
      "  if [ \"$COMP_CWORD\" = 1 ]; then\n    COMPREPLY=($(compgen -W '{} --help --version' -- \"$word\"))\n"
      "    return\n  fi\n",
      command_names());
  out += "  case ${COMP_WORDS[1]} in\n";
  for (const Command& command : commands()) {
    out += fmt::format("    {})\n      case $before in\n", command.name);
    std::string all;
    for (const Flag& flag : command.flags) {
      if (!is_offered(flag)) continue;
      for (const std::string& spelling : spellings(flag))
        all += fmt::format("{}{}", all.empty() ? "" : " ", spelling);
      switch (follows(flag)) {
        case Follows::kNothing:
          break;
        case Follows::kChoice:
          out += fmt::format("        {}) COMPREPLY=($(compgen -W '{}' -- \"$word\")); return ;;\n",
                             flag.name, choices(flag));
          break;
        case Follows::kDirectory:
          out += fmt::format("        {}) COMPREPLY=($(compgen -d -- \"$word\")); return ;;\n", flag.name);
          break;
        case Follows::kFile:
          out += fmt::format("        {}) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n", flag.name);
          break;
        case Follows::kOther:
          out += fmt::format("        {}) return ;;\n", flag.name);
          break;
      }
    }
    out += fmt::format("      esac\n      flags='{}' ;;\n", all);
  }
  out +=
      "    *) return ;;\n"
      "  esac\n"
      "  case $word in\n"
      "    -*) COMPREPLY=($(compgen -W \"$flags\" -- \"$word\")) ;;\n"
      "    *) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n"
      "  esac\n"
      "}\n"
      "complete -o filenames -F _baton baton\n";
  return out;
}

// A description inside an _arguments specification: brackets and colons mean something there.
std::string zsh_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_action(const Flag& flag) {
  switch (follows(flag)) {
    case Follows::kNothing:
      return "";
    case Follows::kChoice:
      return fmt::format(":value:({})", choices(flag));
    case Follows::kDirectory:
      return ":directory:_files -/";
    case Follows::kFile:
      return ":file:_files";
    case Follows::kOther:
      return fmt::format(":{}: ", zsh_text(flag.values));
  }
  return "";
}

std::string zsh_script() {
  constexpr std::string_view kQuote = "'\\''";
  std::string out = "#compdef baton\n# zsh completion of baton(1)\n_baton() {\n  local -a names=(\n";
  for (const Command& command : commands()) {
    out += fmt::format("    {}\n", quoted(fmt::format("{}:{}", command.name, command.summary), kQuote));
  }
  out +=
      "  )\n  if (( CURRENT == 2 )); then\n    _describe command names\n    return\n  fi\n"
      "  local name=$words[2]\n  words=(\"${(@)words[2,-1]}\")\n  (( CURRENT-- ))\n  case $name in\n";
  for (const Command& command : commands()) {
    out += fmt::format("    {})\n      _arguments \\\n", command.name);
    for (const Flag& flag : command.flags) {
      if (!is_offered(flag)) continue;
      for (const std::string& spelling : spellings(flag)) {
        out += fmt::format(
            "        {} \\\n",
            quoted(fmt::format("*{}[{}]{}", spelling, zsh_text(flag.help), zsh_action(flag)), kQuote));
      }
    }
    out += "        '*:file:_files' ;;\n";
  }
  return out + "  esac\n}\n_baton \"$@\"\n";
}

std::string fish_script() {
  constexpr std::string_view kQuote = "\\'";
  std::string out = "# fish completion of baton(1)\n";
  for (const Command& command : commands()) {
    out += fmt::format("complete -c baton -n __fish_use_subcommand -f -a {} -d {}\n", command.name,
                       quoted(command.summary, kQuote));
    for (const Flag& flag : command.flags) {
      if (!is_offered(flag)) continue;
      for (const std::string& spelling : spellings(flag)) {
        out += fmt::format("complete -c baton -n '__fish_seen_subcommand_from {}' -l {} -d {}", command.name,
                           spelling.substr(2), quoted(flag.help, kQuote));
        switch (follows(flag)) {
          case Follows::kNothing:
            break;
          case Follows::kChoice:
            out += fmt::format(" -x -a '{}'", choices(flag));
            break;
          case Follows::kDirectory:
            out += " -x -a '(__fish_complete_directories)'";
            break;
          case Follows::kFile:
            out += " -r -F";
            break;
          case Follows::kOther:
            out += " -x";
            break;
        }
        out += '\n';
      }
    }
  }
  return out;
}

}  // namespace

Result<std::string> completion_script(std::string_view shell) {
  if (shell == "bash") return bash_script();
  if (shell == "zsh") return zsh_script();
  if (shell == "fish") return fish_script();
  return fail(Code::kInvalid, fmt::format("{}: not a shell that is known, expected one of {}", excerpt(shell),
                                          listed(kShells)));
}

}  // namespace baton::options
