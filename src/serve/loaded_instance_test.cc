// What an instance makes of its options: defaults of sampling, end tokens and the size of its KV cache.
#include "serve/loaded_instance.h"

#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <future>

#include "base/check.h"
#include "base/log.h"
#include "checkpoint/testing.h"
#include "http/testing.h"
#include "serve/testing.h"

namespace baton::serve {
namespace {

options::ServeOptions small_options() {
  options::ServeOptions options;
  options.model = kTestCheckpoint;
  options.served_model_names = {"m"};
  options.threads = 1;
  options.max_model_len = 256;
  options.kv_cache_memory_bytes = 16UL << 20;
  return options;
}

Result<std::unique_ptr<LoadedInstance>> load(const options::ServeOptions& options) {
  set_log_level(LogLevel::kError);
  return LoadedInstance::load(options, [](const std::vector<engine::Answer>&) {});
}

EngineReport report_of(LoadedInstance& instance) {
  http::LoopThread loop;
  std::promise<EngineReport> got;
  auto ask = [](EngineThread& engine, http::IoLoop& io,
                std::promise<EngineReport>& into) -> http::Awaitable<void> {
    auto report = co_await engine.report(io);
    CHECK(report.has_value(), "{}", report.error().message);
    into.set_value(std::move(*report));
  };
  loop.await(ask(instance.engine_thread(), loop.loop(), got));
  return got.get_future().get();
}

uint32_t blocks_of(const options::ServeOptions& options) {
  auto instance = load(options);
  CHECK(instance.has_value(), "{}", instance.error().message);
  return report_of(**instance).stats.blocks_total;
}

TEST(GenerationConfig, IsTheModelsOrAnothersOrNone) {
  const checkpoint::TemporaryDirectory other;
  std::ofstream(other.path() / "generation_config.json")
      << R"({"temperature":0.25,"min_p":0.5,"max_new_tokens":7,"eos_token_id":[11,12]})";
  struct Row {
    std::string source;
    std::optional<float> temperature, top_p, min_p;
    std::optional<int32_t> top_k, max_new_tokens;
    std::vector<TokenId> eos;  // 976 is in config.json, 974 and 976 in the model's generation_config.json
  };
  for (const Row& row :
       {Row{"auto", 0.6F, 0.95F, {}, 20, {}, {974, 976}}, Row{"vllm", {}, {}, {}, {}, {}, {974, 976}},
        Row{other.path().string(), 0.25F, {}, 0.5F, {}, 7, {11, 12, 976}}}) {
    options::ServeOptions options = small_options();
    options.generation_config = row.source;
    const auto instance = load(options);
    ASSERT_TRUE(instance) << row.source << instance.error().message;
    const ServedModel& model = (*instance)->model();
    EXPECT_EQ(model.defaults.temperature, row.temperature) << row.source;
    EXPECT_EQ(model.defaults.top_p, row.top_p) << row.source;
    EXPECT_EQ(model.defaults.min_p, row.min_p) << row.source;
    EXPECT_EQ(model.defaults.top_k, row.top_k) << row.source;
    EXPECT_EQ(model.defaults.max_new_tokens, row.max_new_tokens) << row.source;
    EXPECT_EQ(model.eos_token_ids, row.eos) << row.source;
  }
}

TEST(GenerationConfig, AFolderThatHasNoneOrABadOneIsRefused) {
  const checkpoint::TemporaryDirectory other;
  options::ServeOptions options = small_options();
  options.generation_config = other.path().string();
  const auto none = load(options);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::kNotFound);
  EXPECT_EQ(none.error().message, "--generation-config: " + other.path().string() +
                                      ", expected auto, vllm or a directory with a generation_config.json");
  std::ofstream(other.path() / "generation_config.json") << R"({"top_p":1.5})";
  const auto bad = load(options);
  ASSERT_FALSE(bad);
  EXPECT_NE(bad.error().message.find("generation_config.json: top_p: 1.5"), std::string::npos)
      << bad.error().message;
}

// A block of the golden checkpoint: 4 layers x 2 KV heads x (K, V) x 32 values of bf16 x 16 tokens.
constexpr uint64_t kBlockBytes = 4UL * 2 * 2 * 32 * 2 * 16;

TEST(KvSizing, IsWhatWasAskedForElseWhatTheSeatsNeed) {
  options::ServeOptions options = small_options();
  options.kv_cache_memory_bytes = 40 * kBlockBytes + 17;
  EXPECT_EQ(blocks_of(options), 40U);
  options.block_size = 32;
  EXPECT_EQ(blocks_of(options), 20U);
  options = small_options();
  options.kv_cache_memory_bytes.reset();
  options.max_num_seqs = 3;
  EXPECT_EQ(blocks_of(options), 3U * 256 / 16);
}

TEST(KvSizing, TooLittleForOneRequestIsRefusedWithWhatWouldFit) {
  options::ServeOptions options = small_options();
  options.kv_cache_memory_bytes = 15 * kBlockBytes;
  const auto instance = load(options);
  ASSERT_FALSE(instance);
  EXPECT_EQ(instance.error().code, Code::kExhausted);
  for (const char* word : {"KV cache", "max_model_len 256", "--max-model-len 240"})
    EXPECT_NE(instance.error().message.find(word), std::string::npos) << instance.error().message;
  options.max_model_len = 240;
  EXPECT_EQ(blocks_of(options), 15U);
}

TEST(FlightRecordDeathTest, OfAnInstanceThatIsGoneIsNotWritten) {
  // More loads than a process may register hooks for, and none of them lives when the CHECK fails.
  for (int i = 0; i < 9; ++i) ASSERT_TRUE(load(small_options()));
  EXPECT_EXIT(CHECK(false, "here"), ::testing::KilledBySignal(SIGABRT), "here");
}

TEST(Warmup, TakesItsFirstStepsInAKvOfOneBlockAndLeavesItFree) {
  for (const int32_t block_size : {16, 1024}) {
    options::ServeOptions options = small_options();
    options.block_size = block_size;
    options.max_model_len = 16;
    options.kv_cache_memory_bytes = kBlockBytes * static_cast<uint64_t>(block_size) / 16;
    options.warmup = true;
    const auto instance = load(options);
    ASSERT_TRUE(instance) << instance.error().message;
    const EngineReport report = report_of(**instance);
    EXPECT_EQ(report.stats.blocks_total, 1U);
    EXPECT_EQ(report.stats.blocks_free, 1U);
  }
}

}  // namespace
}  // namespace baton::serve
