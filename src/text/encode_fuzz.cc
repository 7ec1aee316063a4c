// Any text through two tiny tokenizers of the golden data: it is refused for its UTF-8 or comes back, whole
// and as a stream; and stop strings cut from the text end it where they say.
#include <cstdlib>

#include "base/check.h"
#include "text/incremental_decoder.h"
#include "text/stop_strings.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace {

using baton::TokenId;
using baton::text::Tokenizer;

// The repository is the working directory, or BATON_SOURCE_DIR names it.
Tokenizer load(const char* name) {
  const char* root = std::getenv("BATON_SOURCE_DIR");
  auto tokenizer = Tokenizer::load(std::string(root ? root : ".") + "/tests/golden/checkpoints/" + name);
  CHECK(tokenizer, "{}", tokenizer.error().message);
  return *std::move(tokenizer);
}

void check_round_trip(const Tokenizer& tokenizer, std::string_view text, bool normalizes) {
  const auto ids = tokenizer.encode(text, false);
  CHECK(ids.has_value() == baton::text::is_valid_utf8(text));
  if (!ids) return;
  const std::string decoded = tokenizer.decode(*ids, false);
  if (normalizes) {
    CHECK(tokenizer.encode(decoded, false).value() == *ids, "normalising twice changes the ids");
  } else {
    CHECK(decoded == text);
  }
  baton::text::IncrementalDecoder decoder(tokenizer, false);
  std::string streamed;
  for (const TokenId id : *ids) {
    const std::string piece = decoder.push(id);
    CHECK(baton::text::is_valid_utf8(piece));
    streamed += piece;
  }
  CHECK(streamed + decoder.flush() == decoded);
}

// The first byte chooses a stop string from the text: where it first ends, the answer ends.
void check_stop(std::string_view text) {
  if (text.size() < 4 || !baton::text::is_valid_utf8(text)) return;
  const size_t begin = static_cast<uint8_t>(text[0]) % (text.size() - 2);
  const std::string stop(text.substr(begin, 2));
  auto search = baton::text::StopStrings::create({stop}, false);
  if (!search) return;
  std::string out;
  for (size_t at = 0; at < text.size(); at += 3) out += search->feed(text.substr(at, 3));
  out += search->flush();
  CHECK(search->stopped() && out == text.substr(0, text.find(stop)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer qwen3 = load("qwen3");
  static const Tokenizer llama = load("llama");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check_round_trip(qwen3, text, true);
  check_round_trip(llama, text, false);
  check_stop(text);
  return 0;
}
