#include "model/weights.h"

#include <fmt/format.h>

#include <cstring>
#include <map>

#include "base/check.h"
#include "kernels/elementwise.h"

namespace baton::model {
namespace {

using checkpoint::Checkpoint;
using checkpoint::Tensor;

class WeightReader {
 public:
  WeightReader(const Checkpoint& checkpoint, DType activation, const kernels::Cpu& cpu,
               DecoderWeights& weights)
      : checkpoint_(checkpoint), activation_(activation), cpu_(cpu), weights_(weights) {}

  // A matrix that a product reads: in bf16 it must be bf16.
  ConstMatrix matrix(const std::string& name) {
    if (const auto known = converted_.find(name); known != converted_.end()) return known->second;
    const Tensor& tensor = checkpoint_.tensor(name);
    CHECK(tensor.shape.size() == 2, "{}: {} dimensions", name, tensor.shape.size());
    const ConstMatrix stored{aligned(tensor), tensor.dtype, tensor.shape[0], tensor.shape[1],
                             tensor.shape[1]};
    if (stored.dtype == DType::kF8E4M3)
      return converted_.emplace(name, dequantised(name, stored)).first->second;
    if (activation_ == DType::kF32 || stored.dtype == DType::kBf16) return stored;
    std::byte* copy = new_copy(stored.rows * stored.cols * sizeof(Bf16));
    const kernels::Matrix target{copy, DType::kBf16, stored.rows, stored.cols, stored.cols};
    kernels::convert(cpu_, stored, target);
    return converted_.emplace(name, target).first->second;
  }

  ConstVector vector(const std::string& name) {
    const Tensor& tensor = checkpoint_.tensor(name);
    CHECK(tensor.shape.size() == 1, "{}: {} dimensions", name, tensor.shape.size());
    return {aligned(tensor), tensor.dtype, tensor.shape[0]};
  }

  // A float32 vector that a kernel reads as floats.
  ConstVector float_vector(const std::string& name) {
    const ConstVector stored = vector(name);
    if (stored.dtype == DType::kF32) return stored;
    std::byte* copy = new_copy(stored.size * sizeof(float));
    kernels::convert(cpu_, {stored.data, stored.dtype, 1, stored.size, stored.size},
                     {copy, DType::kF32, 1, stored.size, stored.size});
    return {copy, DType::kF32, stored.size};
  }

  // A float8 weight times the factors of its blocks, once and for all, in the type of the activations.
  ConstMatrix dequantised(const std::string& name, ConstMatrix stored) {
    const Tensor& tensor = checkpoint_.tensor(name + "_scale_inv");
    const auto* scales = static_cast<const float*>(aligned(tensor));
    const checkpoint::BlockFp8Config& block = checkpoint_.config.fp8;
    std::byte* copy = new_copy(stored.rows * stored.cols * size_of(activation_));
    const kernels::Matrix target{copy, activation_, stored.rows, stored.cols, stored.cols};
    cpu_.team().run(stored.rows, [&](size_t row) {
      const auto* from = static_cast<const uint8_t*>(stored.at(row, 0));
      const float* factors = scales + row / block.rows * tensor.shape[1];
      for (size_t col = 0; col < stored.cols; ++col) {
        const float value = float_of_e4m3(from[col]) * factors[col / block.cols];
        if (activation_ == DType::kF32) {
          static_cast<float*>(target.at(row, 0))[col] = value;
        } else {
          static_cast<Bf16*>(target.at(row, 0))[col] = to_bf16(value);
        }
      }
    });
    return target;
  }

  // Rows [head * step, head * step + rows) of `stored` for each head, turned: [heads * stored.cols, rows].
  ConstMatrix turned(ConstMatrix stored, size_t heads, size_t rows) {
    const size_t step = stored.rows / heads;
    const size_t element = size_of(stored.dtype);
    std::byte* copy = new_copy(heads * stored.cols * rows * element);
    for (size_t head = 0; head < heads; ++head) {
      for (size_t row = 0; row < rows; ++row) {
        const auto* from = static_cast<const std::byte*>(stored.at(head * step + row, 0));
        for (size_t col = 0; col < stored.cols; ++col) {
          std::memcpy(copy + ((head * stored.cols + col) * rows + row) * element, from + col * element,
                      element);
        }
      }
    }
    return {copy, stored.dtype, heads * stored.cols, rows, rows};
  }

  LinearWeights linear(const std::string& name, bool has_bias) {
    LinearWeights linear{matrix(name + ".weight"), {}};
    if (has_bias) linear.bias = vector(name + ".bias");
    return linear;
  }

  MlpWeights mlp(const std::string& name) {
    return {matrix(name + ".gate_proj.weight"), matrix(name + ".up_proj.weight"),
            matrix(name + ".down_proj.weight")};
  }

 private:
  const void* aligned(const Tensor& tensor) {
    if (reinterpret_cast<uintptr_t>(tensor.bytes.data()) % size_of(tensor.dtype) == 0)
      return tensor.bytes.data();
    std::byte* copy = new_copy(tensor.bytes.size());
    std::memcpy(copy, tensor.bytes.data(), tensor.bytes.size());
    return copy;
  }

  std::byte* new_copy(size_t bytes) {
    weights_.copied_bytes += bytes;
    return weights_.copies.emplace_back(std::make_unique_for_overwrite<std::byte[]>(bytes)).get();
  }

  const Checkpoint& checkpoint_;
  const DType activation_;
  const kernels::Cpu& cpu_;
  DecoderWeights& weights_;
  std::map<std::string, ConstMatrix> converted_;  // so that a tied embedding is converted once
};

void read_attention(WeightReader& reader, const checkpoint::ModelConfig& config, const std::string& name,
                    LayerWeights& weights) {
  weights.q = reader.linear(name + ".q_proj", config.qkv_bias);
  weights.k = reader.linear(name + ".k_proj", config.qkv_bias);
  weights.v = reader.linear(name + ".v_proj", config.qkv_bias);
  if (!config.qk_norm) return;
  weights.q_norm = reader.vector(name + ".q_norm.weight");
  weights.k_norm = reader.vector(name + ".k_norm.weight");
}

LatentAttentionWeights read_latent_attention(WeightReader& reader, const checkpoint::ModelConfig& config,
                                             const std::string& name) {
  LatentAttentionWeights weights;
  if (config.mla.q_lora_rank > 0) {
    weights.q_down = reader.matrix(name + ".q_a_proj.weight");
    weights.q_norm = reader.vector(name + ".q_a_layernorm.weight");
    weights.q = reader.matrix(name + ".q_b_proj.weight");
  } else {
    weights.q = reader.matrix(name + ".q_proj.weight");
  }
  weights.kv_down = reader.matrix(name + ".kv_a_proj_with_mqa.weight");
  weights.latent_norm = reader.vector(name + ".kv_a_layernorm.weight");
  weights.kv_up = reader.matrix(name + ".kv_b_proj.weight");
  weights.key_up_turned = reader.turned(weights.kv_up, config.query_heads, config.mla.nope_dim);
  return weights;
}

LayerWeights read_layer(WeightReader& reader, const checkpoint::ModelConfig& config, size_t layer) {
  const std::string name = fmt::format("model.layers.{}", layer);
  const std::string attention = name + ".self_attn";
  LayerWeights weights;
  weights.attention_norm = reader.vector(name + ".input_layernorm.weight");
  if (config.has_latent_attention()) {
    weights.latent = read_latent_attention(reader, config, attention);
  } else {
    read_attention(reader, config, attention, weights);
  }
  weights.output = reader.linear(attention + ".o_proj", config.output_bias);
  weights.mlp_norm = reader.vector(name + ".post_attention_layernorm.weight");
  if (!config.layer_is_moe[layer]) {
    weights.mlp = reader.mlp(name + ".mlp");
    return weights;
  }
  weights.router = reader.matrix(name + ".mlp.gate.weight");
  for (size_t expert = 0; expert < config.moe.experts; ++expert) {
    const MlpWeights mlp = reader.mlp(fmt::format("{}.mlp.experts.{}", name, expert));
    weights.experts.push_back({mlp.gate, mlp.up, mlp.down});
  }
  if (config.moe.choice_bias)
    weights.choice_bias = reader.float_vector(name + ".mlp.gate.e_score_correction_bias");
  if (config.moe.shared_intermediate_size > 0) weights.shared = reader.mlp(name + ".mlp.shared_experts");
  return weights;
}

}  // namespace

DecoderWeights load_weights(const Checkpoint& checkpoint, DType activation, const kernels::Cpu& cpu) {
  const checkpoint::ModelConfig& config = checkpoint.config;
  DecoderWeights weights;
  WeightReader reader(checkpoint, activation, cpu, weights);
  weights.embedding = reader.matrix("model.embed_tokens.weight");
  for (size_t layer = 0; layer < config.layers; ++layer)
    weights.layers.push_back(read_layer(reader, config, layer));
  weights.final_norm = reader.vector("model.norm.weight");
  weights.head = config.tie_word_embeddings ? weights.embedding : reader.matrix("lm_head.weight");
  return weights;
}

}  // namespace baton::model
