// `baton serve MODEL`: one engine instance behind an OpenAI-compatible API.
#pragma once

#include <span>
#include <string>

namespace baton::serve {

// Runs until SIGTERM or SIGINT. The process's exit code: 0, 1 (could not listen or load), 2 (bad command
// line).
int run(std::span<const std::string> arguments);

}  // namespace baton::serve
