// Any text as config.json, as generation_config.json and as the index of shards: what is accepted can be
// turned into a list of tensors, and no shard lies outside the checkpoint's folder.
#include "base/check.h"
#include "checkpoint/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto config = baton::checkpoint::parse_model_config(text, "config.json")) {
    CHECK(config->query_heads % config->kv_heads == 0 && config->head_dim >= 2);
    CHECK(config->layer_is_moe.size() == config->layers);
    if (config->layers * (config->moe.experts + 1) < 1000) CHECK(!expected_tensors(*config).empty());
  }
  static_cast<void>(baton::checkpoint::parse_generation_config(text, "generation_config.json", 1000));
  if (const auto index = baton::checkpoint::parse_weight_index(text, "model.safetensors.index.json")) {
    for (const auto& [tensor, file] : *index) CHECK(file.find('/') == file.npos && file.size() >= 12);
  }
  return 0;
}
