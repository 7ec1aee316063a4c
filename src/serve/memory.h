// What this process may use of its machine: the smaller of the machine's and its control group's share
// (cgroup v2, Documentation/admin-guide/cgroup-v2.rst).
#pragma once

#include <cstdint>

namespace baton::serve {

// MemAvailable of /proc/meminfo, cut to what memory.max of the control group leaves. 0 if neither can be
// read.
uint64_t available_memory_bytes();

// Cores of the affinity mask, cut to the quota of cpu.max, rounded up. At least 1.
uint32_t usable_cores();

}  // namespace baton::serve
