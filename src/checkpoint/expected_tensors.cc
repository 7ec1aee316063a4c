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

void add_attention(const ModelConfig& config, const std::string& name, TensorList& list) {
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
  }
  list.add("model.norm.weight", {hidden});
  if (!config.tie_word_embeddings) list.add("lm_head.weight", {config.vocab_size, hidden});
  return list.take();
}

}  // namespace baton::checkpoint
