#include "base/thread.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace baton {
namespace {

constexpr uint64_t kSliceNs = 100'000;  // the shortest that the kernel gives

// struct sched_attr of the kernel, whose header does not go together with glibc's.
struct SchedAttr {
  uint32_t size = sizeof(SchedAttr);
  uint32_t policy = 0;  // SCHED_OTHER
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0;  // ns: of SCHED_OTHER, the slice
  uint64_t deadline = 0;
  uint64_t period = 0;
};

}  // namespace

void be_prompt() {
  SchedAttr attributes;
  errno = 0;
  attributes.nice = getpriority(PRIO_PROCESS, 0);
  if (errno != 0) return;
  attributes.runtime = kSliceNs;
  // A kernel or a sandbox that refuses leaves the thread as it was.
  static_cast<void>(syscall(SYS_sched_setattr, 0, &attributes, 0));
}

}  // namespace baton
