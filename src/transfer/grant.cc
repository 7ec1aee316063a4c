#include "transfer/grant.h"

#include <fmt/format.h>

namespace baton::transfer {

Result<void> check_announce(const Announce& announce, const Grant& grant, const kv::KvLayout& layout) {
  const auto refuse = [](std::string_view field, uint64_t value, uint64_t expected) {
    return fail(Code::kCorrupt, fmt::format("Announce: {} is {}, expected {}", field, value, expected));
  };
  if (grant.announce) return fail(Code::kCorrupt, "Announce: comes before the last one was filled");
  if (announce.source.size() != grant.blocks.size())
    return refuse("source blocks", announce.source.size(), grant.blocks.size());
  if (announce.layers.first != grant.layers_done)
    return refuse("first layer", announce.layers.first, grant.layers_done);
  const uint32_t left = layout.layers - grant.layers_done;
  if (announce.layers.count == 0 || announce.layers.count > left)
    return fail(Code::kCorrupt,
                fmt::format("Announce: {} layers, expected 1 to {}", announce.layers.count, left));
  if (announce.last != (announce.layers.count == left)) return refuse("last", announce.last, !announce.last);
  return {};
}

Result<std::span<std::byte>> place_frame(const KvFrame& frame, const Grant& grant, kv::KvArena& arena) {
  const auto refuse = [](std::string_view field, uint64_t value, uint64_t expected) {
    return fail(Code::kCorrupt, fmt::format("KvFrame: {} is {}, expected {}", field, value, expected));
  };
  if (!grant.announce) return fail(Code::kCorrupt, "KvFrame: no Announce came before it");
  if (frame.position >= grant.blocks.size()) {
    return fail(Code::kCorrupt, fmt::format("KvFrame: position is {}, expected below {}", frame.position,
                                            grant.blocks.size()));
  }
  if (frame.position != grant.position) return refuse("position", frame.position, grant.position);
  const kv::KvLayout& layout = arena.layout();
  const size_t first = grant.announce->layers.first * layout.layer_bytes();
  const size_t bytes = grant.announce->layers.count * layout.layer_bytes();
  if (frame.offset != first + grant.offset) return refuse("offset", frame.offset, first + grant.offset);
  if (frame.bytes > bytes - grant.offset) {
    return fail(Code::kCorrupt,
                fmt::format("KvFrame: bytes is {}, expected at most {}", frame.bytes, bytes - grant.offset));
  }
  const uint32_t announced = grant.announce->epochs[frame.position];
  if (frame.epoch != announced) return refuse("epoch", frame.epoch, announced);
  const BlockId block = grant.blocks[frame.position];
  if (arena.epoch(block) != grant.epochs[frame.position])
    return refuse("target epoch", arena.epoch(block), grant.epochs[frame.position]);
  return std::span(arena.data() + layout.offset(0, block) + frame.offset, frame.bytes);
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
