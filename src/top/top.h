// `baton top PROXY`: every request of a cluster with what it waits for, once or every second.
#pragma once

#include <span>
#include <string>

namespace baton::top {

// 0: shown; 1: the proxy does not answer; 2: bad command line.
int run(std::span<const std::string> arguments);

}  // namespace baton::top
