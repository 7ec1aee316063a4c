// Each kernel as a share of the machine's own peak, measured with the same threads in the same run:
//   build/release/src/kernels/bench_kernels
// Counters: "of_read" or "of_bf16" are shares (1 = the peak), the rest are absolute.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <map>
#include <vector>

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
struct Products {
  Products(size_t rows, size_t k, size_t n, size_t slices)
      : k(k), n(n), slices(slices), layers(std::max<size_t>(1, (128UL << 20) / (k * n * sizeof(Bf16)))) {
    RandomData data(1);
    weights = data.bf16s(layers * k * n);
    x = data.bf16s(rows * k);
    y.resize(rows * n);
  }
  void run(const Cpu& cpu, size_t layer) {
    const std::span<const Bf16> own(weights.data() + layer * k * n, k * n);
    linear(cpu, {.x = view(std::span<const Bf16>(x), k),
                 .weight = view(own, k),
                 .bias = {},
                 .y = view(std::span<Bf16>(y), n),
                 .slices = slices});
  }

  size_t k, n, slices, layers;
  std::vector<Bf16> weights, x, y;
};

double median(std::vector<double> all) {
  std::ranges::nth_element(all, all.begin() + static_cast<ptrdiff_t>(all.size() / 2));
  return all[all.size() / 2];
}

// One row, all layers after each other; in turn with a plain read of the same weights.
void gemv(benchmark::State& state, size_t k, size_t n, size_t slices) {
  const Cpu& cpu = bench(static_cast<unsigned>(state.range(0))).cpu;
  Products products(1, k, n, slices);
  const auto bytes = std::as_bytes(std::span<const Bf16>(products.weights));
  const SteadyClock clock;
  std::vector<double> rate, peak, share;
  for (auto _ : state) {
    const Time begin = clock.now();
    read_all(cpu, bytes);
    const Time middle = clock.now();
    for (size_t layer = 0; layer < products.layers; ++layer) products.run(cpu, layer);
    const Time end = clock.now();
    state.SetIterationTime(seconds(end - middle));
    rate.push_back(static_cast<double>(bytes.size()) / seconds(end - middle));
    peak.push_back(static_cast<double>(bytes.size()) / seconds(middle - begin));
    share.push_back(rate.back() / peak.back());
  }
  state.counters["rate"] = median(rate);
  state.counters["peak"] = median(peak);
  state.counters["of_read"] = median(share);
}

void gemm(benchmark::State& state, size_t rows, size_t k, size_t n, size_t slices) {
  const Cpu& cpu = bench(static_cast<unsigned>(state.range(0))).cpu;
  Products products(rows, k, n, slices);
  const Peaks peaks = peaks_now(cpu);
  size_t layer = 0;
  for (auto _ : state) {
    products.run(cpu, layer);
    layer = (layer + 1) % products.layers;
  }
  const double product = static_cast<double>(k * n);
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
BENCHMARK_CAPTURE(gemv, k1024_n3072, 1024, 3072, 1)->Arg(1)->Arg(2)->UseManualTime();
BENCHMARK_CAPTURE(gemv, k3072_n1024_sliced, 3072, 1024, 16)->Arg(1)->Arg(2)->UseManualTime();
BENCHMARK_CAPTURE(gemm, 512_k1024_n3072, 512, 1024, 3072, 1) BATON_THREADS;
BENCHMARK_CAPTURE(gemm, 512_k3072_n1024_sliced, 512, 3072, 1024, 16) BATON_THREADS;
BENCHMARK_CAPTURE(gemm, 512_k2048_n1024_sliced, 512, 2048, 1024, 16) BATON_THREADS;
BENCHMARK_CAPTURE(gemm, 512_k3072_n1024_whole, 512, 3072, 1024, 1) BATON_THREADS;
BENCHMARK_CAPTURE(attend, decode_at_2048, 1, 2047, true) BATON_THREADS;
BENCHMARK_CAPTURE(attend, prefill_512, 512, 0, false) BATON_THREADS;
BENCHMARK_CAPTURE(attend, prefill_512_at_1536, 512, 1536, false) BATON_THREADS;

}  // namespace
}  // namespace baton::kernels
