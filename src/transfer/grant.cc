#include "transfer/grant.h"

#include <fmt/format.h>

namespace baton::transfer {

Result<void> check_announce(const Announce& announce, const Grant& grant, const kv::KvLayout& layout) {
  const auto refuse = [](std::string_view field, uint64_t value, uint64_t expected) {
    return fail(Code::kCorrupt, fmt::format("Announce: {} is {}, expected {}", field, value, expected));
  };
  if (grant.announce) return fail(Code::kCorrupt, "Announce: comes before the last one was filled");
  const size_t blocks = grant.move.source_blocks();
  if (announce.source.size() != blocks) return refuse("source blocks", announce.source.size(), blocks);
  if (announce.layers.first != grant.layers_done)
    return refuse("first layer", announce.layers.first, grant.layers_done);
  const uint32_t left = layout.layers - grant.layers_done;
  if (announce.layers.count == 0 || announce.layers.count > left)
    return fail(Code::kCorrupt,
                fmt::format("Announce: {} layers, expected 1 to {}", announce.layers.count, left));
  if (announce.last != (announce.layers.count == left)) return refuse("last", announce.last, !announce.last);
  return {};
}

void begin_announce(Grant& grant, Announce announce) {
  grant.announce = std::move(announce);
  grant.next = kv::PieceCursor(grant.move);
  grant.offset = 0;
}

Result<FramePlace> place_frame(const KvFrame& frame, const Grant& grant, kv::KvArena& arena) {
  const auto refuse = [](std::string_view field, uint64_t value, uint64_t expected) {
    return fail(Code::kCorrupt, fmt::format("KvFrame: {} is {}, expected {}", field, value, expected));
  };
  if (!grant.announce) return fail(Code::kCorrupt, "KvFrame: no Announce came before it");
  if (grant.next.is_done()) {
    return fail(Code::kCorrupt, fmt::format("KvFrame: position is {}, expected below {}", frame.position,
                                            grant.next->number));
  }
  const kv::Piece& piece = *grant.next;
  if (frame.position != piece.number) return refuse("position", frame.position, piece.number);
  const kv::KvLayout& layout = arena.layout();
  const size_t first = grant.announce->layers.first * layout.layer_bytes(piece.tokens);
  const size_t bytes = grant.announce->layers.count * layout.layer_bytes(piece.tokens);
  if (frame.offset != first + grant.offset) return refuse("offset", frame.offset, first + grant.offset);
  if (frame.bytes > bytes - grant.offset) {
    return fail(Code::kCorrupt,
                fmt::format("KvFrame: bytes is {}, expected at most {}", frame.bytes, bytes - grant.offset));
  }
  const uint32_t announced = grant.announce->epochs[piece.source];
  if (frame.epoch != announced) return refuse("epoch", frame.epoch, announced);
  const BlockId block = grant.blocks[piece.target];
  if (arena.epoch(block) != grant.epochs[piece.target])
    return refuse("target epoch", arena.epoch(block), grant.epochs[piece.target]);
  const kv::BlockPart part{block, piece.target_token, piece.tokens};
  return FramePlace{part, frame.offset, kv::find_whole(arena, part, frame.offset, frame.bytes)};
}

void count_frame(const KvFrame& frame, Grant& grant, const kv::KvLayout& layout) {
  grant.bytes += frame.bytes;
  grant.offset += frame.bytes;
  if (grant.offset < grant.announce->layers.count * layout.layer_bytes(grant.next->tokens)) return;
  grant.offset = 0;
  grant.next.next();
}

Result<void> check_owner(const Grant& grant, const kv::KvArena& arena) {
  for (size_t i = 0; i < grant.blocks.size(); ++i) {
    if (arena.epoch(grant.blocks[i]) == grant.epochs[i]) continue;
    return fail(Code::kCorrupt,
                fmt::format("target block {}: epoch is {}, expected {}", index(grant.blocks[i]),
                            arena.epoch(grant.blocks[i]), grant.epochs[i]));
  }
  return {};
}

}  // namespace baton::transfer
