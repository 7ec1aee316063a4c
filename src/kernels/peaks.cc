#include "kernels/peaks.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/cpu/ops.h"

namespace baton::kernels {
namespace {

constexpr size_t kReadBytes = 256UL << 20;
constexpr size_t kChunkBytes = 256UL << 10;  // as a task of linear.cc
constexpr size_t kSpinSteps = 20'000;
constexpr size_t kSpinsPerThread = 8;

// Amount per second of each repetition of `once`, which returns the amount it did; at least one.
template <class Once>
std::vector<double> rates(Duration each, Once&& once) {
  const SteadyClock clock;
  const Time end = clock.now() + each;
  std::vector<double> all;
  do {
    const Time start = clock.now();
    const double amount = once();
    all.push_back(amount / seconds(clock.now() - start));
  } while (clock.now() < end);
  return all;
}

double median(std::vector<double> all) {
  std::ranges::nth_element(all, all.begin() + static_cast<ptrdiff_t>(all.size() / 2));
  return all[all.size() / 2];
}

double copy_rate(const Cpu& cpu, const std::byte* from, std::byte* to, Duration each) {
  return median(rates(each, [&] {
    cpu.team().run(kReadBytes / kChunkBytes,
                   [&](size_t i) { std::memcpy(to + i * kChunkBytes, from + i * kChunkBytes, kChunkBytes); });
    return static_cast<double>(kReadBytes);
  }));
}

double spin_rate(const Cpu& cpu, double (*spin)(size_t, float*), Duration each) {
  const size_t tasks = cpu.team().threads() * kSpinsPerThread;
  return std::ranges::max(rates(each, [&] {
    std::atomic<double> work{0};
    std::atomic<float> sink{0};
    cpu.team().run(tasks, [&](size_t) {
      float mine = 0;
      work.fetch_add(spin(kSpinSteps, &mine));
      sink.store(mine, std::memory_order_relaxed);
    });
    return work.load();
  }));
}

}  // namespace

void read_all(const Cpu& cpu, std::span<const std::byte> bytes) {
  std::atomic<float> sink{0};
  cpu.team().run(bytes.size() / kChunkBytes, [&](size_t i) {
    sink.store(cpu.ops().read(bytes.data() + i * kChunkBytes, kChunkBytes), std::memory_order_relaxed);
  });
}

Peaks measure_peaks(const Cpu& cpu, Duration each) {
  // Touched byte by byte: pages of zeros that share one frame would be read from the cache.
  const auto from = std::make_unique_for_overwrite<std::byte[]>(kReadBytes);
  const auto to = std::make_unique_for_overwrite<std::byte[]>(kReadBytes);
  std::memset(from.get(), 0x3C, kReadBytes);
  std::memset(to.get(), 0x3C, kReadBytes);
  Peaks peaks;
  peaks.read_bytes_per_s = median(rates(each, [&] {
    read_all(cpu, {from.get(), kReadBytes});
    return static_cast<double>(kReadBytes);
  }));
  peaks.copy_bytes_per_s = copy_rate(cpu, from.get(), to.get(), each);
  peaks.bf16_flop_per_s = spin_rate(cpu, cpu.ops().spin_dot, each);
  peaks.f32_flop_per_s = spin_rate(cpu, cpu.ops().spin_fma, each);
  return peaks;
}

}  // namespace baton::kernels
