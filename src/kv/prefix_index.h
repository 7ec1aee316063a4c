// Which blocks hold the KV of which prefixes. A full block of tokens is found by a hash chained over all
// blocks before it (and the cache salt); what was found is believed only if the stored token ids agree and
// its predecessor is the very block matched before it, so no hash collision can ever serve foreign KV. Owned
// and called by the engine thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "kv/layout.h"

namespace baton::kv {

struct PrefixHash {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const PrefixHash&) const = default;
};

// The hash of one block in its chain. Tests inject a weak one.
using PrefixHasher = PrefixHash (*)(PrefixHash parent, std::span<const TokenId> tokens);
PrefixHash xxh3_prefix_hash(PrefixHash parent, std::span<const TokenId> tokens);

// Where a chain of matched or inserted blocks has come to: the node after which the next block hangs.
class PrefixCursor {
 public:
  uint32_t blocks() const { return blocks_; }

 private:
  friend class PrefixIndex;
  std::string salt_;
  PrefixHash hash_;
  uint64_t node_ = 0;  // of the block before; 0: none yet
  BlockId block_{};    // that holds it
  uint32_t blocks_ = 0;
};

class PrefixIndex {
 public:
  // Of an arena of `blocks` blocks of `block_tokens` tokens each.
  PrefixIndex(uint32_t blocks, uint32_t block_tokens, PrefixHasher hasher = xxh3_prefix_hash);

  // The chain of `salt` before its first block. Chains of different salts never meet.
  static PrefixCursor root(std::string_view salt);

  // The block that follows `cursor` and holds exactly `tokens` [block_tokens]; the cursor then stands after
  // it. Nothing, and the cursor unmoved, if no such block is known.
  std::optional<BlockId> find(PrefixCursor& cursor, std::span<const TokenId> tokens) const;

  // The longest chain of full blocks at the start of `tokens`, at most `blocks_max` of them.
  std::vector<BlockId> match(std::string_view salt, std::span<const TokenId> tokens,
                             uint32_t blocks_max) const;

  // Says that `block` holds `tokens` [block_tokens] after `cursor`, which then stands after it. True if
  // `block` is now the one that is found; false if another block already holds the same prefix (the cursor
  // stands after that one) or the chain has left the index.
  bool insert(PrefixCursor& cursor, std::span<const TokenId> tokens, BlockId block);

  bool contains(BlockId block) const { return nodes_.at(index(block)).id != 0; }

  // `block` is found no more. Blocks behind it cannot be reached any more either; they are still `contains`
  // until they are erased themselves.
  void erase(BlockId block);

  // Forgets everything.
  void reset();

  uint32_t size() const { return size_; }

  // Empty if both directions of the index agree, else what is wrong. For tests.
  std::string find_inconsistency() const;

 private:
  struct HashOf {
    size_t operator()(const PrefixHash& hash) const noexcept { return hash.low; }
  };
  // Per block of the arena; id 0: not indexed.
  struct Node {
    uint64_t id = 0;      // never used twice
    uint64_t parent = 0;  // id of the node before it; 0: first of its chain
    std::string salt;     // of first blocks only
    PrefixHash hash;
    std::vector<TokenId> tokens;
  };

  uint32_t block_tokens_;
  PrefixHasher hasher_;
  bool holds(const Node& node, const PrefixCursor& cursor, std::span<const TokenId> tokens) const;

  std::vector<Node> nodes_;                                       // [blocks]
  std::unordered_multimap<PrefixHash, BlockId, HashOf> by_hash_;  // never iterated as a whole
  uint64_t next_id_ = 1;
  uint32_t size_ = 0;
};

}  // namespace baton::kv
