#include "transfer/grant.h"

#include <fmt/format.h>

namespace baton::transfer {
namespace {

void begin_first(Grant& grant) {
  grant.next = kv::PieceCursor(move_of(grant, grant.announces.front()));
  grant.offset = 0;
}

}  // namespace

Grant Grant::of(AllowStores command) {
  Grant grant;
  grant.peer = command.peer;
  grant.blocks = std::move(command.blocks);
  grant.epochs = std::move(command.epochs);
  grant.move = command.move;
  grant.chunk_first = grant.chunk_end = command.move.first;
  return grant;
}

kv::Move move_of(const Grant& grant, const Announce& announce) {
  return {announce.first, announce.end, grant.move.source_tokens, grant.move.target_tokens};
}

size_t target_block_of(const Grant& grant, const Announce& announce) {
  return (announce.first - grant.move.first) / grant.move.target_tokens;
}

Result<void> check_announce(const Announce& announce, const Grant& grant, const kv::KvLayout& layout) {
  const auto refuse = [](std::string_view field, uint64_t value, uint64_t expected) {
    return fail(Code::kCorrupt, fmt::format("Announce: {} is {}, expected {}", field, value, expected));
  };
  const kv::Move& all = grant.move;
  if (announce.first != grant.chunk_first) return refuse("first", announce.first, grant.chunk_first);
  if (grant.layers_announced > 0 && announce.end != grant.chunk_end)
    return refuse("end", announce.end, grant.chunk_end);
  const bool ends_block = announce.end % all.target_tokens == 0 || announce.end == all.end;
  if (announce.end <= announce.first || announce.end > all.end || !ends_block) {
    return fail(Code::kCorrupt, fmt::format("Announce: end is {}, expected a multiple of {} above {}, or {}",
                                            announce.end, all.target_tokens, announce.first, all.end));
  }
  const size_t blocks = move_of(grant, announce).source_blocks();
  if (announce.source.size() != blocks) return refuse("source blocks", announce.source.size(), blocks);
  if (announce.layers.first != grant.layers_announced)
    return refuse("first layer", announce.layers.first, grant.layers_announced);
  const uint32_t left = layout.layers - grant.layers_announced;
  if (announce.layers.count == 0 || announce.layers.count > left) {
    return fail(Code::kCorrupt,
                fmt::format("Announce: {} layers, expected 1 to {}", announce.layers.count, left));
  }
  const bool is_last = announce.layers.count == left && announce.end == all.end;
  if (announce.last != is_last) return refuse("last", announce.last, is_last);
  return {};
}

void add_announce(Grant& grant, Announce announce, const kv::KvLayout& layout) {
  grant.layers_announced += announce.layers.count;
  grant.chunk_end = announce.end;
  if (grant.layers_announced == layout.layers) {
    grant.layers_announced = 0;
    grant.chunk_first = announce.end;
  }
  grant.announces.push_back(std::move(announce));
  if (grant.announces.size() == 1) begin_first(grant);
}

bool end_announce(Grant& grant) {
  const bool last = grant.announces.front().last;
  grant.announces.pop_front();
  if (!grant.announces.empty()) begin_first(grant);
  return last;
}

Result<FramePlace> place_frame(const KvFrame& frame, const Grant& grant, kv::KvArena& arena) {
  const auto refuse = [](std::string_view field, uint64_t value, uint64_t expected) {
    return fail(Code::kCorrupt, fmt::format("KvFrame: {} is {}, expected {}", field, value, expected));
  };
  if (grant.announces.empty()) return fail(Code::kCorrupt, "KvFrame: no Announce came before it");
  const Announce& announce = grant.announces.front();
  if (grant.next.is_done()) {
    return fail(Code::kCorrupt, fmt::format("KvFrame: position is {}, expected below {}", frame.position,
                                            grant.next->number));
  }
  const kv::Piece& piece = *grant.next;
  if (frame.position != piece.number) return refuse("position", frame.position, piece.number);
  const kv::KvLayout& layout = arena.layout();
  const size_t first = announce.layers.first * layout.layer_bytes(piece.tokens);
  const size_t bytes = announce.layers.count * layout.layer_bytes(piece.tokens);
  if (frame.offset != first + grant.offset) return refuse("offset", frame.offset, first + grant.offset);
  if (frame.bytes > bytes - grant.offset) {
    return fail(Code::kCorrupt,
                fmt::format("KvFrame: bytes is {}, expected at most {}", frame.bytes, bytes - grant.offset));
  }
  const uint32_t announced = announce.epochs[piece.source];
  if (frame.epoch != announced) return refuse("epoch", frame.epoch, announced);
  const size_t target = target_block_of(grant, announce) + piece.target;
  const BlockId block = grant.blocks[target];
  if (arena.epoch(block) != grant.epochs[target])
    return refuse("target epoch", arena.epoch(block), grant.epochs[target]);
  const kv::BlockPart part{block, piece.target_token, piece.tokens};
  return FramePlace{part, frame.offset, kv::find_whole(arena, part, frame.offset, frame.bytes)};
}

void count_frame(const KvFrame& frame, Grant& grant, const kv::KvLayout& layout) {
  grant.bytes += frame.bytes;
  grant.offset += frame.bytes;
  if (grant.offset < grant.announces.front().layers.count * layout.layer_bytes(grant.next->tokens)) return;
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
