// `baton replay FILE --model DIRECTORY`: does again what the file tells of and compares. A flight record
// (engine/ recorder.h) steps a new engine, outbox by outbox; a receipt (api/receipt.h), alone or in an
// answer, is computed again. Which of the two a file is, its first bytes say.
#pragma once

#include <span>
#include <string>

namespace baton::serve {

// 0: every bit is the same; 1: something differed, or the file cannot be replayed here; 2: bad command line.
int run_replay(std::span<const std::string> arguments);

}  // namespace baton::serve
