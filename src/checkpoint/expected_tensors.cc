#include <fmt/format.h>

#include "checkpoint/checkpoint.h"

namespace baton::checkpoint {
namespace {

class TensorList {
 public:
  void add(std::string name, std::vector<uint64_t> shape) {
    tensors_.push_back({std::move(name), std::move(shape)});
  }
  void add_linear(const std::string& name, uint64_t out, uint64_t in, bool has_bias) {
    add(name + ".weight", {out, in});
    if (has_bias) add(name + ".bias", {out});
  }
  void add_mlp(const std::string& name, uint64_t hidden, uint64_t intermediate) {
    add_linear(name + ".gate_proj", intermediate, hidden, false);
    add_linear(name + ".up_proj", intermediate, hidden, false);
    add_linear(name + ".down_proj", hidden, intermediate, false);
  }
  std::vector<ExpectedTensor> take() { return std::move(tensors_); }

 private:
  std::vector<ExpectedTensor> tensors_;
};

void add_latent_attention(const ModelConfig& config, const std::string& name, TensorList& list) {
  const MlaConfig& mla = config.mla;
  const uint64_t query_width = config.query_heads * (mla.nope_dim + mla.rope_dim);
  if (mla.q_lora_rank == 0) {
    list.add_linear(name + ".q_proj", query_width, config.hidden_size, false);
  } else {
    list.add_linear(name + ".q_a_proj", mla.q_lora_rank, config.hidden_size, false);
    list.add(name + ".q_a_layernorm.weight", {mla.q_lora_rank});
    list.add_linear(name + ".q_b_proj", query_width, mla.q_lora_rank, false);
  }
  list.add_linear(name + ".kv_a_proj_with_mqa", mla.kv_lora_rank + mla.rope_dim, config.hidden_size, false);
  list.add(name + ".kv_a_layernorm.weight", {mla.kv_lora_rank});
  list.add_linear(name + ".kv_b_proj", config.query_heads * (mla.nope_dim + mla.value_dim), mla.kv_lora_rank,
                  false);
  list.add_linear(name + ".o_proj", config.hidden_size, config.query_heads * mla.value_dim, false);
}

void add_attention(const ModelConfig& config, const std::string& name, TensorList& list) {
  if (config.has_latent_attention()) return add_latent_attention(config, name, list);
  const uint64_t query_width = config.query_heads * config.head_dim;
  const uint64_t kv_width = config.kv_heads * config.head_dim;
  list.add_linear(name + ".q_proj", query_width, config.hidden_size, config.qkv_bias);
  list.add_linear(name + ".k_proj", kv_width, config.hidden_size, config.qkv_bias);
  list.add_linear(name + ".v_proj", kv_width, config.hidden_size, config.qkv_bias);
  list.add_linear(name + ".o_proj", config.hidden_size, query_width, config.output_bias);
  if (!config.qk_norm) return;
  list.add(name + ".q_norm.weight", {config.head_dim});
  list.add(name + ".k_norm.weight", {config.head_dim});
}

}  // namespace

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config) {
  TensorList list;
  const uint64_t hidden = config.hidden_size;
  list.add("model.embed_tokens.weight", {config.vocab_size, hidden});
  for (size_t layer = 0; layer < config.layers; ++layer) {
    const std::string name = fmt::format("model.layers.{}", layer);
    list.add(name + ".input_layernorm.weight", {hidden});
    add_attention(config, name + ".self_attn", list);
    list.add(name + ".post_attention_layernorm.weight", {hidden});
    if (!config.layer_is_moe[layer]) {
      list.add_mlp(name + ".mlp", hidden, config.intermediate_size);
      continue;
    }
    list.add_linear(name + ".mlp.gate", config.moe.experts, hidden, false);
    for (size_t expert = 0; expert < config.moe.experts; ++expert) {
      list.add_mlp(fmt::format("{}.mlp.experts.{}", name, expert), hidden, config.moe.intermediate_size);
    }
    if (config.moe.choice_bias) list.add(name + ".mlp.gate.e_score_correction_bias", {config.moe.experts});
    if (config.moe.shared_intermediate_size > 0) {
      list.add_mlp(name + ".mlp.shared_experts", hidden, config.moe.shared_intermediate_size);
    }
  }
  list.add("model.norm.weight", {hidden});
  if (!config.tie_word_embeddings) list.add("lm_head.weight", {config.vocab_size, hidden});
  return list.take();
}

}  // namespace baton::checkpoint
