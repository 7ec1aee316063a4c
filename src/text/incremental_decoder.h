// Streaming detokenisation of one answer: text as soon as it is certain, never half a character. Let D(n) be
// the decoded text of the first n ids. If D(n) ends in U+FFFD nothing is emitted, else everything after what
// was emitted before; this equals DecodeStream of Hugging Face's tokenizers for byte-level decoders. A real
// U+FFFD in the answer is therefore held back until the next token. Owned by whoever streams the answer; one
// thread at a time.
#pragma once

#include <string>

#include "base/ids.h"

namespace baton::text {

class Tokenizer;

class IncrementalDecoder {
 public:
  // `tokenizer` outlives the decoder.
  IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens) {}

  // The text that `id` completes, empty while a character is unfinished. Every byte is looked at a fixed
  // number of times, however long the answer is.
  std::string push(TokenId id);

  // What is left when the answer ends: U+FFFD for each piece of an unfinished character. All pushes and the
  // flush joined are Tokenizer::decode of all ids.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::string pending_;  // bytes since the last emission
};

}  // namespace baton::text
