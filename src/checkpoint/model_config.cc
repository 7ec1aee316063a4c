#include "checkpoint/model_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <utility>

#include "checkpoint/json_fields.h"

namespace baton::checkpoint {
namespace {

namespace json = boost::json;

constexpr size_t kVocabMax = 1U << 24;
constexpr size_t kWidthMax = 1U << 20;  // of hidden states and MLPs
constexpr size_t kLayersMax = 1024;
constexpr size_t kHeadsMax = 1024;
constexpr size_t kHeadDimMax = 1024;
constexpr size_t kPositionsMax = 1U << 27;
constexpr size_t kExpertsMax = 4096;

struct ArchitectureName {
  std::string_view name;
  Architecture architecture;
};
constexpr std::array<ArchitectureName, 4> kArchitectures = {{{"Qwen3ForCausalLM", Architecture::kQwen3},
                                                             {"Qwen3MoeForCausalLM", Architecture::kQwen3Moe},
                                                             {"Qwen2ForCausalLM", Architecture::kQwen2},
                                                             {"LlamaForCausalLM", Architecture::kLlama}}};

std::string known_architectures() {
  std::vector<std::string_view> names;
  for (const auto& row : kArchitectures) names.push_back(row.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

Architecture read_architecture(JsonFields& fields) {
  const std::vector<std::string> names = fields.texts("architectures");
  for (const std::string& name : names) {
    for (const auto& row : kArchitectures) {
      if (row.name == name) return row.architecture;
    }
  }
  fields.reject("architectures",
                fmt::format("[{}], expected one of {}", fmt::join(names, ", "), known_architectures()));
  return Architecture::kQwen3;
}

DType read_dtype(JsonFields& fields) {
  const std::string_view key = fields.has("dtype") ? "dtype" : "torch_dtype";
  const std::string name = fields.text(key, "bfloat16");
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    if (dtype_name(dtype) == name) return dtype;
  }
  fields.reject(key, name + ", expected bfloat16, float16 or float32");
  return DType::kBf16;
}

// The inner object of transformers 4 (`rope_scaling`) or 5 (`rope_parameters`, which also holds rope_theta).
void read_scaling(JsonFields& scaling, RopeConfig& rope) {
  const std::string type = scaling.text(scaling.has("rope_type") ? "rope_type" : "type", "default");
  if (type == "default") return;
  if (type != "linear" && type != "llama3") {
    scaling.reject("rope_type", type + ", expected default, linear or llama3");
    return;
  }
  rope.scaling = type == "linear" ? RopeScaling::kLinear : RopeScaling::kLlama3;
  rope.factor = scaling.number("factor", 1.0, 1e6);
  if (rope.scaling == RopeScaling::kLinear) return;
  rope.low_freq_factor = scaling.number("low_freq_factor", 1e-3, 1e6);
  rope.high_freq_factor = scaling.number("high_freq_factor", 1e-3, 1e6);
  rope.original_max_position_embeddings =
      static_cast<double>(scaling.count("original_max_position_embeddings", 1, kPositionsMax));
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    scaling.reject("high_freq_factor", fmt::format("{}, expected more than low_freq_factor {}",
                                                   rope.high_freq_factor, rope.low_freq_factor));
  }
}

RopeConfig read_rope(JsonFields& fields, const std::string& file_name) {
  constexpr double kThetaMin = 1.0;
  constexpr double kThetaMax = 1e15;
  RopeConfig rope;
  const auto outer_theta = fields.optional_number("rope_theta", kThetaMin, kThetaMax);
  rope.theta = outer_theta.value_or(10000.0);
  const std::string key = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const json::object* object = fields.object(key);
  if (object == nullptr) return rope;
  const std::string place = fmt::format("{}: {}", file_name, key);
  JsonFields scaling(place, *object);
  const auto theta = scaling.optional_number("rope_theta", kThetaMin, kThetaMax);
  if (theta && outer_theta && *theta != *outer_theta) {
    scaling.reject("rope_theta", fmt::format("{}, expected the outer rope_theta {}", *theta, *outer_theta));
  }
  rope.theta = theta.value_or(rope.theta);
  read_scaling(scaling, rope);
  if (scaling.failure()) fields.reject(key, scaling.failure()->message.substr(place.size() + 2));
  return rope;
}

void read_attention(JsonFields& fields, ModelConfig& config) {
  config.query_heads = fields.count("num_attention_heads", 1, kHeadsMax);
  config.kv_heads = fields.count("num_key_value_heads", 1, kHeadsMax, config.query_heads);
  if (config.query_heads % config.kv_heads != 0) {
    fields.reject("num_key_value_heads", fmt::format("{}, expected a divisor of num_attention_heads {}",
                                                     config.kv_heads, config.query_heads));
  }
  if (fields.has("head_dim")) {
    config.head_dim = fields.count("head_dim", 2, kHeadDimMax);
  } else if (config.architecture == Architecture::kQwen3 || config.architecture == Architecture::kQwen3Moe) {
    config.head_dim = 128;  // the default of transformers' Qwen3Config and Qwen3MoeConfig
  } else {
    config.head_dim = config.hidden_size / config.query_heads;
    if (config.hidden_size % config.query_heads != 0) {
      fields.reject("hidden_size",
                    fmt::format("{}, expected a multiple of num_attention_heads {}, as there is no "
                                "head_dim",
                                config.hidden_size, config.query_heads));
    }
  }
  if (config.head_dim % 2 != 0 || config.head_dim == 0) {
    fields.reject("head_dim", fmt::format("{}, expected an even number of at least 2", config.head_dim));
  }
  const bool attention_bias = fields.boolean("attention_bias", false);
  const bool is_qwen2 = config.architecture == Architecture::kQwen2;
  config.qkv_bias = is_qwen2 || attention_bias;
  config.output_bias = !is_qwen2 && attention_bias;
  config.qk_norm =
      config.architecture == Architecture::kQwen3 || config.architecture == Architecture::kQwen3Moe;
}

void read_experts(JsonFields& fields, ModelConfig& config) {
  config.layer_is_moe.assign(config.layers, false);
  if (config.architecture != Architecture::kQwen3Moe) return;
  MoeConfig& moe = config.moe;
  moe.experts = fields.count("num_experts", 0, kExpertsMax);
  if (moe.experts == 0) return;
  moe.experts_per_token = fields.count("num_experts_per_tok", 1, moe.experts);
  moe.intermediate_size = fields.count("moe_intermediate_size", 1, kWidthMax);
  moe.norm_topk_prob = fields.boolean("norm_topk_prob", false);
  const size_t step = fields.count("decoder_sparse_step", 1, kLayersMax, 1);
  const auto last_layer = static_cast<int64_t>(config.layers) - 1;
  const std::vector<int64_t> dense_layers = fields.integers("mlp_only_layers", 0, last_layer);
  for (size_t layer = 0; layer < config.layers; ++layer) {
    const bool is_dense = std::ranges::find(dense_layers, static_cast<int64_t>(layer)) != dense_layers.end();
    config.layer_is_moe[layer] = !is_dense && (layer + 1) % step == 0;
  }
}

std::vector<TokenId> read_token_ids(JsonFields& fields, std::string_view key, size_t vocab_size) {
  std::vector<TokenId> ids;
  const int64_t last = static_cast<int64_t>(vocab_size) - 1;
  for (const int64_t id : fields.integers(key, 0, last)) ids.push_back(static_cast<TokenId>(id));
  return ids;
}

// Keys that change the mathematics in ways the built-in architectures do not follow.
void reject_unsupported(JsonFields& fields) {
  if (const std::string act = fields.text("hidden_act", "silu"); act != "silu") {
    fields.reject("hidden_act", act + ", expected silu");
  }
  if (fields.has("quantization_config")) {
    fields.reject("quantization_config", "quantised weights, expected bf16, f16 or f32 and no such key");
  }
  if (fields.boolean("use_sliding_window", false)) {
    fields.reject("use_sliding_window", "true, expected false: sliding windows are not supported");
  }
  if (fields.boolean("mlp_bias", false)) fields.reject("mlp_bias", "true, expected false");
  for (const std::string& type : fields.texts("layer_types")) {
    if (type != "full_attention") fields.reject("layer_types", type + ", expected full_attention");
  }
}

Result<json::value> parse_object(std::string_view text, std::string_view file_name) {
  boost::system::error_code error;
  json::value document = json::parse(text, error);
  if (error) return fail(Code::kInvalid, fmt::format("{}: not valid JSON: {}", file_name, error.message()));
  if (!document.is_object())
    return fail(Code::kInvalid, fmt::format("{}: expected a JSON object", file_name));
  return document;
}

}  // namespace

std::string_view architecture_name(Architecture architecture) {
  for (const auto& row : kArchitectures) {
    if (row.architecture == architecture) return row.name;
  }
  return "unknown";
}

Result<ModelConfig> parse_model_config(std::string_view text, std::string_view file_name) {
  TRY(const json::value document, parse_object(text, file_name));
  JsonFields fields(std::string(file_name), document.get_object());
  ModelConfig config;
  config.architecture = read_architecture(fields);
  config.model_type = fields.text("model_type", "");
  config.vocab_size = fields.count("vocab_size", 1, kVocabMax);
  config.hidden_size = fields.count("hidden_size", 1, kWidthMax);
  config.layers = fields.count("num_hidden_layers", 1, kLayersMax);
  config.intermediate_size = fields.count("intermediate_size", 1, kWidthMax);
  config.max_position_embeddings = fields.count("max_position_embeddings", 1, kPositionsMax);
  config.rms_norm_eps = static_cast<float>(fields.number("rms_norm_eps", 1e-12, 1.0, 1e-6));
  config.tie_word_embeddings = fields.boolean("tie_word_embeddings", false);
  read_attention(fields, config);
  config.rope = read_rope(fields, std::string(file_name));
  read_experts(fields, config);
  config.dtype = read_dtype(fields);
  config.eos_token_ids = read_token_ids(fields, "eos_token_id", config.vocab_size);
  const std::vector<TokenId> bos = read_token_ids(fields, "bos_token_id", config.vocab_size);
  if (!bos.empty()) config.bos_token_id = bos.front();
  reject_unsupported(fields);
  if (fields.failure()) return Failure(*fields.failure());
  return config;
}

Result<GenerationConfig> parse_generation_config(std::string_view text, std::string_view file_name,
                                                 size_t vocab_size) {
  constexpr double kAnyMax = 1e6;
  constexpr double kPositiveMin = 1e-9;
  TRY(const json::value document, parse_object(text, file_name));
  JsonFields fields(std::string(file_name), document.get_object());
  GenerationConfig config;
  config.temperature = fields.optional_number("temperature", 0.0, kAnyMax);
  config.top_p = fields.optional_number("top_p", kPositiveMin, 1.0);
  config.top_k = fields.optional_integer("top_k", -1, static_cast<int64_t>(kVocabMax));
  config.min_p = fields.optional_number("min_p", 0.0, 1.0);
  config.repetition_penalty = fields.optional_number("repetition_penalty", kPositiveMin, kAnyMax);
  config.max_new_tokens = fields.optional_integer("max_new_tokens", 1, static_cast<int64_t>(kPositionsMax));
  config.eos_token_ids = read_token_ids(fields, "eos_token_id", vocab_size);
  if (fields.failure()) return Failure(*fields.failure());
  return config;
}

}  // namespace baton::checkpoint
