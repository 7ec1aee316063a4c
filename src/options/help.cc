#include "options/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "options/spelling.h"

namespace baton::options {
namespace {

constexpr size_t kColumns = 100;
constexpr size_t kHelpColumn = 34;

std::vector<std::string_view> groups_of(const Command& command) {
  std::vector<std::string_view> groups;
  for (const Flag& flag : command.flags) {
    if (std::ranges::find(groups, flag.group) == groups.end()) groups.push_back(flag.group);
  }
  return groups;
}

// "-tp, --tensor-parallel-size N"
std::string spelled(const Flag& flag) {
  std::string out;
  split(flag.aliases, ' ', [&](std::string_view alias) {
    if (alias.size() > 1 && alias[1] != '-') out += fmt::format("{}, ", alias);
  });
  out += flag.name;
  if (flag.kind == Kind::kSwitch && flag.negatable) out += fmt::format(", --no-{}", flag.name.substr(2));
  if (flag.kind != Kind::kSwitch && !flag.values.empty()) out += fmt::format(" {}", flag.values);
  return out;
}

std::string meaning(const Flag& flag) {
  std::string out(flag.help);
  if (flag.treatment == Treatment::kNoEffect) out = fmt::format("No effect. {}", flag.help);
  if (!flag.default_text.empty()) out += fmt::format(" Default: {}.", flag.default_text);
  return out;
}

void append_wrapped(std::string& out, std::string_view text, size_t column, size_t indent) {
  split(text, ' ', [&](std::string_view word) {
    if (column + word.size() + 1 > kColumns && column > indent) {
      out += '\n';
      out.append(indent, ' ');
      column = indent;
    }
    if (column > indent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
  });
  out += '\n';
}

void append_entry(std::string& out, const std::string& name, std::string_view text) {
  out += "  " + name;
  size_t column = name.size() + 2;
  if (column + 2 > kHelpColumn) {
    out += '\n';
    column = 0;
  }
  out.append(kHelpColumn - column, ' ');
  append_wrapped(out, text, kHelpColumn, kHelpColumn);
}

bool is_listed(const Flag& flag) { return flag.treatment != Treatment::kRejected; }

// roff: a line's first dot or quote, dashes and backslashes would otherwise mean something.
std::string roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if ((c == '.' || c == '\'') && out.empty()) {
      out += "\\&";
      out += c;
    } else {
      out += c;
    }
  }
  return out;
}

std::string upper(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return out;
}

std::string_view treatment_text(const Flag& flag) {
  switch (flag.treatment) {
    case Treatment::kImplemented:
      return "implemented";
    case Treatment::kMapped:
      return "mapped";
    case Treatment::kNoEffect:
      return "accepted, no effect";
    case Treatment::kRejected:
      return "refused";
  }
  return "";
}

// `|` ends a cell of a Markdown table.
std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::span<const Command> commands() {
  static const std::array<Command, 5> commands_in_order = {serve_command(), proxy_command(), top_command(),
                                                           replay_command(), random_checkpoint_command()};
  return commands_in_order;
}

std::string help_text(const Command& command) {
  std::string out = "usage: ";
  append_wrapped(out, command.usage, 7, 7);
  out += '\n';
  append_wrapped(out, command.summary, 0, 0);
  for (const std::string_view group : groups_of(command)) {
    out += fmt::format("\n{}:\n", group);
    for (const Flag& flag : command.flags) {
      if (flag.group == group && is_listed(flag)) append_entry(out, spelled(flag), meaning(flag));
    }
  }
  if (!command.variables.empty()) out += "\nVariables:\n";
  for (const Variable& variable : command.variables) {
    if (variable.treatment != Treatment::kNoEffect)
      append_entry(out, std::string(variable.name), variable.help);
  }
  return out;
}

std::string man_page(const Command& command) {
  std::string out =
      fmt::format(".TH BATON\\-{} 1\n.SH NAME\nbaton\\-{} \\- {}\n.SH SYNOPSIS\n{}\n", upper(command.name),
                  command.name, roff(command.summary), roff(command.usage));
  for (const std::string_view group : groups_of(command)) {
    out += fmt::format(".SH \"{}\"\n", upper(group));
    for (const Flag& flag : command.flags) {
      if (flag.group != group || !is_listed(flag)) continue;
      out += fmt::format(".TP\n.B {}\n{}\n", roff(spelled(flag)), roff(meaning(flag)));
    }
  }
  if (!command.variables.empty()) out += ".SH ENVIRONMENT\n";
  for (const Variable& variable : command.variables) {
    out += fmt::format(".TP\n.B {}\n{}\n", roff(variable.name), roff(variable.help));
  }
  out += ".SH \"EXIT STATUS\"\n";
  for (const ExitStatus& exit : kExitStatuses) {
    out += fmt::format(".TP\n.B {}\n{}\n", exit.status, roff(exit.meaning));
  }
  return out;
}

std::string overview_page() {
  std::string out =
      ".TH BATON 1\n.SH NAME\nbaton \\- serves language models, prefill and decode on separate instances\n"
      ".SH SYNOPSIS\nbaton COMMAND [options]\n.SH COMMANDS\n";
  for (const Command& command : commands()) {
    out += fmt::format(".TP\n.B {}\n{} See baton\\-{}(1).\n", roff(command.name), roff(command.summary),
                       roff(command.name));
  }
  return out;
}

std::string markdown_table(const Command& command) {
  std::string out = "| Flag | Default | Meaning | Baton |\n|---|---|---|---|\n";
  for (const Flag& flag : command.flags) {
    out += fmt::format("| `{}` | {} | {} | {} |\n", cell(spelled(flag)), cell(flag.default_text),
                       cell(flag.help), treatment_text(flag));
  }
  out += "\n| Variable | Meaning |\n|---|---|\n";
  for (const Variable& variable : command.variables) {
    out += fmt::format("| `{}` | {} |\n", cell(variable.name), cell(variable.help));
  }
  return out;
}

}  // namespace baton::options
