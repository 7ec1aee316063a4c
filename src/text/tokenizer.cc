#include "text/tokenizer.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>

#include "text/bpe/encode.h"
#include "text/bpe/tokenizer_parts.h"
#include "text/utf8.h"

namespace baton::text {

namespace {

Result<std::string> read_file(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status))
    return fail(Code::kNotFound, fmt::format("{}: no such file", path.string()));
  if (!std::filesystem::is_regular_file(status)) {
    return fail(Code::kIo, fmt::format("{}: expected a regular file", path.string()));
  }
  const auto bytes = std::filesystem::file_size(path, error);
  if (error) return fail(Code::kIo, fmt::format("{}: {}", path.string(), error.message()));
  if (bytes > kTokenizerFileBytesMax) {
    return fail(Code::kCorrupt, fmt::format("{}: {} bytes, expected at most {}", path.string(), bytes,
                                            kTokenizerFileBytesMax));
  }
  std::string content(bytes, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(content.data(), static_cast<std::streamsize>(bytes));
  if (static_cast<uintmax_t>(file.gcount()) != bytes) {
    return fail(Code::kIo, fmt::format("{}: read {} of {} bytes", path.string(), file.gcount(), bytes));
  }
  return content;
}

size_t first_ill_formed(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Piece piece = utf8_piece(text, at);
    if (piece.kind != Utf8Kind::kCharacter) break;
    at += piece.bytes;
  }
  return at;
}

}  // namespace

Result<Tokenizer> Tokenizer::load(const std::string& dir) {
  const std::filesystem::path folder(dir);
  TRY(const std::string json, read_file(folder / "tokenizer.json"));
  std::string config;
  std::error_code error;
  if (std::filesystem::exists(folder / "tokenizer_config.json", error)) {
    TRY(config, read_file(folder / "tokenizer_config.json"));
  }
  auto tokenizer = parse(json, config);
  if (!tokenizer) return fail(tokenizer.error().code, fmt::format("{}: {}", dir, tokenizer.error().message));
  return tokenizer;
}

Result<Tokenizer> Tokenizer::parse(std::string_view tokenizer_json, std::string_view config_json) {
  TRY(bpe::TokenizerParts parts, bpe::read_tokenizer(tokenizer_json, config_json));
  return Tokenizer(std::make_unique<const bpe::TokenizerParts>(std::move(parts)));
}

Tokenizer::Tokenizer(std::unique_ptr<const bpe::TokenizerParts> parts) : parts_(std::move(parts)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  if (text.size() > kEncodeBytesMax) {
    return fail(Code::kInvalid,
                fmt::format("text: {} bytes, expected at most {}", text.size(), kEncodeBytesMax));
  }
  if (!is_valid_utf8(text)) {
    const size_t at = first_ill_formed(text);
    return fail(Code::kInvalid,
                fmt::format("text: byte 0x{:02x} at {}, expected UTF-8", static_cast<uint8_t>(text[at]), at));
  }
  std::vector<TokenId> ids;
  if (add_special_tokens) ids = parts_->prefix;
  TRY_DO(bpe::encode_text(*parts_, text, ids));
  if (add_special_tokens) ids.insert(ids.end(), parts_->suffix.begin(), parts_->suffix.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const TokenId id : ids) {
    if (!skip_special_tokens || !is_special(id)) bytes += token_bytes(id);
  }
  std::string text;
  append_utf8_replaced(text, bytes);
  return text;
}

std::string_view Tokenizer::token_bytes(TokenId id) const { return parts_->vocabulary.bytes(id); }

std::string Tokenizer::token_text(TokenId id) const {
  std::string text;
  append_utf8_replaced(text, token_bytes(id));
  return text;
}

std::optional<TokenId> Tokenizer::id_of(std::string_view text) const {
  if (const auto added = parts_->added_ids.find(std::string(text)); added != parts_->added_ids.end()) {
    return added->second;
  }
  if (const TokenId id = parts_->vocabulary.find(text); id != bpe::kNoToken) return id;
  if (const auto raw = parts_->raw_ids.find(std::string(text)); raw != parts_->raw_ids.end())
    return raw->second;
  return std::nullopt;
}

bool Tokenizer::is_special(TokenId id) const {
  return id >= 0 && static_cast<size_t>(id) < parts_->special.size() &&
         parts_->special[static_cast<size_t>(id)];
}

size_t Tokenizer::vocab_size() const { return parts_->vocabulary.size(); }

std::optional<TokenId> Tokenizer::bos_id() const { return parts_->bos; }

std::optional<TokenId> Tokenizer::eos_id() const { return parts_->eos; }

}  // namespace baton::text
