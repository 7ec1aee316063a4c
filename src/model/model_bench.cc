// Decode and prefill of random checkpoints of real sizes. BATON_BENCH_MODEL names a folder that
// write_random_checkpoint made (or any other checkpoint); without it nothing runs.
//   decode   one row per pass; reports tokens/s and the share of the read bandwidth measured in the same run
//   prefill  passes of 512 rows; reports tokens/s
//   start    open, load, 16-token prefill, first logits, from a warm page cache
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <numeric>
#include <thread>

#include "base/check.h"
#include "kernels/peaks.h"
#include "model/decoder.h"

namespace baton::model {
namespace {

constexpr uint32_t kContextTokens = 1024;

const char* model_path() { return std::getenv("BATON_BENCH_MODEL"); }

unsigned bench_threads() { return std::max(1U, std::thread::hardware_concurrency()); }

struct Loaded {
  kernels::Cpu cpu{kernels::available_isas().back(), bench_threads()};
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<kv::KvArena> arena;
  std::vector<BlockId> blocks;

  explicit Loaded(uint32_t batch_rows_max = 512, uint32_t max_model_len = 4096) {
    auto opened = checkpoint::Checkpoint::open(model_path());
    CHECK(opened.has_value(), "{}", opened.error().message);
    auto shared = std::make_shared<const checkpoint::Checkpoint>(std::move(*opened));
    auto loaded =
        load_decoder(shared, cpu, {.batch_rows_max = batch_rows_max, .max_model_len = max_model_len});
    CHECK(loaded.has_value(), "{}", loaded.error().message);
    model = std::move(loaded->model);
    blocks.resize(model->info().kv_layout.blocks_for(kContextTokens));
    for (uint32_t i = 0; i < blocks.size(); ++i) blocks[i] = BlockId{i};
    arena =
        *kv::KvArena::create(model->info().kv_layout, static_cast<uint32_t>(blocks.size()), Incarnation{});
  }

  void run(uint32_t first, uint32_t rows) {
    std::vector<TokenId> ids(rows);
    std::iota(ids.begin(), ids.end(), 100);
    const SequenceRows sequence{rows, first, blocks};
    const uint32_t last = rows - 1;
    CHECK(model->forward({ids, {&sequence, 1}, {&last, 1}}, *arena, {}));
    benchmark::DoNotOptimize(model->logits(0, 1).data());
  }
};

// Bytes of weights that one decode step reads: not the embedding, unless it is the head too; of the experts
// those that are chosen.
size_t bytes_per_token() {
  const auto opened = checkpoint::Checkpoint::open(model_path());
  size_t bytes = 0;
  for (const auto& [name, tensor] : opened->tensors) {
    if (name == "model.embed_tokens.weight" && !opened->config.tie_word_embeddings) continue;
    const checkpoint::MoeConfig& moe = opened->config.moe;
    const bool is_expert = name.find(".experts.") != std::string::npos;
    bytes += is_expert ? tensor->bytes.size() * moe.experts_per_token / moe.experts : tensor->bytes.size();
  }
  return bytes;
}

void decode(benchmark::State& state) {
  if (model_path() == nullptr) return state.SkipWithError("BATON_BENCH_MODEL is not set");
  Loaded loaded;
  loaded.run(0, 128);
  for (auto _ : state) loaded.run(128, 1);
  state.SetItemsProcessed(state.iterations());
  const kernels::Peaks peaks = kernels::measure_peaks(loaded.cpu, std::chrono::milliseconds(300));
  state.counters["of_read_peak"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * static_cast<double>(bytes_per_token()) /
                             peaks.read_bytes_per_s,
                         benchmark::Counter::kIsRate);
}
BENCHMARK(decode)->UseRealTime()->Unit(benchmark::kMillisecond);

void prefill(benchmark::State& state) {
  if (model_path() == nullptr) return state.SkipWithError("BATON_BENCH_MODEL is not set");
  Loaded loaded;
  for (auto _ : state) loaded.run(0, 512);
  state.SetItemsProcessed(state.iterations() * 512);
}
BENCHMARK(prefill)->UseRealTime()->Unit(benchmark::kMillisecond);

void start_to_first_token(benchmark::State& state) {
  if (model_path() == nullptr) return state.SkipWithError("BATON_BENCH_MODEL is not set");
  for (auto _ : state) {
    Loaded loaded(2048, 0);
    loaded.run(0, 16);
  }
}
BENCHMARK(start_to_first_token)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace baton::model
