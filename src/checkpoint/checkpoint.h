// A checkpoint directory as Hugging Face lays it out: config.json, generation_config.json, safetensors in one
// file (model.safetensors) or in shards (model.safetensors.index.json), tokenizer and template files. Opening
// maps the weights and checks every header against the config: each tensor that the architecture needs is
// there with the right shape and a float dtype (float8 with its factors beside it), and nothing is there that
// it does not know. No weight is read.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "checkpoint/model_config.h"
#include "checkpoint/safetensors.h"

namespace baton::checkpoint {

inline constexpr size_t kShardsMax = 512;
inline constexpr size_t kIndexBytesMax = 64U << 20;

// Which of the files that text/ reads exist.
struct TextFiles {
  std::optional<std::filesystem::path> tokenizer;         // tokenizer.json
  std::optional<std::filesystem::path> tokenizer_config;  // tokenizer_config.json
  std::optional<std::filesystem::path> chat_template;     // chat_template.jinja
};

// Movable, not copyable. Immutable once opened: any thread may read it. The spans of `tensors` point into
// `files` and live as long as the checkpoint.
struct Checkpoint {
  std::filesystem::path directory;
  ModelConfig config;
  GenerationConfig generation;
  TextFiles text_files;
  std::vector<SafetensorsFile> files;
  std::map<std::string, const Tensor*, std::less<>> tensors;  // by name; surplus ones are left out
  std::vector<std::string> notices;  // oddities that were tolerated, one sentence each, for the log

  // kNotFound names the missing file; kInvalid and kCorrupt name file, key or tensor, value and expectation.
  static Result<Checkpoint> open(const std::filesystem::path& directory);

  // A tensor that the architecture needs; CHECKs that it is there (open() made sure).
  const Tensor& tensor(std::string_view name) const;

  // Sum of the bytes of `tensors`.
  uint64_t weight_bytes() const;
};

// weight_map of model.safetensors.index.json: tensor -> file. The files are plain names of the same
// directory, at most kShardsMax. kInvalid names `file`, tensor and expectation.
using WeightMap = std::map<std::string, std::string, std::less<>>;
Result<WeightMap> parse_weight_index(std::string_view text, std::string_view file);

// generation_config.json of a directory, which need not hold a checkpoint; nothing if it has none.
Result<std::optional<GenerationConfig>> read_generation_config(const std::filesystem::path& directory,
                                                               size_t vocab_size);

// A tensor that `config` calls for. Names are those of transformers' state dicts.
struct ExpectedTensor {
  std::string name;
  std::vector<uint64_t> shape;  // linear layers are [out, in]
};
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);

}  // namespace baton::checkpoint
