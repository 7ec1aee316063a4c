// What D's mover may store where: the blocks that a transfer was granted, and how far they are filled.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "kv/arena.h"
#include "kv/pieces.h"
#include "transfer/mover.h"

namespace baton::transfer {

struct Grant {
  PeerId peer{};
  std::vector<BlockId> blocks;
  std::vector<uint32_t> epochs;      // [blocks], of this instance's arena
  kv::Move move;                     // into [blocks]
  std::optional<Announce> announce;  // what is being filled now
  kv::PieceCursor next;              // next piece of it
  size_t offset = 0;                 // next byte of that piece's layer range
  uint32_t layers_done = 0;          // layers arrive in ascending order
  uint64_t bytes = 0;                // stored so far
  uint64_t acked = 0;
};
using Grants = std::map<TransferId, Grant>;

// kInvalid or kCorrupt names the field in which an Announce does not fit the grant: blocks, layers, order.
Result<void> check_announce(const Announce& announce, const Grant& grant, const kv::KvLayout& layout);

// The announce has been checked: its first piece is the next one.
void begin_announce(Grant& grant, Announce announce);

// Where the bytes of a KvFrame are to be stored: from `offset` on of a part of a granted block.
struct FramePlace {
  kv::BlockPart part;
  size_t offset = 0;
  std::span<std::byte> whole;  // the bytes themselves; empty if they lie apart: kv::scatter
};
// Fails unless the frame is the next one of its transfer: bounds, order, P's epoch as announced, and the
// target block still the same owner's.
Result<FramePlace> place_frame(const KvFrame& frame, const Grant& grant, kv::KvArena& arena);

// The frame has been placed and stored: the next one is expected.
void count_frame(const KvFrame& frame, Grant& grant, const kv::KvLayout& layout);

// The first target block that has another owner now.
Result<void> check_owner(const Grant& grant, const kv::KvArena& arena);

}  // namespace baton::transfer
