// The machine's peaks with 1 and with 2 threads (kernels/peaks.h), for those who measure something else
// beside them: bench_kernels --benchmark_filter=^peaks/2
#include "kernels/peaks.h"

#include <benchmark/benchmark.h>

namespace baton::kernels {
namespace {

void peaks(benchmark::State& state) {
  const Cpu cpu(available_isas().back(), static_cast<unsigned>(state.range(0)));
  Peaks measured;
  for ([[maybe_unused]] auto _ : state) measured = measure_peaks(cpu, std::chrono::milliseconds(300));
  state.counters["read"] = measured.read_bytes_per_s;
  state.counters["copy"] = measured.copy_bytes_per_s;
  state.counters["bf16"] = measured.bf16_flop_per_s;
  state.counters["f32"] = measured.f32_flop_per_s;
}
BENCHMARK(peaks)->Arg(1)->Arg(2)->Iterations(1)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace baton::kernels
