#include "base/thread.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <thread>

namespace baton {
namespace {

bool kernel_has_slices() {
  utsname name{};
  int major = 0;
  int minor = 0;
  if (uname(&name) != 0 || std::sscanf(name.release, "%d.%d", &major, &minor) != 2) return false;
  return major > 6 || (major == 6 && minor >= 12);
}

// Of the calling thread, as sched_getattr(2) lays it out: size, policy, flags, nice, priority, runtime ...
std::array<uint32_t, 12> attributes() {
  std::array<uint32_t, 12> words{};
  EXPECT_EQ(syscall(SYS_sched_getattr, 0, words.data(), sizeof words, 0), 0);
  return words;
}

TEST(BePrompt, AsksForTheShortestSliceAndChangesNothingElse) {
  if (!kernel_has_slices()) GTEST_SKIP() << "kernels before 6.12 have one slice for all";
  std::thread([] {
    auto expected = attributes();
    be_prompt();
    constexpr uint64_t kRuntime = 100'000;
    std::memcpy(&expected[6], &kRuntime, sizeof kRuntime);
    EXPECT_EQ(attributes(), expected);
  }).join();
}

}  // namespace
}  // namespace baton
