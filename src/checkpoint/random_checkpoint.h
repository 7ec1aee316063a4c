// Writes checkpoints of real sizes with random weights, so that speed can be measured without any download.
// The weights are drawn so that activations and logits stay in a sane range; answers are noise.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "checkpoint/model_config.h"

namespace baton::checkpoint {

// "qwen3-0.6b", "qwen3-1.7b", "llama-1b", "qwen3-moe-1b", and "tiny" and "thick-kv" for tests. llama-1b has
// Llama 3.2 1B's dimensions but 151,936 embedding rows, so that it goes with the same tokenizer as the
// others.
std::vector<std::string_view> random_checkpoint_shapes();

// The config.json of such a checkpoint, as it is read. kInvalid for an unknown shape lists the known ones.
Result<ModelConfig> random_checkpoint_config(std::string_view shape_name);

// Writes config.json, generation_config.json, bf16 safetensors (shards of at most 2 GB) and copies of
// tokenizer.json, tokenizer_config.json and chat_template.jinja (those that exist) from `tokenizer_dir`.
// Creates `directory`; files in it are replaced. The same shape and seed give the same bytes everywhere.
Result<void> write_random_checkpoint(std::string_view shape_name, const std::filesystem::path& directory,
                                     const std::filesystem::path& tokenizer_dir, uint64_t seed = 0);

}  // namespace baton::checkpoint
