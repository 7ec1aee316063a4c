// How the KV of a prompt moves between arenas whose blocks have different sizes. The positions that move are
// cut where a block of either side ends; each piece then lies in one block of the source and one of the
// target. In memory a piece is a matrix: one row for each (layer, K|V, kv_head), whose tokens are contiguous,
// one row per block's row apart. Its bytes are counted in *piece order*
//   [layer][K|V][kv_head][token of the piece][head_dim]    (a latent: [layer][token of the piece][head_dim])
// which is a block's own order with the other tokens left out; where the piece is a whole block they are the
// block's bytes as they lie. With equal block sizes every piece is a whole block on both sides.
//
// Pure functions of geometry; copying needs the owner of the target block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.h"
#include "kv/arena.h"
#include "kv/layout.h"

namespace baton::kv {

// Which positions move, [first, end), and the block sizes of both sides. `source` and `target` blocks are
// counted from the ones that hold `first`.
struct Move {
  uint32_t first = 0;  // a multiple of target_tokens: the target has everything before it
  uint32_t end = 0;    // the last block's unused rest moves along as far as both sides have room for it
  uint32_t source_tokens = kBlockTokensDefault;  // of one block
  uint32_t target_tokens = kBlockTokensDefault;

  size_t source_blocks() const;
  size_t target_blocks() const;
  // Bytes of all of it in `layers` layers.
  size_t bytes(const KvLayout& layout, uint32_t layers) const {
    return layers * layout.layer_bytes(end - first);
  }
  bool operator==(const Move&) const = default;
};

// Positions [first, total) of a prompt of `total` positions.
Move move_of(uint32_t first, uint32_t total, uint32_t source_tokens, uint32_t target_tokens);

struct Piece {
  uint32_t number = 0;        // from 0, in order of position
  uint32_t first = 0;         // position
  uint32_t tokens = 0;        // a multiple of kBlockTokensMultiple
  size_t source = 0;          // index of the source block
  uint32_t source_token = 0;  // where the piece begins in it
  size_t target = 0;          // index of the target block
  uint32_t target_token = 0;
  bool operator==(const Piece&) const = default;
};

// Walks the pieces of a move in order of position.
class PieceCursor {
 public:
  PieceCursor() = default;  // of an empty move: is_done()
  explicit PieceCursor(const Move& move);

  const Move& move() const { return move_; }
  bool is_done() const { return piece_.first >= move_.end; }
  // Not if is_done().
  const Piece& operator*() const { return piece_; }
  const Piece* operator->() const { return &piece_; }
  void next();
  uint32_t positions_done() const { return piece_.first - move_.first; }

 private:
  void cut();

  Move move_;
  Piece piece_;
};

// Tokens [first, first + tokens) of one block, in every layer.
struct BlockPart {
  BlockId block{};
  uint32_t first = 0;
  uint32_t tokens = 0;
};

// Bytes [offset, offset + size) of a part, in piece order, out of an arena, into one, or from one to another
// of the same layout but for the block size. `offset` + size is at most layers * layer_bytes(part.tokens).
void gather(const KvArena& arena, const BlockPart& part, size_t offset, std::span<std::byte> to);
void scatter(KvArena& arena, const BlockPart& part, size_t offset, std::span<const std::byte> from);
void copy_part(KvArena& to, const BlockPart& target, const KvArena& from, const BlockPart& source,
               size_t offset, size_t bytes);

// The same bytes as they lie in the arena; empty if the part is not a whole block and they lie apart.
std::span<const std::byte> find_whole(const KvArena& arena, const BlockPart& part, size_t offset,
                                      size_t bytes);
std::span<std::byte> find_whole(KvArena& arena, const BlockPart& part, size_t offset, size_t bytes);

}  // namespace baton::kv
