#include "text/bpe/merges.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>

namespace baton::text::bpe {
namespace {

// The definition: of all pairs the one of lowest rank, the leftmost first, until none has a merge.
std::vector<TokenId> reference(const MergeTable& merges, std::vector<TokenId> word) {
  while (true) {
    std::optional<size_t> best;
    for (size_t i = 0; i + 1 < word.size(); ++i) {
      const Merge merge = merges.find(word[i], word[i + 1]);
      if (merge.merged < 0) continue;
      if (!best || merge.rank < merges.find(word[*best], word[*best + 1]).rank) best = i;
    }
    if (!best) return word;
    word[*best] = merges.find(word[*best], word[*best + 1]).merged;
    word.erase(word.begin() + static_cast<ptrdiff_t>(*best) + 1);
  }
}

template <class Way>
std::vector<TokenId> merged(Way way, const MergeTable& merges, std::vector<TokenId> word,
                            MergeScratch& scratch) {
  word.resize(way(merges, word, scratch));
  return word;
}

TEST(Merges, ScanHeapAndDefinitionAgreeOnRandomTables) {
  std::mt19937 random(3);
  const auto below = [&](TokenId n) { return static_cast<TokenId>(random() % static_cast<uint32_t>(n)); };
  MergeScratch scratch;
  for (int round = 0; round < 300; ++round) {
    MergeTable merges;
    TokenId tokens = 1 + below(4);
    const TokenId letters = tokens;
    for (uint32_t rank = 0; rank < 30; ++rank) {
      const TokenId merged_id = below(3) == 0 ? below(tokens) : tokens++;  // several pairs may give one token
      merges.add(below(tokens), below(tokens), {rank, merged_id});
    }
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<TokenId> word(static_cast<size_t>(below(120)));
      for (TokenId& id : word) id = below(letters);
      const std::vector<TokenId> expected = reference(merges, word);
      ASSERT_EQ(merged(merge_by_scan, merges, word, scratch), expected);
      ASSERT_EQ(merged(merge_by_heap, merges, word, scratch), expected);
      ASSERT_EQ(merged(merge_word, merges, word, scratch), expected);
    }
  }
}

TEST(Merges, TheLaterOfTwoMergesOfOnePairCounts) {
  MergeTable merges;
  merges.add(0, 1, {0, 2});
  merges.add(0, 1, {1, 3});
  EXPECT_EQ(merges.find(0, 1).rank, 1U);
  EXPECT_EQ(merges.find(0, 1).merged, 3);
  EXPECT_EQ(merges.find(1, 0).merged, -1);
}

TEST(Merges, ALongWordTakesWorkInProportion) {
  // Every pair merges: a heap does about n log n steps here, a scan n * n, which would not end within the
  // test's time.
  MergeTable merges;
  for (TokenId id = 0; id < 30; ++id) merges.add(id, id, {static_cast<uint32_t>(id), id + 1});
  std::vector<TokenId> word(1 << 20, 0);
  MergeScratch scratch;
  ASSERT_EQ(merge_word(merges, word, scratch), 1U);
  EXPECT_EQ(word[0], 20);
}

}  // namespace
}  // namespace baton::text::bpe
