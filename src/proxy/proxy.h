// `baton proxy`: takes clients' requests, has each prefilled by one instance and decoded by another, relays
// the stream.
#pragma once

#include <span>
#include <string>

namespace baton::proxy {

// Runs until SIGTERM or SIGINT. The process's exit code: 0, 1 (could not listen), 2 (bad command line).
int run(std::span<const std::string> arguments);

}  // namespace baton::proxy
