#include "text/bpe/tokenizer_parts.h"

#include <atomic>

#include "text/bpe/byte_alphabet.h"
#include "text/bpe/config_json.h"
#include "text/bpe/json_field.h"
#include "text/bpe/model_json.h"
#include "text/bpe/pipeline_json.h"

namespace baton::text::bpe {

namespace {

constexpr size_t kJsonDepthMax = 64;

// A parsed file. The document lives in the parser, which lives here.
struct JsonFile {
  simdjson::dom::parser parser;
  simdjson::dom::element root;
};

Result<void> parse(std::string_view name, std::string_view bytes, JsonFile& file) {
  simdjson::error_code error = file.parser.allocate(bytes.size(), kJsonDepthMax);
  if (error == simdjson::SUCCESS) error = file.parser.parse(bytes.data(), bytes.size()).get(file.root);
  if (error != simdjson::SUCCESS) {
    return fail(Code::kCorrupt, fmt::format("{}: {}", name, simdjson::error_message(error)));
  }
  if (!file.root.is_object()) return fail(Code::kCorrupt, fmt::format("{}: expected an object", name));
  return {};
}

}  // namespace

TokenId TokenizerParts::id_of_spelled(std::string_view spelled) const {
  std::string bytes;
  if (append_spelled_bytes(bytes, spelled)) return vocabulary.find(bytes);
  const auto raw = raw_ids.find(std::string(spelled));
  return raw == raw_ids.end() ? kNoToken : raw->second;
}

Result<TokenizerParts> read_tokenizer(std::string_view tokenizer_json, std::string_view config_json) {
  static std::atomic<uint64_t> tokenizers = 0;
  TokenizerParts parts;
  parts.serial = ++tokenizers;
  JsonFile json;
  TRY_DO(parse("tokenizer.json", tokenizer_json, json));
  const Field file(json.root, "tokenizer.json: ");
  TRY(const Field model, file.required("model"));
  TRY_DO(read_model(model, parts));
  TRY_DO(read_added_tokens(file, parts));
  TRY_DO(read_normalizer(file, parts));
  TRY_DO(read_pre_tokenizer(file, parts));
  TRY_DO(check_decoder(file));
  TRY_DO(read_post_processor(file, parts));
  if (!config_json.empty()) TRY_DO(read_config(config_json, parts));
  TRY_DO(index_added_tokens(parts));
  return parts;
}

}  // namespace baton::text::bpe
