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

struct LayerWeights {
  ConstVector attention_norm;  // [hidden]
  LinearWeights q;             // [query_heads * head_dim, hidden]
  LinearWeights k;             // [kv_heads * head_dim, hidden]
  LinearWeights v;             // [kv_heads * head_dim, hidden]
  ConstVector q_norm;          // [head_dim], or none
  ConstVector k_norm;          // [head_dim], or none
  LinearWeights output;        // [hidden, query_heads * head_dim]
  ConstVector mlp_norm;        // [hidden]
  MlpWeights mlp;              // of a dense layer
  ConstMatrix router;          // [experts, hidden], of a mixture-of-experts layer
  std::vector<kernels::Expert> experts;
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
// kernels cannot read in place is copied: in bf16 every linear weight that is not bf16, and misaligned
// tensors.
DecoderWeights load_weights(const checkpoint::Checkpoint& checkpoint, DType activation,
                            const kernels::Cpu& cpu);

}  // namespace baton::model
