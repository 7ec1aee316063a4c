// The KV cache as sequences see it: block tables over one arena, one pool and one prefix index. A block that
// several tables share, or that the index knows, is never written: the writer gets its own copy first. Owned
// and called by the engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/arena.h"
#include "kv/block_pool.h"
#include "kv/prefix_index.h"

namespace baton::kv {

// The blocks of one sequence in order of position. A plain value; only PagedCache changes it.
struct BlockTable {
  std::vector<BlockId> blocks;
  PrefixCursor cursor;  // after the last block that is indexed, or known to be a duplicate of an indexed one
};

class PagedCache {
 public:
  // prefixes false: nothing is indexed, nothing is found.
  PagedCache(KvArena& arena, bool prefixes, PrefixHasher hasher = xxh3_prefix_hash);

  // Blocks at the start of `tokens` that could be adopted; nothing changes.
  struct PrefixHit {
    std::vector<BlockId> blocks;
    uint32_t cached = 0;  // of them, how many have no owner now (adopting those uses up free blocks)
  };
  PrefixHit find_prefix(std::string_view salt, std::span<const TokenId> tokens) const;

  // An empty table becomes a co-owner of the blocks of `hit`, whose tokens are the start of `tokens`.
  void adopt(BlockTable& table, const PrefixHit& hit, std::string_view salt, std::span<const TokenId> tokens);

  // Makes the table cover [0, positions) and positions [from, positions) writable. False, and nothing
  // changed, if there are too few blocks.
  bool grow(BlockTable& table, uint32_t from, uint32_t positions);
  // Blocks that grow() would take.
  uint32_t growth(const BlockTable& table, uint32_t from, uint32_t positions) const;

  // A second table over the same blocks.
  BlockTable fork(const BlockTable& table);

  // Says that positions [0, computed) of the table hold the KV of `tokens` (at least that many): its full
  // blocks can be found from now on.
  void index_full_blocks(BlockTable& table, std::string_view salt, std::span<const TokenId> tokens,
                         uint32_t computed);

  // Gives all blocks back, the last one first, so that the ends of prefixes are evicted before their starts.
  void release(BlockTable& table);
  // As release, but the blocks can no longer be found: their bytes are suspect.
  void discard(BlockTable& table);

  // Forgets all prefixes.
  void reset_prefixes();
  // reset_prefixes, and the pool as new. CHECKs that no block is owned.
  void reset();

  uint32_t available() const { return pool_.available(); }
  BlockCounts counts() const { return pool_.counts(); }
  const BlockPool& pool() const { return pool_; }
  const PrefixIndex& index() const { return index_; }
  KvArena& arena() { return arena_; }
  uint32_t block_tokens() const { return arena_.layout().block_tokens; }

  // Of pool and index, and that every cached block is indexed. For tests.
  std::string find_inconsistency() const;

 private:
  bool is_writable(BlockId block) const { return pool_.owners(block) == 1 && !index_.contains(block); }
  void give_back(BlockId block) { pool_.give_back(block, index_.contains(block)); }

  KvArena& arena_;
  PrefixIndex index_;
  BlockPool pool_;
  bool prefixes_;
};

}  // namespace baton::kv
