// CHECK(condition) and CHECK(condition, "format", args...): a broken invariant ends the process, in release
// builds too. The supervisor restarts it and the proxy goes elsewhere. Never for input, peers or capacity.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string>

namespace baton {

// Prints "file:line: CHECK(condition) failed: message" to stderr, calls the hooks, aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& message);

// Registers what a dying process does last (the flight recorder writes its file). At most 8; called in order
// of registration on the failing thread, once.
void on_check_failed(std::function<void()> hook);

}  // namespace baton

#define CHECK(condition, ...)                                                             \
  do {                                                                                    \
    if (!(condition)) [[unlikely]]                                                        \
      ::baton::check_failed(__FILE__, __LINE__, #condition, fmt::format("" __VA_ARGS__)); \
  } while (false)
