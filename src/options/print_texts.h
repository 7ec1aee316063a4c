// `baton man [COMMAND]` and `baton completion SHELL`: the tables as texts for an installation.
#pragma once

#include <span>
#include <string>

namespace baton::options {

// Prints to stdout and returns the exit status; 2 with a sentence on stderr for words that do not fit.
int run_man(std::span<const std::string> arguments);
int run_completion(std::span<const std::string> arguments);

}  // namespace baton::options
