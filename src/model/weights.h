// The weights of one decoder as views into the mapped checkpoint, in the order in which a pass reads them.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "checkpoint/checkpoint.h"
#include "kernels/cpu.h"
#include "kernels/experts.h"
#include "kernels/matrix.h"

namespace baton::model {

using kernels::ConstMatrix;
using kernels::ConstVector;

// y = x W^T + b, W [out, in]; a bias without data is none.
struct LinearWeights {
  ConstMatrix weight;
  ConstVector bias;
};

struct MlpWeights {  // down(silu(gate(x)) * up(x))
  ConstMatrix gate;  // [intermediate, hidden]
  ConstMatrix up;    // [intermediate, hidden]
  ConstMatrix down;  // [hidden, intermediate]
};

// Multi-head latent attention; the names of DeepSeek-AI 2024, section 2.1, in comments.
struct LatentAttentionWeights {
  ConstMatrix q_down;       // W^DQ [q_lora_rank, hidden], or none
  ConstVector q_norm;       // [q_lora_rank], with it
  ConstMatrix q;            // W^UQ and W^QR: [heads * (nope_dim + rope_dim), q_lora_rank or hidden]
  ConstMatrix kv_down;      // W^DKV and W^KR: [kv_lora_rank + rope_dim, hidden]
  ConstVector latent_norm;  // [kv_lora_rank]
  ConstMatrix kv_up;        // of each head W^UK [nope_dim, kv_lora_rank], then W^UV [value_dim, kv_lora_rank]
  ConstMatrix key_up_turned;  // W^UK of each head turned, [heads * kv_lora_rank, nope_dim]: a copy
};

struct LayerWeights {
  ConstVector attention_norm;     // [hidden]
  LinearWeights q;                // [query_heads * head_dim, hidden]
  LinearWeights k;                // [kv_heads * head_dim, hidden]
  LinearWeights v;                // [kv_heads * head_dim, hidden]
  ConstVector q_norm;             // [head_dim], or none
  ConstVector k_norm;             // [head_dim], or none
  LatentAttentionWeights latent;  // in place of all of these
  LinearWeights output;           // [hidden, query_heads * head_dim], or query_heads * value_dim of a latent
  ConstVector mlp_norm;           // [hidden]
  MlpWeights mlp;                 // of a dense layer
  ConstMatrix router;             // [experts, hidden], of a mixture-of-experts layer
  ConstVector choice_bias;        // f32 [experts], or none
  std::vector<kernels::Expert> experts;
  MlpWeights shared;  // of every token, beside the experts; or none
};

struct DecoderWeights {
  ConstMatrix embedding;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  ConstVector final_norm;  // [hidden]
  ConstMatrix head;        // [vocab, hidden]; the embedding where they are tied

  size_t copied_bytes = 0;  // of weights that could not stay in the file
  std::vector<std::unique_ptr<std::byte[]>> copies;
};

// Views for a model that computes in `activation` (kBf16 or kF32). The checkpoint must outlive them. What the
// kernels cannot read in place is copied: in bf16 every linear weight that is not bf16, float8 weights times
// their factors (in the type of the activations), and misaligned tensors.
DecoderWeights load_weights(const checkpoint::Checkpoint& checkpoint, DType activation,
                            const kernels::Cpu& cpu);

}  // namespace baton::model
