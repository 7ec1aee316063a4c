#include "checkpoint/random_checkpoint.h"

#include <fmt/ranges.h>

#include <array>
#include <boost/json.hpp>
#include <cmath>
#include <fstream>
#include <system_error>
#include <utility>

#include "checkpoint/checkpoint.h"

namespace baton::checkpoint {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

constexpr uint64_t kShardBytesMax = 2'000'000'000;
constexpr size_t kPieceElements = 1U << 20;

struct Shape {
  std::string_view name;
  std::string_view architecture;
  std::string_view model_type;
  size_t vocab_size;
  size_t hidden_size;
  size_t layers;
  size_t query_heads;
  size_t kv_heads;
  size_t head_dim;
  size_t intermediate_size;
  size_t experts;  // 0: dense
  size_t experts_per_token;
  size_t moe_intermediate_size;
  double rope_theta;
};

// The first three are the public models' dimensions; qwen3-moe-1b has 1.05 B parameters, 0.33 B of them
// active. thick-kv computes like a tiny model and has the KV of a large one, 128 KiB a token: its hand-overs
// last.
constexpr std::array<Shape, 6> kShapes = {{
    {"qwen3-0.6b", "Qwen3ForCausalLM", "qwen3", 151936, 1024, 28, 16, 8, 128, 3072, 0, 0, 0, 1e6},
    {"qwen3-1.7b", "Qwen3ForCausalLM", "qwen3", 151936, 2048, 28, 16, 8, 128, 6144, 0, 0, 0, 1e6},
    {"llama-1b", "LlamaForCausalLM", "llama", 151936, 2048, 16, 32, 8, 64, 8192, 0, 0, 0, 5e5},
    {"qwen3-moe-1b", "Qwen3MoeForCausalLM", "qwen3_moe", 151936, 1024, 16, 16, 4, 128, 3072, 32, 4, 512, 1e6},
    {"tiny", "Qwen3ForCausalLM", "qwen3", 151936, 64, 2, 4, 2, 32, 128, 0, 0, 0, 1e6},
    {"thick-kv", "Qwen3ForCausalLM", "qwen3", 151936, 64, 16, 16, 16, 128, 128, 0, 0, 0, 1e6},
}};

json::object config_of(const Shape& shape) {
  json::object config{{"architectures", json::array{json::string(shape.architecture)}},
                      {"model_type", shape.model_type},
                      {"attention_bias", false},
                      {"bos_token_id", 151643},
                      {"eos_token_id", 151645},
                      {"head_dim", shape.head_dim},
                      {"hidden_act", "silu"},
                      {"hidden_size", shape.hidden_size},
                      {"intermediate_size", shape.intermediate_size},
                      {"max_position_embeddings", 40960},
                      {"num_attention_heads", shape.query_heads},
                      {"num_hidden_layers", shape.layers},
                      {"num_key_value_heads", shape.kv_heads},
                      {"rms_norm_eps", shape.model_type == "llama" ? 1e-5 : 1e-6},
                      {"rope_scaling", nullptr},
                      {"rope_theta", shape.rope_theta},
                      {"tie_word_embeddings", true},
                      {"torch_dtype", "bfloat16"},
                      {"vocab_size", shape.vocab_size}};
  if (shape.model_type == "llama") {
    config["rope_scaling"] = json::object{{"factor", 32.0},
                                          {"high_freq_factor", 4.0},
                                          {"low_freq_factor", 1.0},
                                          {"original_max_position_embeddings", 8192},
                                          {"rope_type", "llama3"}};
  }
  if (shape.experts > 0) {
    config["num_experts"] = shape.experts;
    config["num_experts_per_tok"] = shape.experts_per_token;
    config["moe_intermediate_size"] = shape.moe_intermediate_size;
    config["norm_topk_prob"] = true;
    config["decoder_sparse_step"] = 1;
    config["mlp_only_layers"] = json::array();
  }
  return config;
}

Result<void> write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text << '\n';
  file.close();
  if (!file) return fail(Code::kIo, fmt::format("{}: cannot be written", path.string()));
  return {};
}

// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

constexpr size_t kValuesPerTensor = 4096;  // a table small enough for the first-level cache
using ValueTable = std::array<Bf16, kValuesPerTensor>;

// Evenly spaced values around `mean` whose standard deviation is `deviation`.
ValueTable uniform_values(double mean, double deviation) {
  ValueTable values;
  const double half_width = deviation * std::sqrt(3.0);
  for (size_t i = 0; i < values.size(); ++i) {
    const double unit = (2.0 * static_cast<double>(i) + 1.0) / static_cast<double>(values.size()) - 1.0;
    values[i] = to_bf16(static_cast<float>(mean + half_width * unit));
  }
  return values;
}

// Norms near 1. Linear layers keep the size of what they read; those that add to the residual stream are
// divided by sqrt(2 x layers), so that the stream stays of order 1; the (tied) head makes logits of
// deviation 3.
ValueTable values_for(const ExpectedTensor& tensor, const ModelConfig& config) {
  if (tensor.shape.size() == 1) return uniform_values(1.0, 0.05);
  const double scale = 1.0 / std::sqrt(static_cast<double>(tensor.shape[1]));
  if (tensor.name.ends_with("embed_tokens.weight")) return uniform_values(0.0, 3.0 * scale);
  const bool is_residual =
      tensor.name.ends_with("o_proj.weight") || tensor.name.ends_with("down_proj.weight");
  return uniform_values(0.0,
                        is_residual ? scale / std::sqrt(2.0 * static_cast<double>(config.layers)) : scale);
}

Result<void> append_random(SafetensorsWriter& writer, const ValueTable& values, uint64_t elements,
                           SplitMix64& random) {
  std::vector<Bf16> piece;
  while (elements > 0) {
    piece.resize(std::min<uint64_t>(elements, kPieceElements));
    size_t i = 0;
    while (i < piece.size()) {
      uint64_t bits = random.next();
      for (size_t part = 0; part < 5 && i < piece.size(); ++part, bits >>= 12) {
        piece[i++] = values[bits % kValuesPerTensor];
      }
    }
    TRY_DO(writer.append(std::as_bytes(std::span(piece))));
    elements -= piece.size();
  }
  return {};
}

using Shard = std::vector<ExpectedTensor>;

uint64_t bf16_bytes(const ExpectedTensor& tensor) {
  return TensorSpec{tensor.name, DType::kBf16, tensor.shape}.bytes();
}

std::vector<Shard> cut_into_shards(std::vector<ExpectedTensor> tensors) {
  std::vector<Shard> shards(1);
  uint64_t bytes = 0;
  for (ExpectedTensor& tensor : tensors) {
    if (bytes + bf16_bytes(tensor) > kShardBytesMax && !shards.back().empty()) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += bf16_bytes(tensor);
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

Result<void> write_shard(const fs::path& path, const Shard& shard, const ModelConfig& config,
                         SplitMix64& random) {
  std::vector<TensorSpec> specs;
  for (const ExpectedTensor& tensor : shard) specs.push_back({tensor.name, DType::kBf16, tensor.shape});
  TRY(SafetensorsWriter writer, SafetensorsWriter::create(path, specs));
  for (size_t i = 0; i < shard.size(); ++i) {
    TRY_DO(append_random(writer, values_for(shard[i], config), specs[i].bytes() / sizeof(Bf16), random));
  }
  return writer.finish();
}

Result<void> write_weights(const fs::path& directory, const ModelConfig& config, uint64_t seed) {
  const std::vector<Shard> shards = cut_into_shards(expected_tensors(config));
  SplitMix64 random(seed);
  std::error_code error;
  fs::remove(directory / "model.safetensors", error);
  fs::remove(directory / "model.safetensors.index.json", error);
  if (shards.size() == 1) return write_shard(directory / "model.safetensors", shards.front(), config, random);

  json::object weight_map;
  uint64_t total_bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    TRY_DO(write_shard(directory / name, shards[i], config, random));
    for (const ExpectedTensor& tensor : shards[i]) {
      weight_map[tensor.name] = name;
      total_bytes += bf16_bytes(tensor);
    }
  }
  const json::object index{{"metadata", {{"total_size", total_bytes}}},
                           {"weight_map", std::move(weight_map)}};
  return write_text(directory / "model.safetensors.index.json", json::serialize(index));
}

Result<void> copy_text_files(const fs::path& from, const fs::path& to) {
  if (!fs::is_regular_file(from / "tokenizer.json")) {
    return fail(Code::kNotFound, fmt::format("{}: no tokenizer.json there", from.string()));
  }
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}) {
    std::error_code error;
    if (!fs::is_regular_file(from / name, error)) continue;
    fs::copy_file(from / name, to / name, fs::copy_options::overwrite_existing, error);
    if (error) return fail(Code::kIo, fmt::format("{}: {}", (to / name).string(), error.message()));
    fs::permissions(to / name, fs::perms::owner_write, fs::perm_options::add, error);
  }
  return {};
}

Result<std::string> config_text_of(std::string_view shape_name) {
  const auto* shape = std::ranges::find(kShapes, shape_name, &Shape::name);
  if (shape != kShapes.end()) return json::serialize(config_of(*shape));
  return fail(Code::kInvalid, fmt::format("shape {}: expected one of {}", shape_name,
                                          fmt::join(random_checkpoint_shapes(), ", ")));
}

}  // namespace

Result<ModelConfig> random_checkpoint_config(std::string_view shape_name) {
  TRY(const std::string text, config_text_of(shape_name));
  return parse_model_config(text, "config.json");
}

std::vector<std::string_view> random_checkpoint_shapes() {
  std::vector<std::string_view> names;
  for (const Shape& shape : kShapes) names.push_back(shape.name);
  return names;
}

Result<void> write_random_checkpoint(std::string_view shape_name, const fs::path& directory,
                                     const fs::path& tokenizer_dir, uint64_t seed) {
  TRY(const std::string config_text, config_text_of(shape_name));
  TRY(const ModelConfig config, parse_model_config(config_text, "config.json"));
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return fail(Code::kIo, fmt::format("{}: {}", directory.string(), error.message()));
  TRY_DO(copy_text_files(tokenizer_dir, directory));
  TRY_DO(write_weights(directory, config, seed));
  TRY_DO(write_text(directory / "generation_config.json",
                    R"({"bos_token_id": 151643, "eos_token_id": [151645, 151643]})"));
  return write_text(directory / "config.json", config_text);
}

}  // namespace baton::checkpoint
