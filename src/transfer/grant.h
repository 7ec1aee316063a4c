// What D's mover may store where: the blocks that a transfer was granted, and how far they are announced and
// filled.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
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
  std::vector<uint32_t> epochs;  // [blocks], of this instance's arena
  kv::Move move;                 // into [blocks]
  // What the announces so far say: whole positions before chunk_first; of [chunk_first, chunk_end) the layers
  // before layers_announced.
  uint32_t chunk_first = 0;
  uint32_t chunk_end = 0;
  uint32_t layers_announced = 0;
  std::deque<Announce> announces;  // not filled yet; the first one is being filled
  kv::PieceCursor next;            // next piece of it
  size_t offset = 0;               // next byte of that piece's layer range
  uint64_t bytes = 0;              // stored so far
  uint64_t acked = 0;

  // Of AllowStores: nothing is announced yet.
  static Grant of(AllowStores command);
};
using Grants = std::map<TransferId, Grant>;

// kCorrupt names the field in which an Announce does not fit the grant: positions, blocks, layers, order.
Result<void> check_announce(const Announce& announce, const Grant& grant, const kv::KvLayout& layout);

// The announce has been checked; it is filled when those before it are.
void add_announce(Grant& grant, Announce announce, const kv::KvLayout& layout);

// The positions of an announce as a move of its own. Its target blocks are those of the grant from
// target_block_of() on.
kv::Move move_of(const Grant& grant, const Announce& announce);
size_t target_block_of(const Grant& grant, const Announce& announce);

// Everything of the first announce is stored: the next one's turn. True if it was the last.
bool end_announce(Grant& grant);

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
