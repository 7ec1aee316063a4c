// Added tokens ("<|im_start|>"): cut out of the text before BPE sees it, the longest of those that begin at
// the leftmost place. Filled while tokenizer.json is read, constant after.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "text/bpe/regex.h"

namespace baton::text::bpe {

constexpr size_t kAddedTokensMax = 1 << 16;
constexpr size_t kAddedTokenBytesMax = 1 << 10;

struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool single_word = false;  // only where no letter, digit or mark touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = true;    // looked for in the normalised text, else before normalisation
  bool special = false;      // decode() drops it on request
};

// A piece of text: an added token, or (id -1) text between them.
struct AddedPiece {
  Range range;
  TokenId id;
  bool operator==(const AddedPiece&) const = default;
};

// Finds one set of added tokens (the normalised or the others).
class AddedTokenFinder {
 public:
  // `pattern`: the content as it stands in the text searched. Of two equal patterns the first counts. A
  // pattern is not empty.
  void add(std::string_view pattern, const AddedToken& token);

  bool empty() const { return tokens_.empty(); }

  // Appends the pieces of `text` (UTF-8), none of them empty. Returns at how many characters it looked for
  // white space: at most two of the text and two of each piece, however they lie.
  size_t split(std::string_view text, std::vector<AddedPiece>& pieces) const;

 private:
  struct Flags {
    TokenId id;
    bool single_word;
    bool lstrip;
    bool rstrip;
  };
  struct Edge {
    char byte;
    uint32_t node;
  };
  struct Node {
    std::vector<Edge> edges;
    int32_t token = -1;  // index into tokens_
  };
  struct Found {
    size_t bytes;
    const Flags* token;
  };

  Found longest_at(std::string_view text, size_t at) const;

  std::vector<Flags> tokens_;
  std::vector<Node> nodes_ = std::vector<Node>(1);  // a trie of bytes; [0] is the root
  std::array<uint32_t, 256> first_{};               // the root's edges; 0: none
};

}  // namespace baton::text::bpe
