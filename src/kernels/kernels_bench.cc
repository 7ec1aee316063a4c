// Each kernel as a share of the machine's own peak, measured with the same threads in the same run:
//   build/release/src/kernels/bench_kernels
// Counters: "of_read" or "of_bf16" are shares (1 = the peak), the rest are absolute.
#include <benchmark/benchmark.h>

#include <map>

#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/peaks.h"
#include "kernels/random_data.h"

namespace baton::kernels {
namespace {

struct Bench {
  explicit Bench(unsigned threads) : cpu(available_isas().back(), threads) {}
  Cpu cpu;
};

Bench& bench(unsigned threads) {
  static std::map<unsigned, Bench> benches;
  return benches.try_emplace(threads, threads).first->second;
}

// Measured anew beside each benchmark: the peaks of a shared machine move.
Peaks peaks_now(const Cpu& cpu) { return measure_peaks(cpu, std::chrono::milliseconds(300)); }

void report(benchmark::State& state, const char* name, double amount, double peak) {
  state.counters["rate"] = benchmark::Counter(amount, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["peak"] = peak;
  state.counters[name] = benchmark::Counter(amount / peak, benchmark::Counter::kIsIterationInvariantRate);
}

// Weights of many layers, so that no product finds its own in a cache.
void products(benchmark::State& state, size_t rows, size_t k, size_t n, size_t slices, bool memory_bound) {
  const Cpu& cpu = bench(static_cast<unsigned>(state.range(0))).cpu;
  const size_t layers = std::max<size_t>(1, (128UL << 20) / (k * n * sizeof(Bf16)));
  RandomData data(1);
  const std::vector<Bf16> weights = data.bf16s(layers * k * n);
  const std::vector<Bf16> x = data.bf16s(rows * k);
  std::vector<Bf16> y(rows * n);
  const Peaks peaks = peaks_now(cpu);
  size_t layer = 0;
  for (auto _ : state) {
    const std::span<const Bf16> own(weights.data() + layer * k * n, k * n);
    linear(cpu, {.x = view(std::span<const Bf16>(x), k),
                 .weight = view(own, k),
                 .bias = {},
                 .y = view(std::span<Bf16>(y), n),
                 .slices = slices});
    layer = (layer + 1) % layers;
  }
  const double product = static_cast<double>(k * n);
  if (memory_bound) return report(state, "of_read", product * sizeof(Bf16), peaks.read_bytes_per_s);
  report(state, "of_bf16", 2.0 * static_cast<double>(rows) * product, peaks.bf16_flop_per_s);
}

void attend(benchmark::State& state, size_t rows, size_t position, bool memory_bound) {
  constexpr size_t kHeads = 16, kKvHeads = 8, kDim = 128, kBlock = 16;
  const Cpu& cpu = bench(static_cast<unsigned>(state.range(0))).cpu;
  const size_t length = position + rows;
  const size_t blocks = (length + kBlock - 1) / kBlock;
  const size_t stride = 2 * kKvHeads * kBlock * kDim;  // elements
  const size_t layers =
      memory_bound ? std::max<size_t>(1, (64UL << 20) / (blocks * stride * sizeof(Bf16))) : 1;
  RandomData data(2);
  std::vector<Bf16> cache = data.bf16s(layers * blocks * stride);
  const std::vector<Bf16> q = data.bf16s(rows * kHeads * kDim);
  std::vector<Bf16> out(q.size());
  std::vector<BlockId> table(blocks);
  for (size_t i = 0; i < blocks; ++i) table[i] = BlockId{static_cast<uint32_t>(i)};
  const RowSpan span{.blocks = table, .first_row = 0, .rows = rows, .first_position = position};
  const Peaks peaks = peaks_now(cpu);
  size_t layer = 0;
  for (auto _ : state) {
    attention(cpu, {.kv = {.base = reinterpret_cast<std::byte*>(cache.data() + layer * blocks * stride),
                           .block_stride = stride * sizeof(Bf16),
                           .block_size = kBlock,
                           .kv_heads = kKvHeads,
                           .head_dim = kDim,
                           .dtype = DType::kBf16},
                    .spans = {&span, 1},
                    .q = view(std::span<const Bf16>(q), kHeads * kDim),
                    .out = view(std::span<Bf16>(out), kHeads * kDim),
                    .scale = 0.088F});
    layer = (layer + 1) % layers;
  }
  const double tokens = static_cast<double>(length);
  if (memory_bound) {
    return report(state, "of_read", tokens * 2 * kKvHeads * kDim * sizeof(Bf16), peaks.read_bytes_per_s);
  }
  const double pairs =
      static_cast<double>(rows) * (static_cast<double>(position) + static_cast<double>(rows) / 2);
  report(state, "of_bf16", 4.0 * pairs * kHeads * kDim, peaks.bf16_flop_per_s);
}

#define BATON_THREADS ->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMicrosecond)
BENCHMARK_CAPTURE(products, gemv_k1024_n3072, 1, 1024, 3072, 1, true) BATON_THREADS;
BENCHMARK_CAPTURE(products, gemv_k3072_n1024_sliced, 1, 3072, 1024, 16, true) BATON_THREADS;
BENCHMARK_CAPTURE(products, gemm512_k1024_n3072, 512, 1024, 3072, 1, false) BATON_THREADS;
BENCHMARK_CAPTURE(products, gemm512_k3072_n1024_sliced, 512, 3072, 1024, 16, false) BATON_THREADS;
BENCHMARK_CAPTURE(products, gemm512_k2048_n1024_sliced, 512, 2048, 1024, 16, false) BATON_THREADS;
BENCHMARK_CAPTURE(products, gemm512_k3072_n1024_whole, 512, 3072, 1024, 1, false) BATON_THREADS;
BENCHMARK_CAPTURE(attend, decode_at_2048, 1, 2047, true) BATON_THREADS;
BENCHMARK_CAPTURE(attend, prefill_512, 512, 0, false) BATON_THREADS;
BENCHMARK_CAPTURE(attend, prefill_512_at_1536, 512, 1536, false) BATON_THREADS;

}  // namespace
}  // namespace baton::kernels
