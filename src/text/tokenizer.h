// Text to token ids and back: byte-level BPE as Hugging Face's tokenizers library computes it from a model's
// tokenizer.json (https://huggingface.co/docs/tokenizers), to the id. A Tokenizer never changes after load():
// every const method may be called from any number of threads at once; what a call needs for scratch (regex
// match data, the word cache) is thread-local and bounded.
//
// Supported: normalizers NFC, NFD, NFKC, NFKD, Sequence, none; pre-tokenizers Split, Digits, ByteLevel
// (last), Sequence; model BPE without dropout, affixes or byte fallback; post-processors TemplateProcessing,
// ByteLevel, Sequence; decoder ByteLevel. Anything else is an error that names its JSON path. Regular
// expressions are Oniguruma's, run by PCRE2 (bpe/pattern.h states where the two differ).
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace baton::text {

namespace bpe {
struct TokenizerParts;
}

constexpr size_t kTokenizerFileBytesMax = size_t{256} << 20;  // of tokenizer.json; real ones have up to 20 MB
constexpr size_t kEncodeBytesMax = size_t{64} << 20;          // of one text

class Tokenizer {
 public:
  // Reads DIR/tokenizer.json and, if it is there, DIR/tokenizer_config.json. kNotFound or kIo when a file
  // cannot be read, kCorrupt when its content is wrong: "tokenizer.json: model.merges[1042]: expected 2
  // symbols, got 3".
  static Result<Tokenizer> load(const std::string& dir);

  // The same from the bytes of the two files; an empty `config_json` means that there is none.
  static Result<Tokenizer> parse(std::string_view tokenizer_json, std::string_view config_json);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Ids of `text`. Added tokens inside it ("<|im_end|>") are recognised either way. `add_special_tokens` puts
  // around it what the post-processor and add_bos_token / add_eos_token say: true for /v1/completions, false
  // for a rendered chat template, which already holds its BOS. kInvalid when `text` is not UTF-8 (tokenizers
  // takes only Unicode strings, so there is nothing to agree with) or longer than kEncodeBytesMax; kExhausted
  // when a regex passes its step limit on this text.
  Result<std::vector<TokenId>> encode(std::string_view text, bool add_special_tokens) const;

  // Text of `ids`. Bytes that are no UTF-8 become U+FFFD, one for each maximal subpart. Ids that name no
  // token (padding rows of the embedding, negative ones) decode to nothing, and so do special ones on
  // request.
  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens) const;

  // The bytes that `id` stands for, which may be half a character; empty for an id that names no token. Lives
  // as long as the tokenizer. In an OpenAI logprobs entry this is `bytes`.
  std::string_view token_bytes(TokenId id) const;

  // The same as text: U+FFFD where the bytes are none. In an OpenAI logprobs entry this is `token`.
  std::string token_text(TokenId id) const;

  // The added token with exactly this content, else the vocabulary's token of exactly these bytes.
  std::optional<TokenId> id_of(std::string_view text) const;

  // Whether decode() drops this id on request.
  bool is_special(TokenId id) const;

  // One more than the highest id. A model's embedding may have more rows, never fewer.
  size_t vocab_size() const;

  // bos_token and eos_token of tokenizer_config.json, where they name a token.
  std::optional<TokenId> bos_id() const;
  std::optional<TokenId> eos_id() const;

 private:
  explicit Tokenizer(std::unique_ptr<const bpe::TokenizerParts> parts);

  std::unique_ptr<const bpe::TokenizerParts> parts_;
};

}  // namespace baton::text
