// `baton replay FILE --model DIRECTORY`: steps a new engine through a flight record and compares every step's
// outbox.
#pragma once

#include <span>
#include <string>

namespace baton::serve {

// 0: every bit is the same; 1: a step differed, or the record cannot be replayed here; 2: bad command line.
int run_replay(std::span<const std::string> arguments);

}  // namespace baton::serve
