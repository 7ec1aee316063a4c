// Against Hugging Face's own numbers (tests/golden/RECIPE.md), and the parity law on real tiny checkpoints.
#include "model/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>

#include "base/check.h"
#include "checkpoint/safetensors.h"
#include "kernels/isa.h"
#include "kernels/sampling.h"

namespace baton::model {
namespace {

using checkpoint::Checkpoint;
using checkpoint::SafetensorsFile;
using kernels::Isa;

const std::string kSource = BATON_SOURCE_DIR;
constexpr size_t kPrompts = 6;
constexpr float kFloat32Tolerance = 1e-3F;  // of logits; RECIPE.md, "Tolerance"

struct Golden {
  std::string name;
  std::string directory;
  std::string golden_file;
};

std::vector<Golden> all_goldens() {
  std::vector<Golden> all;
  for (const char* name : {"qwen3", "qwen3-sharded", "qwen2", "llama", "llama-f16", "qwen3-moe",
                           "deepseek-v3", "deepseek-v3-nolora", "deepseek-v3-fp8"}) {
    const std::string base = kSource + "/tests/golden/checkpoints/" + name;
    all.push_back({name, base, base + ".golden.safetensors"});
  }
  return all;
}

template <class T>
std::vector<T> read(const SafetensorsFile& file, const std::string& name) {
  const checkpoint::Tensor* tensor = file.find(name);
  if (tensor == nullptr) return {};
  std::vector<T> values(tensor->bytes.size() / sizeof(T));
  std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
  return values;
}

struct Prompt {
  std::vector<TokenId> ids;
  std::vector<int32_t> positions;
  std::vector<float> logits;  // [positions, vocab]
  std::vector<TokenId> greedy;
  std::vector<float> margins;
  std::vector<float> noise;  // [positions]
};

std::vector<Prompt> read_prompts(const std::string& path) {
  const auto file = SafetensorsFile::open(path);
  EXPECT_TRUE(file.has_value()) << file.error().message;
  std::vector<Prompt> prompts;
  for (size_t i = 0; i < kPrompts && file; ++i) {
    const std::string base = fmt::format("prompt.{}.", i);
    Prompt prompt{
        read<TokenId>(*file, base + "input_ids"),   read<int32_t>(*file, base + "positions"),
        read<float>(*file, base + "logits"),        read<TokenId>(*file, base + "greedy"),
        read<float>(*file, base + "greedy_margin"), read<float>(*file, base + "noise_per_position")};
    if (!prompt.ids.empty()) prompts.push_back(std::move(prompt));
  }
  EXPECT_FALSE(prompts.empty()) << path;
  return prompts;
}

// A model with its cache; sequences take blocks in an order that is not ascending.
struct Runner {
  kernels::Cpu cpu;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<kv::KvArena> arena;
  std::vector<BlockId> free;

  Runner(const std::string& directory, Isa isa, unsigned threads, const DecoderOptions& options,
         uint32_t tokens = 8192)
      : cpu(isa, threads) {
    auto opened = Checkpoint::open(directory);
    CHECK(opened.has_value(), "{}", opened.error().message);
    auto loaded = load_decoder(std::make_shared<const Checkpoint>(std::move(*opened)), cpu, options);
    CHECK(loaded.has_value(), "{}", loaded.error().message);
    model = std::move(loaded->model);
    const uint32_t blocks = tokens / options.block_tokens;
    auto created = kv::KvArena::create(model->info().kv_layout, blocks, Incarnation{});
    CHECK(created.has_value(), "{}", created.error().message);
    arena = std::move(*created);
    for (uint32_t i = 0; i < blocks; ++i) free.push_back(BlockId{i * 7 % blocks});
    std::memset(arena->data(), 0xFF,
                arena->layout().block_bytes() * blocks);  // NaN: stale bytes must not show
  }

  std::vector<BlockId> take(size_t tokens) {
    const size_t count = model->info().kv_layout.blocks_for(tokens);
    std::vector<BlockId> taken(free.end() - static_cast<ptrdiff_t>(count), free.end());
    free.resize(free.size() - count);
    return taken;
  }

  // Logits of rows `first` to the end of `ids`, of one sequence alone in one pass.
  std::vector<float> logits_from(std::span<const TokenId> ids, uint32_t first,
                                 std::span<const BlockId> blocks, uint32_t prompt_tokens = UINT32_MAX) {
    std::vector<uint32_t> rows(ids.size() - first);
    std::iota(rows.begin(), rows.end(), first);
    const SequenceRows sequence{static_cast<uint32_t>(ids.size()), 0, blocks, prompt_tokens};
    CHECK(model->forward({ids, {&sequence, 1}, rows}, *arena, {}));
    return all_logits(static_cast<uint32_t>(rows.size()));
  }

  std::vector<float> all_logits(uint32_t rows) {
    std::vector<float> all;
    for (uint32_t first = 0; first < rows; first += model->logit_rows_max()) {
      const auto part = model->logits(first, std::min(rows - first, model->logit_rows_max()));
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
};

float largest_difference(std::span<const float> a, std::span<const float> b) {
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float d = std::abs(a[i] - b[i]);
    if (!(d <= largest)) largest = d;  // NaN shows
  }
  return largest;
}

// Feeds prompt and golden answer at once and holds logits and argmax against the golden.
void expect_golden(Runner& runner, const Prompt& prompt, bool is_float32, const std::string& where) {
  const size_t vocab = runner.model->info().vocab_size;
  std::vector<TokenId> ids = prompt.ids;
  ids.insert(ids.end(), prompt.greedy.begin(), prompt.greedy.end());
  const std::vector<BlockId> blocks = runner.take(ids.size());
  const std::vector<float> logits =
      runner.logits_from(ids, 0, blocks, static_cast<uint32_t>(prompt.ids.size()));
  // The noise of a position is one sample: where it happened to be small, that of its prompt's middle one
  // stands in.
  std::vector<float> noises = prompt.noise;
  std::ranges::nth_element(noises, noises.begin() + static_cast<ptrdiff_t>(noises.size() / 2));
  const float noise_usual = noises[noises.size() / 2];
  float tolerance_max = 0;
  for (size_t i = 0; i < prompt.positions.size(); ++i) {
    const float tolerance = is_float32 ? kFloat32Tolerance : 2 * std::max(prompt.noise[i], noise_usual);
    const auto got = std::span(logits).subspan(static_cast<size_t>(prompt.positions[i]) * vocab, vocab);
    const auto expected = std::span(prompt.logits).subspan(i * vocab, vocab);
    EXPECT_LE(largest_difference(got, expected), tolerance) << where << " position " << prompt.positions[i];
    tolerance_max = std::max(tolerance_max, tolerance);
  }
  for (size_t step = 0; step < prompt.greedy.size(); ++step) {
    if (!(prompt.margins[step] > 2 * tolerance_max)) continue;
    const auto row = std::span(logits).subspan((prompt.ids.size() - 1 + step) * vocab, vocab);
    EXPECT_EQ(kernels::argmax(row), prompt.greedy[step]) << where << " step " << step;
  }
  runner.free.insert(runner.free.end(), blocks.begin(), blocks.end());
}

TEST(Decoder, InFloat32AgreesWithHuggingFaceToAThousandth) {
  for (const Golden& golden : all_goldens()) {
    Runner runner(golden.directory, kernels::available_isas().back(), 2, {.dtype = DTypeChoice::kFloat32});
    const std::vector<Prompt> prompts = read_prompts(golden.golden_file);
    for (size_t i = 0; i < prompts.size(); ++i) {
      expect_golden(runner, prompts[i], true, fmt::format("{} prompt {}", golden.name, i));
    }
  }
}

TEST(Decoder, InBfloat16AgreesWithinTwiceTheRoundingNoise) {
  for (const Golden& golden : all_goldens()) {
    Runner runner(golden.directory, kernels::available_isas().back(), 2, {.dtype = DTypeChoice::kBfloat16});
    const std::vector<Prompt> prompts = read_prompts(golden.golden_file);
    for (size_t i = 0; i < prompts.size(); ++i) {
      expect_golden(runner, prompts[i], false, fmt::format("{} prompt {}", golden.name, i));
    }
  }
}

// The form of a position changes roundings alone, and it does change them.
TEST(Decoder, BothFormsOfALatentAttentionGiveHuggingFacesLogits) {
  for (const char* name : {"deepseek-v3", "deepseek-v3-nolora", "deepseek-v3-fp8"}) {
    const std::string base = kSource + "/tests/golden/checkpoints/" + name;
    Runner runner(base, kernels::available_isas().back(), 2, {.dtype = DTypeChoice::kFloat32});
    for (const Prompt& prompt : read_prompts(base + ".golden.safetensors")) {
      const size_t vocab = runner.model->info().vocab_size;
      const std::vector<BlockId> blocks = runner.take(prompt.ids.size());
      std::vector<std::vector<float>> forms;
      for (const uint32_t prompt_tokens : {UINT32_MAX, 1U, 0U}) {
        forms.push_back(runner.logits_from(prompt.ids, 0, blocks, prompt_tokens));
        for (size_t i = 0; i < prompt.positions.size(); ++i) {
          EXPECT_LE(
              largest_difference(
                  std::span(forms.back()).subspan(static_cast<size_t>(prompt.positions[i]) * vocab, vocab),
                  std::span(prompt.logits).subspan(i * vocab, vocab)),
              kFloat32Tolerance)
              << name << ", prompt of " << prompt.ids.size() << ", " << prompt_tokens
              << " in the prompt's form";
        }
      }
      if (prompt.ids.size() > 1)
        EXPECT_TRUE(forms[0] != forms[2]) << name << ", prompt of " << prompt.ids.size();
      runner.free.insert(runner.free.end(), blocks.begin(), blocks.end());
    }
  }
}

// docs/new-model.md: an architecture that is another's mathematics has to give its bits.
TEST(Decoder, MistralIsLlamaUnderAnotherName) {
  namespace fs = std::filesystem;
  const fs::path llama = kSource + "/tests/golden/checkpoints/llama-f16";
  const fs::path mistral = fs::path(testing::TempDir()) / "mistral";
  fs::remove_all(mistral);
  fs::copy(llama, mistral, fs::copy_options::recursive);
  std::ifstream in(llama / "config.json");
  std::string config((std::istreambuf_iterator<char>(in)), {});
  config.replace(config.find("LlamaForCausalLM"), std::strlen("LlamaForCausalLM"), "MistralForCausalLM");
  std::ofstream(mistral / "config.json") << config;
  const std::vector<TokenId> ids = {5, 17, 400, 3, 99, 250, 31};
  std::vector<std::vector<float>> logits;
  for (const std::string& directory : {llama.string(), mistral.string()}) {
    Runner runner(directory, kernels::available_isas().back(), 1, {});
    logits.push_back(runner.logits_from(ids, 0, runner.take(ids.size())));
    EXPECT_EQ(runner.model->info().architecture == "MistralForCausalLM", directory == mistral.string());
  }
  EXPECT_EQ(logits[0], logits[1]);
}

// The trained models of the demo: float32 logits after the prompt, and their answers in both types, which end
// with the end token; what comes after was never trained.
TEST(Decoder, AnswersOfTheDemoModelsAreHuggingFaces) {
  for (const std::string name : {"qwen3-moe", "deepseek-v3"}) {
    const auto file = SafetensorsFile::open(kSource + "/models/" + name + ".golden.safetensors");
    ASSERT_TRUE(file.has_value());
    for (const DTypeChoice choice : {DTypeChoice::kFloat32, DTypeChoice::kBfloat16}) {
      Runner runner(kSource + "/models/" + name, kernels::available_isas().back(), 2, {.dtype = choice});
      const size_t vocab = runner.model->info().vocab_size;
      for (size_t i = 0; i < kPrompts; ++i) {
        std::vector<TokenId> ids = read<TokenId>(*file, fmt::format("{}.input_ids", i));
        std::vector<TokenId> answer = read<TokenId>(*file, fmt::format("{}.greedy_ids", i));
        const auto end = std::ranges::find_if(answer, [](TokenId id) { return id >= 4093; });
        ASSERT_NE(end, answer.end()) << i;
        answer.erase(end + 1, answer.end());
        const auto prompt_tokens = static_cast<uint32_t>(ids.size());
        ids.insert(ids.end(), answer.begin(), answer.end());
        const std::vector<BlockId> blocks = runner.take(ids.size());
        const std::vector<float> logits = runner.logits_from(ids, prompt_tokens - 1, blocks, prompt_tokens);
        const std::vector<float> expected = read<float>(*file, fmt::format("{}.logits", i));
        if (choice == DTypeChoice::kFloat32) {
          EXPECT_LE(largest_difference(std::span(logits).first(vocab), expected), kFloat32Tolerance)
              << name << ' ' << i;
        }
        for (size_t step = 0; step < answer.size(); ++step) {
          EXPECT_EQ(kernels::argmax(std::span(logits).subspan(step * vocab, vocab)), answer[step])
              << name << ' ' << i << ' ' << step;
        }
        runner.free.insert(runner.free.end(), blocks.begin(), blocks.end());
      }
    }
  }
}

TEST(Decoder, AutoFollowsTheCheckpointAndHalfComputesInFloat32WithANotice) {
  struct Row {
    const char* name;
    DTypeChoice choice;
    DType activation;
    bool has_notice;
  };
  const kernels::Cpu cpu(Isa::kPortable, 1);
  for (const Row& row : {Row{"qwen3", DTypeChoice::kAuto, DType::kBf16, false},
                         Row{"llama", DTypeChoice::kAuto, DType::kF32, false},
                         Row{"llama-f16", DTypeChoice::kAuto, DType::kF32, true},
                         Row{"qwen3", DTypeChoice::kHalf, DType::kF32, true},
                         Row{"llama", DTypeChoice::kBfloat16, DType::kBf16, true}}) {
    auto opened = Checkpoint::open(kSource + "/tests/golden/checkpoints/" + row.name);
    ASSERT_TRUE(opened.has_value());
    const auto loaded =
        load_decoder(std::make_shared<const Checkpoint>(std::move(*opened)), cpu, {.dtype = row.choice});
    ASSERT_TRUE(loaded.has_value());
    EXPECT_EQ(loaded->model->info().activation_dtype, row.activation) << row.name;
    EXPECT_EQ(!loaded->notices.empty(), row.has_notice) << row.name;
  }
}

// One sequence of the mixed runs below.
struct Sequence {
  std::vector<TokenId> ids;
  std::vector<BlockId> blocks;
  uint32_t prompt_tokens = 0;
  size_t done = 0;
  std::vector<float> logits;  // [done, vocab]
};

// Runs all sequences to their ends in passes of random chunks, of which some sequences get none.
void run_in_random_chunks(Runner& runner, std::vector<Sequence>& sequences, std::mt19937& random) {
  const size_t vocab = runner.model->info().vocab_size;
  while (std::ranges::any_of(sequences, [](const Sequence& s) { return s.done < s.ids.size(); })) {
    std::vector<TokenId> tokens;
    std::vector<SequenceRows> rows;
    std::vector<Sequence*> chosen;
    for (Sequence& sequence : sequences) {
      const size_t left = sequence.ids.size() - sequence.done;
      const size_t budget = runner.model->batch_rows_max() - tokens.size();
      const size_t chunk = std::min({left, budget, size_t{random() % 3 == 0 ? 1 : random() % 90}});
      if (chunk == 0) continue;
      tokens.insert(tokens.end(), sequence.ids.begin() + static_cast<ptrdiff_t>(sequence.done),
                    sequence.ids.begin() + static_cast<ptrdiff_t>(sequence.done + chunk));
      rows.push_back({static_cast<uint32_t>(chunk), static_cast<uint32_t>(sequence.done), sequence.blocks,
                      sequence.prompt_tokens});
      chosen.push_back(&sequence);
    }
    std::vector<uint32_t> logit_rows(tokens.size());
    std::iota(logit_rows.begin(), logit_rows.end(), 0U);
    ASSERT_TRUE(runner.model->forward({tokens, rows, logit_rows}, *runner.arena, {}));
    const std::vector<float> logits = runner.all_logits(static_cast<uint32_t>(tokens.size()));
    size_t row = 0;
    for (size_t i = 0; i < chosen.size(); ++i) {
      const auto begin = logits.begin() + static_cast<ptrdiff_t>(row * vocab);
      chosen[i]->logits.insert(chosen[i]->logits.end(), begin,
                               begin + static_cast<ptrdiff_t>(rows[i].rows * vocab));
      chosen[i]->done += rows[i].rows;
      row += rows[i].rows;
    }
  }
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// The prompt of a sequence that goes on with an answer.
uint32_t prompt_of(const std::vector<TokenId>& ids) {
  return static_cast<uint32_t>(ids.size() - ids.size() / 3);
}

class ParityLaw : public testing::TestWithParam<const char*> {};

TEST_P(ParityLaw, LogitsAreTheSameBitsWhateverTheBatchTheChunksTheBlocksTheThreadsAndTheInstructionSet) {
  const std::string directory = kSource + "/tests/golden/checkpoints/" + GetParam();
  std::mt19937 random(7);
  std::vector<std::vector<TokenId>> texts;
  for (const size_t length : {1U, 5U, 33U, 110U}) {
    auto& ids = texts.emplace_back(length);
    for (TokenId& id : ids) id = static_cast<TokenId>(random() % 1000);
  }
  std::vector<std::vector<float>> expected;  // each sequence alone, whole, on the fastest path
  {
    Runner alone(directory, kernels::available_isas().back(), 1, {});
    for (const auto& ids : texts)
      expected.push_back(alone.logits_from(ids, 0, alone.take(ids.size()), prompt_of(ids)));
  }
  for (const Isa isa : kernels::available_isas()) {
    // Portable code under sanitizers is slow: one block size there, both elsewhere.
    for (const uint32_t block_tokens : isa == Isa::kPortable ? std::vector{48U} : std::vector{16U, 48U}) {
      Runner runner(directory, isa, 2,
                    {.block_tokens = block_tokens, .batch_rows_max = 128, .logit_rows_max = 16});
      std::vector<Sequence> sequences;
      for (const auto& ids : texts)
        sequences.push_back({ids, runner.take(ids.size()), prompt_of(ids), 0, {}});
      run_in_random_chunks(runner, sequences, random);
      for (size_t i = 0; i < texts.size(); ++i) {
        EXPECT_TRUE(same_bits(sequences[i].logits, expected[i]))
            << kernels::isa_name(isa) << " blocks of " << block_tokens << " sequence " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, ParityLaw,
                         testing::Values("qwen3", "qwen2", "llama", "llama-f16", "qwen3-moe", "deepseek-v3",
                                         "deepseek-v3-nolora"),
                         [](const auto& suite) {
                           std::string name = suite.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(Decoder, EndsEarlyWhenTheHookSaysSoAndTicksOncePerLayer) {
  Runner runner(kSource + "/tests/golden/checkpoints/qwen3", Isa::kPortable, 1, {});
  const std::vector<TokenId> ids = {1, 2, 3};
  const std::vector<BlockId> blocks = runner.take(ids.size());
  const SequenceRows sequence{3, 0, blocks};
  const uint32_t last = 2;
  const Batch batch{ids, {&sequence, 1}, {&last, 1}};
  std::vector<uint32_t> seen;
  EXPECT_FALSE(runner.model->forward(batch, *runner.arena, [&](uint32_t layer) {
    seen.push_back(layer);
    return layer < 1;
  }));
  EXPECT_EQ(seen, (std::vector<uint32_t>{0, 1}));
  EXPECT_TRUE(runner.model->forward(batch, *runner.arena, {}));
  EXPECT_EQ(runner.model->logits(0, 1).size(), runner.model->info().vocab_size);
}

TEST(Decoder, GivesTheSameLogitsForOneRowAskedAloneOrAmongAll) {
  Runner runner(kSource + "/tests/golden/checkpoints/qwen3-moe", kernels::available_isas().back(), 1, {});
  std::vector<TokenId> ids(40);
  std::iota(ids.begin(), ids.end(), 3);
  const std::vector<BlockId> blocks = runner.take(ids.size());
  const size_t vocab = runner.model->info().vocab_size;
  const std::vector<float> all = runner.logits_from(ids, 0, blocks);
  for (const uint32_t first : {39U, 17U}) {
    EXPECT_TRUE(same_bits(runner.logits_from(ids, first, blocks), std::span(all).subspan(first * vocab)));
  }
}

TEST(Decoder, RefusesWhatTheKernelsCannotDoByName) {
  EXPECT_EQ(parse_dtype_choice("int8").error().param, "dtype");
  EXPECT_EQ(parse_dtype_choice("half"), DTypeChoice::kHalf);
  auto opened = Checkpoint::open(kSource + "/tests/golden/checkpoints/qwen3");
  ASSERT_TRUE(opened.has_value());
  const kernels::Cpu cpu(Isa::kPortable, 1);
  opened->config.head_dim = 24;
  const auto checkpoint = std::make_shared<const Checkpoint>(std::move(*opened));
  EXPECT_NE(load_decoder(checkpoint, cpu, {}).error().message.find("head_dim: 24"), std::string::npos);
}

}  // namespace
}  // namespace baton::model
