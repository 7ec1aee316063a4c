// What a table says to people: --help, man pages, and a Markdown table for the documentation.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "base/result.h"
#include "options/flags.h"

namespace baton::options {

// What a command's end says to its supervisor. docs/exit-status.md has the same table.
struct ExitStatus {
  int status = 0;
  std::string_view meaning;
};
inline constexpr auto kExitStatuses = std::to_array<ExitStatus>({
    {0, "It did what it was asked, or was ended by SIGTERM or SIGINT and let what ran end."},
    {1, "It could not: a file, a port or the machine is not as expected. stderr says which, in a sentence."},
    {2, "The command line is wrong. stderr names flag, value and expectation; nothing was loaded."},
    {74, "A weights file was truncated while it was mapped. stderr names file, byte and tensor."},
    {134, "A broken invariant (SIGABRT). stderr names it and the flight record for baton replay."},
});

// Grouped and aligned, at most 100 columns.
std::string help_text(const Command& command);

// roff for man(1), section 1: "baton-serve(1)".
std::string man_page(const Command& command);

// baton(1): the commands in a line each.
std::string overview_page();

// A completion script of every command, its flags, their choices, files and directories. kInvalid unless
// `shell` is bash, zsh or fish.
Result<std::string> completion_script(std::string_view shell);

// | Flag | Type, default | Meaning | What Baton does |
std::string markdown_table(const Command& command);

}  // namespace baton::options
