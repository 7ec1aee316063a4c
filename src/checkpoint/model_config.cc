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
constexpr auto kArchitectures = std::to_array<ArchitectureName>({
    {"Qwen3ForCausalLM", Architecture::kQwen3},
    {"Qwen3MoeForCausalLM", Architecture::kQwen3Moe},
    {"Qwen2ForCausalLM", Architecture::kQwen2},
    {"LlamaForCausalLM", Architecture::kLlama},
    {"MistralForCausalLM", Architecture::kMistral},
    {"DeepseekV3ForCausalLM", Architecture::kDeepseekV3},
    {"DeepseekV2ForCausalLM", Architecture::kDeepseekV2},
});

bool is_deepseek(const ModelConfig& config) {
  return config.architecture == Architecture::kDeepseekV3 || config.architecture == Architecture::kDeepseekV2;
}

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

void read_yarn(JsonFields& scaling, RopeConfig& rope) {
  rope.original_max_position_embeddings =
      static_cast<double>(scaling.count("original_max_position_embeddings", 1, kPositionsMax));
  rope.beta_fast = scaling.number("beta_fast", 1e-3, 1e6, 32.0);
  rope.beta_slow = scaling.number("beta_slow", 1e-3, 1e6, 1.0);
  rope.mscale = scaling.number("mscale", 0.0, 1e3, 1.0);
  rope.mscale_all_dim = scaling.number("mscale_all_dim", 0.0, 1e3, 0.0);
  if (rope.beta_fast <= rope.beta_slow) {
    scaling.reject("beta_fast",
                   fmt::format("{}, expected more than beta_slow {}", rope.beta_fast, rope.beta_slow));
  }
}

// The inner object of transformers 4 (`rope_scaling`) or 5 (`rope_parameters`, which also holds rope_theta).
void read_scaling(JsonFields& scaling, bool has_yarn, RopeConfig& rope) {
  const std::string type = scaling.text(scaling.has("rope_type") ? "rope_type" : "type", "default");
  if (type == "default") return;
  if (type != "linear" && type != "llama3" && !(type == "yarn" && has_yarn)) {
    scaling.reject("rope_type",
                   fmt::format("{}, expected default, linear{} or llama3", type, has_yarn ? ", yarn" : ""));
    return;
  }
  rope.scaling = type == "linear" ? RopeScaling::kLinear
                 : type == "yarn" ? RopeScaling::kYarn
                                  : RopeScaling::kLlama3;
  rope.factor = scaling.number("factor", 1.0, 1e6);
  if (rope.scaling == RopeScaling::kLinear) return;
  if (rope.scaling == RopeScaling::kYarn) return read_yarn(scaling, rope);
  rope.low_freq_factor = scaling.number("low_freq_factor", 1e-3, 1e6);
  rope.high_freq_factor = scaling.number("high_freq_factor", 1e-3, 1e6);
  rope.original_max_position_embeddings =
      static_cast<double>(scaling.count("original_max_position_embeddings", 1, kPositionsMax));
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    scaling.reject("high_freq_factor", fmt::format("{}, expected more than low_freq_factor {}",
                                                   rope.high_freq_factor, rope.low_freq_factor));
  }
}

RopeConfig read_rope(JsonFields& fields, const std::string& file_name, bool has_yarn) {
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
  read_scaling(scaling, has_yarn, rope);
  if (scaling.failure()) fields.reject(key, scaling.failure()->message.substr(place.size() + 2));
  return rope;
}

void read_latent_attention(JsonFields& fields, ModelConfig& config) {
  MlaConfig& mla = config.mla;
  config.query_heads = fields.count("num_attention_heads", 1, kHeadsMax);
  config.kv_heads = config.query_heads;
  if (fields.has("q_lora_rank")) mla.q_lora_rank = fields.count("q_lora_rank", 1, kWidthMax);
  mla.kv_lora_rank = fields.count("kv_lora_rank", 1, kHeadDimMax);
  mla.nope_dim = fields.count("qk_nope_head_dim", 1, kHeadDimMax);
  mla.rope_dim = fields.count("qk_rope_head_dim", 2, kHeadDimMax);
  mla.value_dim = fields.count("v_head_dim", 1, kHeadDimMax);
  config.head_dim = mla.nope_dim + mla.rope_dim;
  if (mla.rope_dim % 2 != 0) {
    fields.reject("qk_rope_head_dim", fmt::format("{}, expected an even number", mla.rope_dim));
  }
  if (fields.boolean("attention_bias", false)) fields.reject("attention_bias", "true, expected false");
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

// The keys that DeepSeek's two generations share; V3 scores by sigmoid and chooses with a bias.
void read_deepseek_experts(JsonFields& fields, ModelConfig& config) {
  MoeConfig& moe = config.moe;
  if (!fields.has("n_routed_experts")) return;
  moe.experts = fields.count("n_routed_experts", 1, kExpertsMax);
  moe.experts_per_token = fields.count("num_experts_per_tok", 1, moe.experts);
  moe.intermediate_size = fields.count("moe_intermediate_size", 1, kWidthMax);
  moe.norm_topk_prob = fields.boolean("norm_topk_prob", config.architecture == Architecture::kDeepseekV3);
  moe.scaling = static_cast<float>(fields.number("routed_scaling_factor", 1e-6, 1e6, 1.0));
  if (fields.has("n_shared_experts")) {
    moe.shared_intermediate_size = fields.count("n_shared_experts", 0, kExpertsMax) * moe.intermediate_size;
  }
  const bool is_v3 = config.architecture == Architecture::kDeepseekV3;
  const std::string scoring = fields.text("scoring_func", is_v3 ? "sigmoid" : "softmax");
  if (scoring != "sigmoid" && scoring != "softmax") {
    fields.reject("scoring_func", scoring + ", expected sigmoid or softmax");
  }
  moe.sigmoid = scoring == "sigmoid";
  const std::string method = fields.text("topk_method", is_v3 ? "noaux_tc" : "greedy");
  if (method != "noaux_tc" && method != "greedy" && method != "group_limited_greedy") {
    fields.reject("topk_method", method + ", expected noaux_tc, group_limited_greedy or greedy");
  }
  moe.choice_bias = method == "noaux_tc";
  if (method != "greedy") {
    moe.groups = fields.count("n_group", 1, moe.experts, 1);
    moe.groups_per_token = fields.count("topk_group", 1, moe.groups, moe.groups);
    if (moe.experts % moe.groups != 0) {
      fields.reject("n_group",
                    fmt::format("{}, expected a divisor of n_routed_experts {}", moe.groups, moe.experts));
    } else if (moe.experts_per_token > moe.groups_per_token * (moe.experts / moe.groups)) {
      fields.reject(
          "num_experts_per_tok",
          fmt::format("{}, expected at most the {} experts of topk_group {} groups", moe.experts_per_token,
                      moe.groups_per_token * (moe.experts / moe.groups), moe.groups_per_token));
    }
  }
  const size_t first = fields.count("first_k_dense_replace", 0, kLayersMax, 0);
  const size_t step = fields.count("moe_layer_freq", 1, kLayersMax, 1);
  for (size_t layer = 0; layer < config.layers; ++layer)
    config.layer_is_moe[layer] = layer >= first && layer % step == 0;
}

void read_experts(JsonFields& fields, ModelConfig& config) {
  config.layer_is_moe.assign(config.layers, false);
  if (is_deepseek(config)) return read_deepseek_experts(fields, config);
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
void reject_unsupported(JsonFields& fields, const ModelConfig& config) {
  if (const std::string act = fields.text("hidden_act", "silu"); act != "silu") {
    fields.reject("hidden_act", act + ", expected silu");
  }
  if (fields.boolean("use_sliding_window", false)) {
    fields.reject("use_sliding_window", "true, expected false: sliding windows are not supported");
  }
  // Mistral's first models look no further back than that; no other architecture reads the key without
  // use_sliding_window.
  const auto window = config.architecture == Architecture::kMistral
                          ? fields.optional_integer("sliding_window", 1, static_cast<int64_t>(kPositionsMax))
                          : std::nullopt;
  if (window && static_cast<size_t>(*window) < config.max_position_embeddings) {
    fields.reject("sliding_window",
                  fmt::format("{}, expected null or at least max_position_embeddings {}: sliding windows "
                              "are not supported",
                              *window, config.max_position_embeddings));
  }
  if (fields.boolean("mlp_bias", false)) fields.reject("mlp_bias", "true, expected false");
  for (const std::string& type : fields.texts("layer_types")) {
    if (type != "full_attention") fields.reject("layer_types", type + ", expected full_attention");
  }
}

void read_quantization(JsonFields& fields, const std::string& file_name, BlockFp8Config& fp8) {
  const json::object* object = fields.object("quantization_config");
  if (object == nullptr) return;
  const std::string place = file_name + ": quantization_config";
  JsonFields inner(place, *object);
  if (const std::string method = inner.text("quant_method", ""); method != "fp8") {
    inner.reject("quant_method",
                 method + ", expected fp8 (or weights in bf16, f16 or f32 and no quantization_config)");
  }
  if (const std::string format = inner.text("fmt", "e4m3"); format != "e4m3") {
    inner.reject("fmt", format + ", expected e4m3");
  }
  const std::vector<int64_t> block = inner.integers("weight_block_size", 1, static_cast<int64_t>(kWidthMax));
  if (block.size() != 2) {
    inner.reject("weight_block_size", fmt::format("[{}], expected two numbers", fmt::join(block, ", ")));
  } else {
    fp8 = {static_cast<size_t>(block[0]), static_cast<size_t>(block[1])};
  }
  if (inner.failure())
    fields.reject("quantization_config", inner.failure()->message.substr(place.size() + 2));
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
  if (is_deepseek(config)) {
    read_latent_attention(fields, config);
  } else {
    read_attention(fields, config);
  }
  config.rope = read_rope(fields, std::string(file_name), is_deepseek(config));
  read_experts(fields, config);
  config.dtype = read_dtype(fields);
  read_quantization(fields, std::string(file_name), config.fp8);
  config.eos_token_ids = read_token_ids(fields, "eos_token_id", config.vocab_size);
  const std::vector<TokenId> bos = read_token_ids(fields, "bos_token_id", config.vocab_size);
  if (!bos.empty()) config.bos_token_id = bos.front();
  reject_unsupported(fields, config);
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
