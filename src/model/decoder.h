// The llama family of decoders: Llama 3.x, Qwen2 (biases on q, k, v), Qwen3 (norms on q and k), Qwen3-MoE,
// and DeepSeek-V2 and V3 with their latent attention. decoder.cc reads like the papers, from the embedding to
// the logits. Owned and called by the engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "kernels/cpu.h"
#include "model/language_model.h"

namespace baton::model {

// What --dtype asks for. kAuto follows the checkpoint: bf16 computes in bf16, float32 in float32, and f16 in
// float32 from the f16 weights, with a notice; kHalf does the latter for any checkpoint.
enum class DTypeChoice : uint8_t { kAuto, kBfloat16, kFloat32, kHalf };

// "auto", "bfloat16", "float32", "float", "half", "float16"; kInvalid lists them.
Result<DTypeChoice> parse_dtype_choice(std::string_view text);

struct DecoderOptions {
  DTypeChoice dtype = DTypeChoice::kAuto;
  uint32_t block_tokens = kv::kBlockTokensDefault;
  uint32_t batch_rows_max = 2048;  // --max-num-batched-tokens
  uint32_t logit_rows_max = 32;    // rows of one call to logits()
  uint32_t max_model_len = 0;      // 0: the config's max_position_embeddings; never more than that
};

struct LoadedDecoder {
  std::unique_ptr<LanguageModel> model;
  std::vector<std::string> notices;  // one sentence each, for the log
};

// Buffers are allocated here, once, for options.batch_rows_max rows. Weights stay where the file has them,
// unless bf16 is asked of a checkpoint that is not bf16 (a converted copy, with a notice) or a tensor is
// misaligned. The checkpoint is shared, because a background thread may be computing its complete fingerprint
// meanwhile. `cpu` must outlive the model. kInvalid names the config value that the kernels cannot do.
Result<LoadedDecoder> load_decoder(std::shared_ptr<const checkpoint::Checkpoint> checkpoint,
                                   const kernels::Cpu& cpu, const DecoderOptions& options);

}  // namespace baton::model
