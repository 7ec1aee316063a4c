// Byte-pair encoding of one word (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with
// Subword Units"): of all adjacent pairs of tokens the one of lowest rank is merged, the leftmost first among
// equals, until no pair has a merge. MergeTable is filled while tokenizer.json is read and constant after.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"

namespace baton::text::bpe {

struct Merge {
  uint32_t rank = UINT32_MAX;  // position in the file's list: the lower, the earlier
  TokenId merged = -1;         // -1: this pair has no merge
};

class MergeTable {
 public:
  void reserve(size_t merges);

  // Ranks come in rising order. A pair that is given twice keeps its later merge, as in Hugging Face's
  // reader.
  void add(TokenId left, TokenId right, Merge merge);

  Merge find(TokenId left, TokenId right) const {
    const uint64_t pair = key(left, right);
    for (size_t at = home(pair);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].pair == pair || slots_[at].pair == kFree) return slots_[at].merge;
    }
  }

 private:
  static constexpr uint64_t kFree = UINT64_MAX;  // no pair: ids are not negative
  struct Slot {
    uint64_t pair = kFree;
    Merge merge;
  };

  static uint64_t key(TokenId left, TokenId right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  // Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4): the upper bits of the product are the
  // best.
  size_t home(uint64_t pair) const { return (pair ^ pair >> 29) * 0x9E3779B97F4A7C15 >> shift_; }
  Slot& slot_of(uint64_t pair);

  std::vector<Slot> slots_ = std::vector<Slot>(16);  // size a power of two, at most half full
  unsigned shift_ = 60;                              // 64 - log2(slots_.size())
  size_t used_ = 0;
};

// Scratch of merge_word, kept between calls so that none allocates.
struct MergeScratch {
  struct Symbol {
    TokenId id;
    int32_t previous;  // index of a neighbour, -1 at the ends
    int32_t next;
    bool alive;
  };
  struct Candidate {
    uint32_t rank;
    int32_t at;  // the left symbol
    TokenId merged;
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  std::vector<uint32_t> ranks;
};

constexpr size_t kScannedWordMax = 48;  // tokens up to which scanning all pairs beats a heap

// Merges `word`, one token a byte at first, in place and returns how many tokens are left at its front.
// O(n log n); words of at most kScannedWordMax tokens are scanned instead.
size_t merge_word(const MergeTable& merges, std::span<TokenId> word, MergeScratch& scratch);

// The two ways of merge_word, which agree on every word.
size_t merge_by_scan(const MergeTable& merges, std::span<TokenId> word, MergeScratch& scratch);
size_t merge_by_heap(const MergeTable& merges, std::span<TokenId> word, MergeScratch& scratch);

}  // namespace baton::text::bpe
