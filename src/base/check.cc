#include "base/check.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace baton {
namespace {

constexpr size_t kHooksMax = 8;

std::vector<std::function<void()>>& hooks() {
  static std::vector<std::function<void()>> registered;
  return registered;
}

}  // namespace

void on_check_failed(std::function<void()> hook) {
  CHECK(hooks().size() < kHooksMax, "more than {} hooks", kHooksMax);
  hooks().push_back(std::move(hook));
}

void check_failed(const char* file, int line, const char* condition, const std::string& message) {
  static std::atomic<bool> dying{false};
  std::fprintf(stderr, "%s:%d: CHECK(%s) failed%s%s\n", file, line, condition, message.empty() ? "" : ": ",
               message.c_str());
  std::fflush(stderr);
  if (!dying.exchange(true)) {
    for (const auto& hook : hooks()) hook();
  }
  std::abort();
}

}  // namespace baton
