// What D's mover may store where: the blocks that a transfer was granted, and how far they are filled.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "kv/arena.h"
#include "transfer/mover.h"

namespace baton::transfer {

struct Grant {
  PeerId peer{};
  std::vector<BlockId> blocks;
  std::vector<uint32_t> epochs;      // [blocks], of this instance's arena
  std::optional<Announce> announce;  // what is being filled now
  size_t position = 0;               // next block of it
  size_t offset = 0;                 // next byte of that block's layer range
  uint32_t layers_done = 0;          // layers arrive in ascending order
  uint64_t bytes = 0;                // stored so far
  uint64_t acked = 0;
};
using Grants = std::map<TransferId, Grant>;

// kInvalid or kCorrupt names the field in which an Announce does not fit the grant: blocks, layers, order.
Result<void> check_announce(const Announce& announce, const Grant& grant, const kv::KvLayout& layout);

// The bytes that a KvFrame is to be stored in. Fails unless the frame is the next one of its transfer:
// bounds, order, P's epoch as announced, and the target block still the same owner's.
Result<std::span<std::byte>> place_frame(const KvFrame& frame, const Grant& grant, kv::KvArena& arena);

// The first target block that has another owner now.
Result<void> check_owner(const Grant& grant, const kv::KvArena& arena);

}  // namespace baton::transfer
