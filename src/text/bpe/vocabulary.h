// The bytes of every token, and the token of given bytes. Filled while tokenizer.json is read, constant
// after.
//
// Two kinds of token live here. A spelled one (bpe/byte_alphabet.h) takes part in BPE and is found by its
// bytes. A raw one (an added token, or an entry of the vocabulary that is not spelled in the alphabet) stands
// for its own UTF-8 in the output and is never the result of BPE.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"

namespace baton::text::bpe {

constexpr TokenId kNoToken = -1;
constexpr TokenId kTokenIdMax = (1 << 22) - 1;  // keeps a lying file from asking for gigabytes

class Vocabulary {
 public:
  // Makes room for `tokens` tokens of `bytes` bytes together.
  void reserve(size_t tokens, size_t bytes);

  // Gives `id` (0 to kTokenIdMax, not yet taken) its bytes. False when another spelled token has the same
  // bytes.
  bool add_spelled(TokenId id, std::string_view bytes);
  void add_raw(TokenId id, std::string_view bytes);

  bool has(TokenId id) const { return static_cast<size_t>(id) < tokens_.size() && tokens_[index(id)].taken; }

  // Empty for an id that names no token.
  std::string_view bytes(TokenId id) const {
    if (!has(id)) return {};
    const Token& token = tokens_[index(id)];
    return std::string_view(blob_).substr(token.begin, token.length);
  }

  // The spelled token of exactly these bytes, or kNoToken.
  TokenId find(std::string_view bytes) const;

  // The spelled token of one byte, or kNoToken.
  TokenId of_byte(uint8_t byte) const { return of_byte_[byte]; }

  // One more than the highest id.
  size_t size() const { return tokens_.size(); }

 private:
  struct Token {
    uint32_t begin = 0;  // in blob_
    uint32_t length : 31 = 0;
    uint32_t taken : 1 = 0;
  };
  // One place of an open-addressing table. `tag` is the upper half of the hash: most misses end there.
  struct Slot {
    uint32_t tag = 0;
    TokenId id = kNoToken;
  };

  static size_t index(TokenId id) { return static_cast<size_t>(id); }
  void place(TokenId id, std::string_view bytes);
  Slot* slot_of(std::string_view bytes);
  void grow();

  std::string blob_;
  std::vector<Token> tokens_;
  std::vector<Slot> slots_ = std::vector<Slot>(1024);  // size a power of two, at most half full
  size_t spelled_ = 0;
  std::array<TokenId, 256> of_byte_ = [] {
    std::array<TokenId, 256> none;
    none.fill(kNoToken);
    return none;
  }();
};

}  // namespace baton::text::bpe
