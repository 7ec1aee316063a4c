#include "kv/block_pool.h"

#include <fmt/format.h>

#include <utility>

#include "base/check.h"

namespace baton::kv {

BlockPool::BlockPool(KvArena& arena, std::function<void(BlockId)> on_evict)
    : arena_(arena), on_evict_(std::move(on_evict)), slots_(arena.blocks()) {
  reset();
}

void BlockPool::reset() {
  CHECK(counts_.owned == 0 && counts_.cached == 0, "{} owned, {} cached", counts_.owned, counts_.cached);
  free_ = {};
  counts_ = {.free = size()};
  for (uint32_t slot = 0; slot < size(); ++slot) {
    slots_[slot] = {};
    push_back(free_, slot);
  }
}

Result<std::vector<BlockId>> BlockPool::take(uint32_t count) {
  if (count > available()) {
    return fail(Code::kExhausted,
                fmt::format("KV cache: {} blocks wanted, {} of {} are free", count, available(), size()));
  }
  std::vector<BlockId> taken;
  taken.reserve(count);
  while (taken.size() < count) {
    const bool evict = free_.head == kNone;
    List& list = evict ? cached_ : free_;
    const uint32_t slot = list.head;
    const BlockId block{slot};
    remove(list, slot);
    if (evict) {
      on_evict_(block);
      --counts_.cached;
    } else {
      --counts_.free;
    }
    ++counts_.owned;
    slots_[slot].state = BlockState::kOwned;
    slots_[slot].owners = 1;
    taken.push_back(block);
  }
  return taken;
}

void BlockPool::share(BlockId block) {
  Slot& slot = slots_.at(index(block));
  CHECK(slot.state != BlockState::kFree, "block {} has no bytes to share", index(block));
  if (slot.state == BlockState::kCached) {
    remove(cached_, index(block));
    slot.state = BlockState::kOwned;
    --counts_.cached;
    ++counts_.owned;
  }
  ++slot.owners;
}

void BlockPool::give_back(BlockId block, bool keep) {
  Slot& slot = slots_.at(index(block));
  CHECK(slot.state == BlockState::kOwned && slot.owners > 0, "block {} has no owner", index(block));
  if (--slot.owners > 0) return;
  arena_.bump_epoch(block);
  --counts_.owned;
  slot.state = keep ? BlockState::kCached : BlockState::kFree;
  if (keep) {
    ++counts_.cached;
    push_back(cached_, index(block));
  } else {
    ++counts_.free;
    push_front(free_, index(block));
  }
}

void BlockPool::uncache(BlockId block) {
  Slot& slot = slots_.at(index(block));
  if (slot.state != BlockState::kCached) return;
  remove(cached_, index(block));
  slot.state = BlockState::kFree;
  --counts_.cached;
  ++counts_.free;
  push_front(free_, index(block));
}

uint32_t BlockPool::owners(BlockId block) const { return slots_.at(index(block)).owners; }
BlockState BlockPool::state(BlockId block) const { return slots_.at(index(block)).state; }

void BlockPool::push_back(List& list, uint32_t slot) {
  slots_[slot].previous = list.tail;
  slots_[slot].next = kNone;
  (list.tail == kNone ? list.head : slots_[list.tail].next) = slot;
  list.tail = slot;
}

void BlockPool::push_front(List& list, uint32_t slot) {
  slots_[slot].previous = kNone;
  slots_[slot].next = list.head;
  (list.head == kNone ? list.tail : slots_[list.head].previous) = slot;
  list.head = slot;
}

void BlockPool::remove(List& list, uint32_t slot) {
  const Slot& s = slots_[slot];
  (s.previous == kNone ? list.head : slots_[s.previous].next) = s.next;
  (s.next == kNone ? list.tail : slots_[s.next].previous) = s.previous;
  slots_[slot].previous = slots_[slot].next = kNone;
}

uint32_t BlockPool::length(const List& list) const {
  uint32_t blocks = 0;
  for (uint32_t slot = list.head; slot != kNone && blocks <= size(); slot = slots_[slot].next) ++blocks;
  return blocks;
}

std::string BlockPool::find_inconsistency() const {
  BlockCounts seen;
  for (uint32_t i = 0; i < size(); ++i) {
    const Slot& slot = slots_[i];
    if ((slot.state == BlockState::kOwned) != (slot.owners > 0)) {
      return fmt::format("block {}: state {} with {} owners", i, std::to_underlying(slot.state), slot.owners);
    }
    ++(slot.state == BlockState::kFree ? seen.free
                                       : (slot.state == BlockState::kCached ? seen.cached : seen.owned));
  }
  if (seen != counts_) {
    return fmt::format("counted free {} cached {} owned {}, kept {} {} {}", seen.free, seen.cached,
                       seen.owned, counts_.free, counts_.cached, counts_.owned);
  }
  if (length(free_) != seen.free || length(cached_) != seen.cached) {
    return fmt::format("lists hold {} free, {} cached; counted {}, {}", length(free_), length(cached_),
                       seen.free, seen.cached);
  }
  return {};
}

}  // namespace baton::kv
