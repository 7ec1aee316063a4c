#include "checkpoint/fingerprint.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/check.h"

namespace baton::checkpoint {
namespace {

constexpr size_t kTextFileBytesMax = 256U << 20;
constexpr size_t kCancelEveryBytes = 4U << 20;

// SHA-256 of a sequence of fields; each is preceded by its length, so that no two sequences run together.
class FieldHash {
 public:
  FieldHash() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    CHECK(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1,
          "SHA-256 of OpenSSL");
  }
  void add(std::string_view field) {
    add_number(field.size());
    add_bytes(std::as_bytes(std::span(field)));
  }
  void add_number(uint64_t number) { add_bytes(std::as_bytes(std::span(&number, 1))); }
  void add_bytes(std::span<const std::byte> bytes) {
    CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1, "SHA-256 of OpenSSL");
  }
  Fingerprint finish() {
    Fingerprint fingerprint;
    CHECK(EVP_DigestFinal_ex(context_.get(), fingerprint.sha256.data(), nullptr) == 1, "SHA-256 of OpenSSL");
    return fingerprint;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

Result<void> add_file(FieldHash& hash, std::string_view label,
                      const std::optional<std::filesystem::path>& path) {
  hash.add(label);
  if (!path) return {};
  TRY(const std::string text, read_text_file(*path, kTextFileBytesMax));
  hash.add(text);
  return {};
}

// Everything but the weights' bytes.
Result<void> add_description(FieldHash& hash, std::string_view kind, const Checkpoint& checkpoint) {
  hash.add(kind);
  TRY_DO(add_file(hash, "config", checkpoint.directory / "config.json"));
  TRY_DO(add_file(hash, "tokenizer", checkpoint.text_files.tokenizer));
  TRY_DO(add_file(hash, "tokenizer_config", checkpoint.text_files.tokenizer_config));
  TRY_DO(add_file(hash, "chat_template", checkpoint.text_files.chat_template));
  for (const auto& [name, tensor] : checkpoint.tensors) {
    hash.add(name);
    hash.add(dtype_name(tensor->dtype));
    for (const uint64_t dimension : tensor->shape) hash.add_number(dimension);
  }
  return {};
}

}  // namespace

std::string Fingerprint::hex() const {
  std::string text;
  for (const uint8_t byte : sha256) text += fmt::format("{:02x}", byte);
  return text;
}

Result<Fingerprint> quick_fingerprint(const Checkpoint& checkpoint) {
  FieldHash hash;
  TRY_DO(add_description(hash, "baton checkpoint, sampled pages", checkpoint));
  // Page i begins at byte i * total / kSampledPages of all tensors joined, and ends with its tensor at the
  // latest.
  const uint64_t total = checkpoint.weight_bytes();
  const uint64_t stride = std::max<uint64_t>(total / kSampledPages, 1);
  uint64_t begin = 0;  // of the current tensor
  uint64_t next = 0;   // where the next page begins
  for (const auto& [name, tensor] : checkpoint.tensors) {
    const uint64_t end = begin + tensor->bytes.size();
    for (; next < end; next += stride) {
      const size_t offset = next - begin;
      hash.add_bytes(
          tensor->bytes.subspan(offset, std::min(kSampledPageBytes, tensor->bytes.size() - offset)));
    }
    begin = end;
  }
  return hash.finish();
}

Result<Fingerprint> complete_fingerprint(const Checkpoint& checkpoint, const std::atomic<bool>& cancel) {
  FieldHash hash;
  TRY_DO(add_description(hash, "baton checkpoint, every byte", checkpoint));
  for (const auto& [name, tensor] : checkpoint.tensors) {
    for (size_t offset = 0; offset < tensor->bytes.size(); offset += kCancelEveryBytes) {
      if (cancel.load(std::memory_order_relaxed)) {
        return fail(Code::kCancelled,
                    fmt::format("{}: fingerprint cancelled", checkpoint.directory.string()));
      }
      hash.add_bytes(
          tensor->bytes.subspan(offset, std::min(kCancelEveryBytes, tensor->bytes.size() - offset)));
    }
  }
  for (const SafetensorsFile& file : checkpoint.files) TRY_DO(file.file.check_unchanged());
  return hash.finish();
}

}  // namespace baton::checkpoint
