// config.json of a Hugging Face checkpoint, as transformers 4 (rope_theta, rope_scaling, torch_dtype) and
// transformers 5 (rope_parameters, dtype) write it, reduced to what the built-in architectures need and
// checked: values in range, divisibility, nothing that would silently change the mathematics.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/ids.h"
#include "base/result.h"

namespace baton::checkpoint {

inline constexpr size_t kConfigBytesMax = 16U << 20;

enum class Architecture : uint8_t { kQwen3, kQwen3Moe, kQwen2, kLlama, kMistral, kDeepseekV3, kDeepseekV2 };

// "Qwen3ForCausalLM", ...: the names in config.json's `architectures`.
std::string_view architecture_name(Architecture architecture);

// How positions become rotation frequencies. inv_freq[i] = theta^(-2i / head_dim) before scaling.
enum class RopeScaling : uint8_t {
  kNone,
  kLinear,  // all frequencies divided by `factor`
  kLlama3,  // low frequencies divided by `factor`, smooth in between (Llama 3.1)
  kYarn,    // low frequencies divided by `factor`, a ramp in between (Peng et al. 2023)
};

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;                          // at least 1
  double low_freq_factor = 1.0;                 // kLlama3
  double high_freq_factor = 4.0;                // kLlama3
  double original_max_position_embeddings = 0;  // kLlama3, kYarn
  double beta_fast = 32.0;      // kYarn: rotations within the original length above which nothing changes
  double beta_slow = 1.0;       // kYarn: and below which a frequency is divided whole
  double mscale = 1.0;          // kYarn, of DeepSeek: cos and sin times m(mscale) / m(mscale_all_dim),
  double mscale_all_dim = 0.0;  // scores times m(mscale_all_dim)^2; m(x) = 0.1 x ln(factor) + 1
};

// Multi-head latent attention (DeepSeek-AI 2024): K and V are expanded from one latent per token.
struct MlaConfig {
  size_t q_lora_rank = 0;   // 0: q comes straight from the hidden state
  size_t kv_lora_rank = 0;  // width of the latent; 0: no such attention
  size_t nope_dim = 0;      // of a head of q and K: the part without rotary positions, which comes first
  size_t rope_dim = 0;      // and the rotated part; one for all heads of K
  size_t value_dim = 0;     // of a head of V
};

// Mixture of experts (Qwen3-MoE, DeepSeek).
struct MoeConfig {
  size_t experts = 0;            // 0: every layer is dense
  size_t experts_per_token = 0;  // 1..experts
  size_t intermediate_size = 0;  // of one expert
  bool norm_topk_prob = false;   // the chosen weights are divided by their sum
  bool sigmoid = false;          // an expert's score is the sigmoid of its logit, not the softmax over all
  bool choice_bias = false;      // e_score_correction_bias is added to the scores, for the choice alone
  size_t groups = 1;             // of neighbouring experts; 1: no groups
  size_t groups_per_token = 1;   // only experts of that many groups are chosen
  float scaling = 1.0F;          // of the weights, last
  size_t shared_intermediate_size = 0;  // of the expert that every token takes; 0: none
};

// Linear weights in float8_e4m3fn, each with a float32 factor per block beside it, NAME_scale_inv
// [ceil(out / rows), ceil(in / cols)]: DeepSeek's and Qwen's "fp8". No rows: none.
struct BlockFp8Config {
  size_t rows = 0;
  size_t cols = 0;
};

struct ModelConfig {
  Architecture architecture = Architecture::kQwen3;
  std::string model_type;  // "qwen3", as the file says; for people
  size_t vocab_size = 0;   // rows of the embedding; may exceed the tokenizer's tokens
  size_t hidden_size = 0;
  size_t layers = 0;
  size_t query_heads = 0;
  size_t kv_heads = 0;  // divides query_heads
  size_t head_dim = 0;  // even; query_heads x head_dim need not be hidden_size. MLA: nope_dim + rope_dim
  size_t intermediate_size = 0;  // of a dense MLP
  size_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-6F;
  RopeConfig rope;
  bool qkv_bias = false;             // q_proj, k_proj, v_proj have a bias
  bool output_bias = false;          // o_proj has one
  bool qk_norm = false;              // q_norm, k_norm [head_dim] before rope
  bool tie_word_embeddings = false;  // logits use the embedding; no lm_head
  BlockFp8Config fp8;
  MlaConfig mla;
  MoeConfig moe;
  std::vector<bool> layer_is_moe;      // [layers]
  DType dtype = DType::kBf16;          // what the file says its weights are; the tensors decide
  std::vector<TokenId> eos_token_ids;  // each in [0, vocab_size)
  std::optional<TokenId> bos_token_id;

  bool has_latent_attention() const { return mla.kv_lora_rank > 0; }
};

// Parses the text of config.json. `file_name` goes into messages. kInvalid names the key, the value and what
// was expected; an unknown architecture's message lists the known ones.
Result<ModelConfig> parse_model_config(std::string_view json, std::string_view file_name);

// generation_config.json: what a request that leaves them out gets, as vLLM's `--generation-config auto` does
// (do_sample is ignored, as there). Absent keys are nothing.
struct GenerationConfig {
  std::optional<double> temperature;         // >= 0
  std::optional<double> top_p;               // (0, 1]
  std::optional<int64_t> top_k;              // -1 or 0: off
  std::optional<double> min_p;               // [0, 1]
  std::optional<double> repetition_penalty;  // > 0
  std::optional<int64_t> max_new_tokens;     // >= 1
  std::vector<TokenId> eos_token_ids;        // further ids that end an answer
};

Result<GenerationConfig> parse_generation_config(std::string_view json, std::string_view file_name,
                                                 size_t vocab_size);

}  // namespace baton::checkpoint
