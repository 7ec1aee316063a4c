#include "serve/memory.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>

namespace baton::serve {
namespace {

constexpr const char* kCgroup = "/sys/fs/cgroup/";

std::optional<uint64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // absent, or "max"
}

}  // namespace

uint64_t available_memory_bytes() {
  uint64_t available = 0;
  std::ifstream meminfo("/proc/meminfo");
  std::string name;
  uint64_t kilobytes = 0;
  std::string unit;
  while (meminfo >> name >> kilobytes) {
    std::getline(meminfo, unit);
    if (name == "MemAvailable:") available = kilobytes * 1024;
  }
  const auto limit = read_number(std::string(kCgroup) + "memory.max");
  const auto used = read_number(std::string(kCgroup) + "memory.current");
  if (limit && used) available = std::min(available, *limit > *used ? *limit - *used : 0);
  return available;
}

uint32_t usable_cores() {
  uint32_t cores = 1;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) == 0)
    cores = static_cast<uint32_t>(std::max(CPU_COUNT(&mask), 1));
  std::ifstream file(std::string(kCgroup) + "cpu.max");
  std::string quota;
  uint64_t period = 0;
  if (file >> quota >> period && quota != "max" && period > 0) {
    const uint64_t quota_us = std::strtoull(quota.c_str(), nullptr, 10);
    cores = std::min(cores, static_cast<uint32_t>(std::max<uint64_t>((quota_us + period - 1) / period, 1)));
  }
  return cores;
}

}  // namespace baton::serve
