#include "text/bpe/merges.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace baton::text::bpe {

void MergeTable::reserve(size_t merges) {
  CHECK(used_ == 0);
  slots_.assign(std::bit_ceil(std::max<size_t>(16, merges * 2)), Slot{});
  shift_ = 64 - static_cast<unsigned>(std::countr_zero(slots_.size()));
}

MergeTable::Slot& MergeTable::slot_of(uint64_t pair) {
  for (size_t at = home(pair);; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].pair == pair || slots_[at].pair == kFree) return slots_[at];
  }
}

void MergeTable::add(TokenId left, TokenId right, Merge merge) {
  CHECK(left >= 0 && right >= 0 && merge.merged >= 0);
  if ((used_ + 1) * 2 > slots_.size()) {
    const std::vector<Slot> old = std::move(slots_);
    slots_.assign(old.size() * 2, Slot{});
    --shift_;
    for (const Slot& slot : old) {
      if (slot.pair != kFree) slot_of(slot.pair) = slot;
    }
  }
  Slot& slot = slot_of(key(left, right));
  if (slot.pair == kFree) ++used_;
  slot = {key(left, right), merge};
}

size_t merge_word(const MergeTable& merges, std::span<TokenId> word, MergeScratch& scratch) {
  if (word.size() <= kScannedWordMax) return merge_by_scan(merges, word, scratch);
  return merge_by_heap(merges, word, scratch);
}

size_t merge_by_scan(const MergeTable& merges, std::span<TokenId> word, MergeScratch& scratch) {
  if (word.size() < 2) return word.size();
  std::vector<uint32_t>& ranks = scratch.ranks;  // ranks[i]: of the pair (i, i + 1)
  ranks.resize(word.size());
  const auto rank_at = [&](size_t i) { return merges.find(word[i], word[i + 1]).rank; };
  for (size_t i = 0; i + 1 < word.size(); ++i) ranks[i] = rank_at(i);
  size_t count = word.size();
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == UINT32_MAX) break;
    word[best] = merges.find(word[best], word[best + 1]).merged;
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      word[i] = word[i + 1];
      ranks[i] = ranks[i + 1];
    }
    if (best + 1 < count) ranks[best] = rank_at(best);
    if (best > 0) ranks[best - 1] = rank_at(best - 1);
  }
  return count;
}

size_t merge_by_heap(const MergeTable& merges, std::span<TokenId> word, MergeScratch& scratch) {
  if (word.empty()) return 0;
  using Candidate = MergeScratch::Candidate;
  CHECK(word.size() < INT32_MAX);
  std::vector<MergeScratch::Symbol>& symbols = scratch.symbols;
  std::vector<Candidate>& heap = scratch.heap;
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  };
  const auto symbol = [&](int32_t i) -> MergeScratch::Symbol& { return symbols[static_cast<size_t>(i)]; };
  const auto consider = [&](int32_t at) {
    if (at < 0 || symbol(at).next < 0) return;
    const Merge merge = merges.find(symbol(at).id, symbol(symbol(at).next).id);
    if (merge.merged < 0) return;
    heap.push_back({merge.rank, at, merge.merged});
    std::push_heap(heap.begin(), heap.end(), later);
  };

  symbols.clear();
  heap.clear();
  const auto count = static_cast<int32_t>(word.size());
  for (int32_t i = 0; i < count; ++i) {
    symbols.push_back({word[static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1, true});
  }
  for (int32_t i = 0; i + 1 < count; ++i) consider(i);
  while (!heap.empty()) {
    const Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    MergeScratch::Symbol& left = symbol(best.at);
    if (!left.alive || left.next < 0) continue;
    MergeScratch::Symbol& right = symbol(left.next);
    // A candidate whose tokens have changed since is stale; the pair that replaced it has its own.
    const Merge now = merges.find(left.id, right.id);
    if (now.rank != best.rank || now.merged != best.merged) continue;
    left.id = best.merged;
    right.alive = false;
    left.next = right.next;
    if (left.next >= 0) symbol(left.next).previous = best.at;
    consider(left.previous);
    consider(best.at);
  }
  size_t left_over = 0;
  for (int32_t i = 0; i >= 0; i = symbol(i).next) word[left_over++] = symbol(i).id;
  return left_over;
}

}  // namespace baton::text::bpe
