#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "checkpoint/fingerprint.h"
#include "checkpoint/random_checkpoint.h"
#include "checkpoint/testing.h"

namespace baton::checkpoint {
namespace {

namespace fs = std::filesystem;

const fs::path kCheckpoints = fs::path(BATON_SOURCE_DIR) / "tests/golden/checkpoints";

fs::path copy_of(std::string_view name, const TemporaryDirectory& directory) {
  const fs::path copy = directory.path() / name;
  fs::copy(kCheckpoints / name, copy, fs::copy_options::recursive);
  return copy;
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void replace_in(const fs::path& path, std::string_view from, std::string_view to) {
  std::string text = read_file(path);
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

std::string message_of(const fs::path& directory) {
  const auto checkpoint = Checkpoint::open(directory);
  return checkpoint ? "opened" : checkpoint.error().message;
}

TEST(Checkpoint, OpensEveryGoldenOne) {
  for (const char* name : {"qwen3", "qwen3-sharded", "qwen2", "llama", "llama-f16", "qwen3-moe"}) {
    const auto checkpoint = Checkpoint::open(kCheckpoints / name);
    ASSERT_TRUE(checkpoint.has_value()) << checkpoint.error().message;
    EXPECT_EQ(checkpoint->tensors.size(), expected_tensors(checkpoint->config).size()) << name;
    EXPECT_TRUE(checkpoint->text_files.tokenizer && checkpoint->text_files.tokenizer_config) << name;
    EXPECT_EQ(checkpoint->generation.temperature, 0.6) << name;
    EXPECT_TRUE(checkpoint->notices.empty()) << name;
  }
}

TEST(Checkpoint, LayersThatPredictFurtherTokensAreLeftOutWithOneNotice) {
  const auto checkpoint = Checkpoint::open(kCheckpoints / "deepseek-v3");
  ASSERT_TRUE(checkpoint.has_value()) << checkpoint.error().message;
  EXPECT_FALSE(checkpoint->tensors.contains("model.layers.3.eh_proj.weight"));
  ASSERT_EQ(checkpoint->notices.size(), 1U);
  EXPECT_NE(checkpoint->notices[0].find("tensors of layers from 3 on, which predict further tokens: ignored"),
            std::string::npos)
      << checkpoint->notices[0];
  const auto float8 = Checkpoint::open(kCheckpoints / "deepseek-v3-fp8");
  ASSERT_TRUE(float8.has_value()) << float8.error().message;
  EXPECT_TRUE(float8->tensors.contains("model.layers.0.self_attn.o_proj.weight_scale_inv"));
}

TEST(Checkpoint, EachMissingSurplusOrMisshapenTensorIsNamed) {
  struct Row {
    const char* checkpoint;
    const char* file;
    const char* from;
    const char* to;
    const char* message;
  };
  const Row rows[] = {
      {"qwen3", "config.json", "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3",
       "model.safetensors: tensor model.layers.3.input_layernorm.weight [128]: surplus"},
      {"qwen3", "config.json", "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5",
       "tensor model.layers.4.input_layernorm.weight [128]: missing, expected by config.json (11 missing in "
       "all)"},
      {"qwen3", "config.json", "\"intermediate_size\": 256", "\"intermediate_size\": 512",
       "tensor model.layers.0.mlp.gate_proj.weight: shape [256, 128], expected [512, 128] by config.json"},
      {"qwen3", "config.json", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false",
       "tensor lm_head.weight [1024, 128]: missing"},
      {"qwen3-sharded", "model.safetensors.index.json", "\"model.norm.weight\"", "\"model.norm.weighs\"",
       "model.norm.weigh"},
      {"qwen3-sharded", "model.safetensors.index.json", "model-00001-of-00003", "../odel-00001-of-003",
       "weight_map: "},
      {"qwen3", "generation_config.json", "0.6", "-1", "generation_config.json: temperature: -1"},
      {"deepseek-v3-fp8", "config.json", "128,\n      128", "64,\n      128", "weight_scale_inv: shape ["},
      {"deepseek-v3-fp8", "config.json", "quantization_config", "_",
       "float8_e4m3fn, expected bfloat16, float16 or float32 where config.json has no quantization_config"},
      {"deepseek-v3", "config.json", "\"kv_lora_rank\": 64", "\"kv_lora_rank\": 48",
       "model.layers.0.self_attn.kv_a_proj_with_mqa.weight: shape [80, 128], expected [64, 128]"},
  };
  for (const Row& row : rows) {
    const TemporaryDirectory directory;
    const fs::path copy = copy_of(row.checkpoint, directory);
    replace_in(copy / row.file, row.from, row.to);
    EXPECT_NE(message_of(copy).find(row.message), std::string::npos) << message_of(copy);
  }
}

TEST(Checkpoint, ATiedHeadInTheFileIsToleratedWithANotice) {
  const TemporaryDirectory directory;
  const fs::path copy = copy_of("qwen2", directory);
  replace_in(copy / "config.json", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
  const auto checkpoint = Checkpoint::open(copy);
  ASSERT_TRUE(checkpoint.has_value()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->notices.size(), 1U);
  EXPECT_FALSE(checkpoint->tensors.contains("lm_head.weight"));
}

TEST(Checkpoint, MissingFilesAreNamed) {
  const TemporaryDirectory directory;
  EXPECT_NE(message_of(directory.path() / "nothing").find("no such directory"), std::string::npos);
  EXPECT_NE(message_of(directory.path()).find("config.json"), std::string::npos);
  const fs::path copy = copy_of("qwen3-sharded", directory);
  fs::remove(copy / "model-00002-of-00003.safetensors");
  EXPECT_NE(message_of(copy).find("model-00002-of-00003.safetensors: No such file"), std::string::npos);
  fs::remove(copy / "model.safetensors.index.json");
  EXPECT_NE(message_of(copy).find("expected model.safetensors or"), std::string::npos);
}

TEST(Checkpoint, ATruncatedFileIsRefusedByName) {
  const TemporaryDirectory directory;
  const fs::path copy = copy_of("qwen3", directory);
  fs::resize_file(copy / "model.safetensors", fs::file_size(copy / "model.safetensors") - 100);
  EXPECT_NE(message_of(copy).find("model.safetensors: tensor "), std::string::npos) << message_of(copy);
}

TEST(Fingerprint, DoesNotDependOnTheFolderButOnConfigTokenizerAndWeights) {
  const TemporaryDirectory directory;
  const fs::path copy = copy_of("qwen3", directory);
  const std::atomic<bool> go_on{false};
  const auto fingerprints = [&](const fs::path& path) {
    const auto checkpoint = Checkpoint::open(path);
    return std::pair(*quick_fingerprint(*checkpoint), *complete_fingerprint(*checkpoint, go_on));
  };
  const auto original = fingerprints(kCheckpoints / "qwen3");
  EXPECT_NE(original.first, original.second);
  EXPECT_EQ(original.first.hex().size(), 64U);
  EXPECT_EQ(fingerprints(copy), original);

  std::fstream(copy / "model.safetensors", std::ios::binary | std::ios::in | std::ios::out)
          .seekp(-1, std::ios::end)
      << 'x';
  EXPECT_NE(fingerprints(copy).second, original.second);  // the quick one samples, and need not see it
  replace_in(copy / "tokenizer.json", "\"version\"", "\"versioN\"");
  EXPECT_NE(fingerprints(copy).first, original.first);
}

TEST(Fingerprint, StopsWhenCancelledAndSeesAFileThatChanged) {
  const TemporaryDirectory directory;
  const fs::path copy = copy_of("qwen3", directory);
  const auto checkpoint = Checkpoint::open(copy);
  ASSERT_TRUE(checkpoint.has_value());
  std::atomic<bool> cancel{true};
  EXPECT_EQ(complete_fingerprint(*checkpoint, cancel).error().code, Code::kCancelled);
  cancel = false;
  std::fstream(copy / "model.safetensors", std::ios::binary | std::ios::in | std::ios::out)
          .seekp(-1, std::ios::end)
      << 'x';
  EXPECT_EQ(complete_fingerprint(*checkpoint, cancel).error().code, Code::kCorrupt);
}

// Llama's has 151,936 - 128,256 rows more than the public one's 1,235,814,400 parameters.
TEST(RandomCheckpoint, HasAsManyParametersAsTheModelItIsNamedAfter) {
  const std::pair<std::string_view, uint64_t> rows[] = {{"qwen3-0.6b", 596'049'920},
                                                        {"qwen3-1.7b", 1'720'574'976},
                                                        {"llama-1b", 1'284'311'040},
                                                        {"qwen3-moe-1b", 1'045'337'088}};
  for (const auto& [name, expected] : rows) {
    const auto config = random_checkpoint_config(name);
    ASSERT_TRUE(config.has_value()) << config.error().message;
    uint64_t parameters = 0;
    for (const ExpectedTensor& tensor : expected_tensors(*config)) {
      uint64_t count = 1;
      for (const uint64_t extent : tensor.shape) count *= extent;
      parameters += count;
    }
    EXPECT_EQ(parameters, expected) << name;
  }
}

TEST(RandomCheckpoint, CanBeOpenedAndIsTheSameForTheSameSeed) {
  const TemporaryDirectory directory;
  const fs::path tokenizer = fs::path(BATON_SOURCE_DIR) / "tests/golden/tokenizers/qwen3";
  for (const char* name : {"a", "b"}) {
    const auto written = write_random_checkpoint("tiny", directory.path() / name, tokenizer, 3);
    ASSERT_TRUE(written.has_value()) << written.error().message;
  }
  const auto checkpoint = Checkpoint::open(directory.path() / "a");
  ASSERT_TRUE(checkpoint.has_value()) << checkpoint.error().message;
  EXPECT_TRUE(checkpoint->text_files.tokenizer.has_value());
  EXPECT_EQ(read_file(directory.path() / "a/model.safetensors"),
            read_file(directory.path() / "b/model.safetensors"));
  const auto unknown = write_random_checkpoint("gpt-5", directory.path(), tokenizer);
  EXPECT_NE(unknown.error().message.find("expected one of qwen3-0.6b, qwen3-1.7b, llama-1b, qwen3-moe-1b"),
            std::string::npos);
}

}  // namespace
}  // namespace baton::checkpoint
