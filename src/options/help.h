// What a table says to people: --help, man pages, and a Markdown table for the documentation.
#pragma once

#include <string>

#include "options/flags.h"

namespace baton::options {

// Grouped and aligned, at most 100 columns.
std::string help_text(const Command& command);

// roff for man(1), section 1: "baton-serve(1)".
std::string man_page(const Command& command);

// | Flag | Type, default | Meaning | What Baton does |
std::string markdown_table(const Command& command);

}  // namespace baton::options
