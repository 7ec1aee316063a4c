#include "serve/write_checkpoint.h"

#include <fmt/format.h>

#include <cstdio>

#include "checkpoint/random_checkpoint.h"
#include "options/help.h"
#include "options/tool_options.h"

namespace baton::serve {

int run_write_checkpoint(std::span<const std::string> arguments) {
  const auto options = options::parse_random_checkpoint(arguments);
  if (!options) {
    fmt::print(stderr, "baton random-checkpoint: {}\n", options.error().message);
    return 2;
  }
  if (options->help) {
    fmt::print("{}\nSHAPE is one of: {}\n", options::help_text(options::random_checkpoint_command()),
               fmt::join(checkpoint::random_checkpoint_shapes(), ", "));
    return 0;
  }
  const auto written = checkpoint::write_random_checkpoint(options->shape, options->directory,
                                                           options->tokenizer, options->seed);
  if (!written) {
    fmt::print(stderr, "baton random-checkpoint: {}\n", written.error().message);
    return 1;
  }
  fmt::print("{}: random weights of {}\n", options->directory, options->shape);
  return 0;
}

}  // namespace baton::serve
