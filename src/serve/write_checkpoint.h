// `baton random-checkpoint SHAPE DIRECTORY --tokenizer DIRECTORY`: random weights of a named shape, so that
// speed can be measured without any download.
#pragma once

#include <span>
#include <string>

namespace baton::serve {

int run_write_checkpoint(std::span<const std::string> arguments);

}  // namespace baton::serve
