// Any bytes as tokenizer.json and, behind the first zero byte, as tokenizer_config.json: an error or a
// tokenizer that works.
#include "text/tokenizer.h"

#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t end = bytes.find('\0');
  const std::string_view config = end == std::string_view::npos ? "" : bytes.substr(end + 1);
  const auto tokenizer = baton::text::Tokenizer::parse(bytes.substr(0, end), config);
  if (!tokenizer) {
    CHECK(tokenizer.error().code == baton::Code::kCorrupt && !tokenizer.error().message.empty());
    return 0;
  }
  const auto ids = tokenizer->encode("Hello <s> w\xC3\xB6rld 123\n\n  \xF0\x9F\x98\x80", true);
  if (!ids) return 0;
  for (const baton::TokenId id : *ids) {
    CHECK(id >= 0 && static_cast<size_t>(id) < tokenizer->vocab_size(), "id {}", id);
  }
  tokenizer->decode(*ids, false);
  return 0;
}
