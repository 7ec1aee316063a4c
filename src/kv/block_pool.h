// Who owns which block of one arena. A block is in exactly one state at any time:
//
//   free ──take──► owned ──last give_back──► free | cached
//   cached ──share──► owned          cached ──take (least recently used first)──► owned
//
// An owned block counts its owners: several sequences and leases may share a block whose bytes no longer
// change. A cached block has no owner, but its bytes are still those of a known prefix (PrefixIndex). Owned
// and called by the engine thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "kv/arena.h"

namespace baton::kv {

enum class BlockState : uint8_t { kFree, kCached, kOwned };

struct BlockCounts {
  uint32_t free = 0;
  uint32_t cached = 0;
  uint32_t owned = 0;

  bool operator==(const BlockCounts&) const = default;
};

class BlockPool {
 public:
  // All blocks of `arena` are free. `on_evict` is told of each cached block that loses its bytes to a taker,
  // before it is handed out, so that the prefix index forgets it.
  BlockPool(KvArena& arena, std::function<void(BlockId)> on_evict);

  // Takes `count` blocks, each with one owner, or none: kExhausted leaves the pool as it was. Free blocks go
  // first (lowest id first after a reset), then cached ones, least recently used first.
  Result<std::vector<BlockId>> take(uint32_t count);

  // One more owner of an owned or cached block.
  void share(BlockId block);

  // One owner fewer. With the last owner the epoch grows; the block is then cached if `keep` (its bytes are
  // indexed as a prefix), else free.
  void give_back(BlockId block, bool keep);

  // A cached block becomes free; an owned block is left as it is. For blocks that the index forgets by
  // itself.
  void uncache(BlockId block);

  // The order in which free blocks are handed out becomes that of a new pool. CHECKs that no block is owned
  // or cached.
  void reset();

  uint32_t owners(BlockId block) const;
  BlockState state(BlockId block) const;
  BlockCounts counts() const { return counts_; }
  // Blocks that take() could hand out.
  uint32_t available() const { return counts_.free + counts_.cached; }
  uint32_t size() const { return static_cast<uint32_t>(slots_.size()); }

  // Empty if every block is in exactly one state and the counts and lists agree, else what is wrong. For
  // tests; looks at every block.
  std::string find_inconsistency() const;

 private:
  // Doubly linked through indices: the free and the cached list are both intrusive.
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Slot {
    BlockState state = BlockState::kFree;
    uint32_t owners = 0;
    uint32_t previous = kNone;
    uint32_t next = kNone;
  };
  struct List {
    uint32_t head = kNone;  // handed out first
    uint32_t tail = kNone;
  };

  void push_back(List& list, uint32_t slot);
  void push_front(List& list, uint32_t slot);
  void remove(List& list, uint32_t slot);
  uint32_t length(const List& list) const;

  KvArena& arena_;
  std::function<void(BlockId)> on_evict_;
  std::vector<Slot> slots_;
  List free_;
  List cached_;  // least recently used first
  BlockCounts counts_;
};

}  // namespace baton::kv
