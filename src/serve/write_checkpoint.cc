#include "serve/write_checkpoint.h"

#include <fmt/format.h>

#include <cstdio>

#include "checkpoint/random_checkpoint.h"

namespace baton::serve {

int run_write_checkpoint(std::span<const std::string> arguments) {
  if (arguments.size() != 4 || arguments[2] != "--tokenizer") {
    fmt::print(stderr,
               "usage: baton random-checkpoint SHAPE DIRECTORY --tokenizer DIRECTORY\n"
               "  SHAPE      one of: {}\n"
               "  DIRECTORY  is created; --tokenizer names one that holds a tokenizer.json\n",
               fmt::join(checkpoint::random_checkpoint_shapes(), ", "));
    return 2;
  }
  const auto written = checkpoint::write_random_checkpoint(arguments[0], arguments[1], arguments[3]);
  if (!written) {
    fmt::print(stderr, "baton random-checkpoint: {}\n", written.error().message);
    return 1;
  }
  fmt::print("{}: random weights of {}\n", arguments[1], arguments[0]);
  return 0;
}

}  // namespace baton::serve
