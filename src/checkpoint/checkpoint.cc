#include "checkpoint/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <set>
#include <utility>

#include "base/check.h"

namespace baton::checkpoint {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

Result<WeightMap> read_index(const fs::path& path) {
  TRY(const std::string text, read_text_file(path, kIndexBytesMax));
  return parse_weight_index(text, path.string());
}

// Opens every file of the index and holds it against the map.
Result<std::vector<SafetensorsFile>> open_shards(const fs::path& directory, const WeightMap& weights) {
  std::map<std::string, size_t> promised;  // tensors per file
  for (const auto& [tensor, file] : weights) ++promised[file];
  std::vector<SafetensorsFile> files;
  for (const auto& [name, count] : promised) {
    TRY(SafetensorsFile file, SafetensorsFile::open(directory / name));
    for (const Tensor& tensor : file.tensors) {
      const auto entry = weights.find(tensor.name);
      if (entry != weights.end() && entry->second == name) continue;
      return fail(Code::kCorrupt,
                  fmt::format("{}: tensor {}: {} says it is in {}", file.file.path(), tensor.name, kIndexFile,
                              entry == weights.end() ? "no file" : std::string_view(entry->second)));
    }
    if (file.tensors.size() != count) {
      const auto missing = std::ranges::find_if(weights, [&](const auto& entry) {
        return entry.second == name && file.find(entry.first) == nullptr;
      });
      return fail(Code::kCorrupt, fmt::format("{}: tensor {}: missing, expected here by {}", file.file.path(),
                                              missing == weights.end() ? "?" : missing->first, kIndexFile));
    }
    files.push_back(std::move(file));
  }
  return files;
}

Result<std::vector<SafetensorsFile>> open_weights(const fs::path& directory) {
  std::vector<SafetensorsFile> files;
  if (is_file(directory / kSingleFile)) {
    TRY(SafetensorsFile file, SafetensorsFile::open(directory / kSingleFile));
    files.push_back(std::move(file));
    return files;
  }
  if (!is_file(directory / kIndexFile)) {
    return fail(Code::kNotFound, fmt::format("{}: no weights, expected {} or {}", directory.string(),
                                             kSingleFile, kIndexFile));
  }
  TRY(const WeightMap weights, read_index(directory / kIndexFile));
  return open_shards(directory, weights);
}

bool is_float(DType dtype) { return dtype == DType::kBf16 || dtype == DType::kF16 || dtype == DType::kF32; }

Result<void> check_tensor(const Tensor& tensor, const ExpectedTensor& expected, std::string_view file) {
  if (tensor.shape != expected.shape) {
    return fail(Code::kCorrupt,
                fmt::format("{}: tensor {}: shape {}, expected {} by config.json", file, tensor.name,
                            shape_text(tensor.shape), shape_text(expected.shape)));
  }
  if (!is_float(tensor.dtype) && tensor.dtype != DType::kF8E4M3) {
    return fail(Code::kCorrupt, fmt::format("{}: tensor {}: {}, expected bfloat16, float16 or float32", file,
                                            tensor.name, dtype_name(tensor.dtype)));
  }
  return {};
}

// Tensors that checkpoints carry beside what their architecture needs and that change nothing.
bool is_tolerated(std::string_view name, const ModelConfig& config) {
  return name.ends_with(".rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight");
}

// Layers behind the last one predict further tokens (DeepSeek-AI 2024b, 2.2): no part of the main model.
bool is_of_later_layer(std::string_view name, const ModelConfig& config) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!config.has_latent_attention() || !name.starts_with(kPrefix)) return false;
  size_t layer = 0;
  const char* begin = name.data() + kPrefix.size();
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), layer);
  return error == std::errc() && end != name.data() + name.size() && *end == '.' && layer >= config.layers;
}

struct Located {
  const Tensor* tensor;
  const SafetensorsFile* file;
};
using Directory = std::map<std::string, Located, std::less<>>;

Result<Directory> all_tensors(const std::vector<SafetensorsFile>& files) {
  Directory all;
  for (const SafetensorsFile& file : files) {
    for (const Tensor& tensor : file.tensors) all.emplace(tensor.name, Located{&tensor, &file});
  }
  return all;
}

// The factors of a float8 weight, which lie beside it.
Result<void> match_scales(const Tensor& weight, std::string_view file, Directory& all,
                          Checkpoint& checkpoint) {
  const BlockFp8Config& fp8 = checkpoint.config.fp8;
  if (fp8.rows == 0 || weight.shape.size() != 2) {
    return fail(
        Code::kCorrupt,
        fmt::format("{}: tensor {}: {}, expected bfloat16, float16 or float32 where config.json has no "
                    "quantization_config for it",
                    file, weight.name, dtype_name(weight.dtype)));
  }
  const ExpectedTensor expected{
      weight.name + "_scale_inv",
      {(weight.shape[0] + fp8.rows - 1) / fp8.rows, (weight.shape[1] + fp8.cols - 1) / fp8.cols}};
  const auto found = all.find(expected.name);
  if (found == all.end()) {
    return fail(Code::kCorrupt, fmt::format("{}: tensor {} {}: missing, expected beside {}", file,
                                            expected.name, shape_text(expected.shape), weight.name));
  }
  const Tensor& scales = *found->second.tensor;
  TRY_DO(check_tensor(scales, expected, found->second.file->file.path()));
  if (scales.dtype != DType::kF32) {
    return fail(Code::kCorrupt,
                fmt::format("{}: tensor {}: {}, expected float32", found->second.file->file.path(),
                            scales.name, dtype_name(scales.dtype)));
  }
  checkpoint.tensors.emplace(expected.name, &scales);
  all.erase(found);
  return {};
}

// Takes what the config expects out of `all`; what remains must be tolerated.
Result<void> match(Directory all, Checkpoint& checkpoint) {
  std::vector<std::string> missing;
  for (const ExpectedTensor& expected : expected_tensors(checkpoint.config)) {
    const auto found = all.find(expected.name);
    if (found == all.end()) {
      missing.push_back(expected.name + " " + shape_text(expected.shape));
      continue;
    }
    TRY_DO(check_tensor(*found->second.tensor, expected, found->second.file->file.path()));
    const Tensor& tensor = *found->second.tensor;
    checkpoint.tensors.emplace(expected.name, &tensor);
    const std::string_view file = found->second.file->file.path();
    all.erase(found);
    if (tensor.dtype == DType::kF8E4M3) TRY_DO(match_scales(tensor, file, all, checkpoint));
  }
  const std::string where = checkpoint.directory.string();
  if (!missing.empty()) {
    return fail(Code::kCorrupt,
                fmt::format("{}: tensor {}: missing, expected by config.json ({} missing in all)", where,
                            missing.front(), missing.size()));
  }
  size_t later = 0;
  for (const auto& [name, located] : all) {
    if (is_of_later_layer(name, checkpoint.config)) {
      ++later;
      continue;
    }
    if (!is_tolerated(name, checkpoint.config)) {
      return fail(Code::kCorrupt,
                  fmt::format("{}: tensor {} {}: surplus, {} with {} layers has no such tensor",
                              located.file->file.path(), name, shape_text(located.tensor->shape),
                              architecture_name(checkpoint.config.architecture), checkpoint.config.layers));
    }
    checkpoint.notices.push_back(fmt::format("{}: tensor {}: ignored", located.file->file.path(), name));
  }
  if (later > 0) {
    checkpoint.notices.push_back(
        fmt::format("{}: {} tensors of layers from {} on, which predict further tokens: ignored", where,
                    later, checkpoint.config.layers));
  }
  return {};
}

TextFiles find_text_files(const fs::path& directory) {
  const auto if_exists = [&](std::string_view name) {
    return is_file(directory / name) ? std::optional(directory / name) : std::nullopt;
  };
  return {if_exists("tokenizer.json"), if_exists("tokenizer_config.json"), if_exists("chat_template.jinja")};
}

}  // namespace

Result<std::optional<GenerationConfig>> read_generation_config(const fs::path& directory, size_t vocab_size) {
  const fs::path path = directory / "generation_config.json";
  if (!is_file(path)) return std::nullopt;
  TRY(const std::string text, read_text_file(path, kConfigBytesMax));
  TRY(GenerationConfig config, parse_generation_config(text, path.string(), vocab_size));
  return config;
}

Result<WeightMap> parse_weight_index(std::string_view text, std::string_view file) {
  boost::system::error_code error;
  const json::value document = json::parse(text, error);
  if (error) return fail(Code::kInvalid, fmt::format("{}: not valid JSON: {}", file, error.message()));
  const json::object* root = document.if_object();
  const json::value* map = root == nullptr ? nullptr : root->if_contains("weight_map");
  if (map == nullptr || !map->is_object() || map->get_object().empty()) {
    return fail(Code::kInvalid, fmt::format("{}: weight_map: expected an object of tensor: file", file));
  }
  WeightMap weights;
  std::set<std::string, std::less<>> shards;
  for (const auto& [tensor, shard] : map->get_object()) {
    const std::string name = shard.is_string() ? std::string(shard.get_string()) : "";
    if (!name.ends_with(".safetensors") || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      return fail(Code::kInvalid,
                  fmt::format("{}: weight_map: {}: expected the name of a .safetensors file beside it", file,
                              std::string_view(tensor)));
    }
    shards.insert(name);
    weights.emplace(std::string(tensor), name);
  }
  if (shards.size() > kShardsMax) {
    return fail(Code::kInvalid,
                fmt::format("{}: {} files, expected at most {}", file, shards.size(), kShardsMax));
  }
  return weights;
}

Result<Checkpoint> Checkpoint::open(const fs::path& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    return fail(Code::kNotFound,
                fmt::format("{}: no such directory, expected a Hugging Face checkpoint", directory.string()));
  }
  Checkpoint checkpoint;
  checkpoint.directory = directory;
  const fs::path config_path = directory / "config.json";
  TRY(const std::string config_text, read_text_file(config_path, kConfigBytesMax));
  TRY(checkpoint.config, parse_model_config(config_text, config_path.string()));
  TRY(auto generation, read_generation_config(directory, checkpoint.config.vocab_size));
  checkpoint.generation = std::move(generation).value_or(GenerationConfig{});
  checkpoint.text_files = find_text_files(directory);
  TRY(checkpoint.files, open_weights(directory));
  TRY(Directory all, all_tensors(checkpoint.files));
  TRY_DO(match(std::move(all), checkpoint));
  return checkpoint;
}

const Tensor& Checkpoint::tensor(std::string_view name) const {
  const auto found = tensors.find(name);
  CHECK(found != tensors.end(), "no tensor {}", name);
  return *found->second;
}

uint64_t Checkpoint::weight_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, tensor] : tensors) bytes += tensor->bytes.size();
  return bytes;
}

}  // namespace baton::checkpoint
