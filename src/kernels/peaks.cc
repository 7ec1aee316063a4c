#include "kernels/peaks.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

#include "kernels/cpu/ops.h"

namespace baton::kernels {
namespace {

constexpr size_t kReadBytes = 256UL << 20;
constexpr size_t kChunkBytes = 256UL << 10;  // as a task of linear.cc
constexpr size_t kSpinSteps = 20'000;
constexpr size_t kSpinsPerThread = 8;

// The highest amount per second among repetitions of `once`, which returns the amount it did.
template <class Once>
double best_rate(Duration each, Once&& once) {
  const SteadyClock clock;
  const Time end = clock.now() + each;
  double best = 0;
  do {
    const Time start = clock.now();
    const double amount = once();
    best = std::max(best, amount / seconds(clock.now() - start));
  } while (clock.now() < end);
  return best;
}

double read_rate(const Cpu& cpu, const std::byte* bytes, Duration each) {
  std::atomic<float> sink{0};
  return best_rate(each, [&] {
    cpu.team().run(kReadBytes / kChunkBytes, [&](size_t i) {
      sink.store(cpu.ops().read(bytes + i * kChunkBytes, kChunkBytes), std::memory_order_relaxed);
    });
    return static_cast<double>(kReadBytes);
  });
}

double copy_rate(const Cpu& cpu, const std::byte* from, std::byte* to, Duration each) {
  return best_rate(each, [&] {
    cpu.team().run(kReadBytes / kChunkBytes,
                   [&](size_t i) { std::memcpy(to + i * kChunkBytes, from + i * kChunkBytes, kChunkBytes); });
    return static_cast<double>(kReadBytes);
  });
}

double spin_rate(const Cpu& cpu, double (*spin)(size_t, float*), Duration each) {
  const size_t tasks = cpu.team().threads() * kSpinsPerThread;
  return best_rate(each, [&] {
    std::atomic<double> work{0};
    std::atomic<float> sink{0};
    cpu.team().run(tasks, [&](size_t) {
      float mine = 0;
      work.fetch_add(spin(kSpinSteps, &mine));
      sink.store(mine, std::memory_order_relaxed);
    });
    return work.load();
  });
}

}  // namespace

Peaks measure_peaks(const Cpu& cpu, Duration each) {
  // Touched byte by byte: pages of zeros that share one frame would be read from the cache.
  const auto from = std::make_unique_for_overwrite<std::byte[]>(kReadBytes);
  const auto to = std::make_unique_for_overwrite<std::byte[]>(kReadBytes);
  std::memset(from.get(), 0x3C, kReadBytes);
  std::memset(to.get(), 0x3C, kReadBytes);
  Peaks peaks;
  peaks.read_bytes_per_s = read_rate(cpu, from.get(), each);
  peaks.copy_bytes_per_s = copy_rate(cpu, from.get(), to.get(), each);
  peaks.bf16_flop_per_s = spin_rate(cpu, cpu.ops().spin_dot, each);
  peaks.f32_flop_per_s = spin_rate(cpu, cpu.ops().spin_fma, each);
  return peaks;
}

}  // namespace baton::kernels
