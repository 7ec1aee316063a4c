#include "kv/paged_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace baton::kv {
namespace {

constexpr KvLayout kLayout{
    .layers = 2, .kv_heads = 1, .head_dim = 4, .block_tokens = 16, .dtype = DType::kF32};

std::unique_ptr<KvArena> arena_of(uint32_t blocks) {
  return std::move(*KvArena::create(kLayout, blocks, Incarnation{{1}}));
}

std::vector<TokenId> tokens_of(uint32_t count, TokenId first = 0) {
  std::vector<TokenId> tokens(count);
  for (uint32_t i = 0; i < count; ++i) tokens[i] = first + static_cast<TokenId>(i);
  return tokens;
}

TEST(BlockPool, TakesAllOrNothing) {
  const auto arena = arena_of(4);
  BlockPool pool(*arena, [](BlockId) {});
  const auto three = pool.take(3);
  ASSERT_TRUE(three);
  EXPECT_EQ(*three, (std::vector{BlockId{0}, BlockId{1}, BlockId{2}}));
  const auto more = pool.take(2);
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, Code::kExhausted);
  EXPECT_NE(more.error().message.find("2 blocks wanted, 1 of 4"), std::string::npos);
  EXPECT_EQ(pool.counts(), (BlockCounts{.free = 1, .cached = 0, .owned = 3}));
}

TEST(BlockPool, EvictsTheLeastRecentlyUsedCachedBlockAndSaysSo) {
  const auto arena = arena_of(3);
  std::vector<BlockId> evicted;
  BlockPool pool(*arena, [&](BlockId block) { evicted.push_back(block); });
  for (const BlockId block : *pool.take(3)) pool.give_back(block, true);
  pool.share(BlockId{0});  // in use again, then the most recent
  pool.give_back(BlockId{0}, true);
  EXPECT_TRUE(pool.take(2));
  EXPECT_EQ(evicted, (std::vector{BlockId{1}, BlockId{2}}));
  EXPECT_EQ(pool.find_inconsistency(), "");
}

TEST(BlockPool, TheEpochGrowsOnlyWhenTheLastOwnerLeaves) {
  const auto arena = arena_of(1);
  BlockPool pool(*arena, [](BlockId) {});
  const BlockId block = pool.take(1)->front();
  pool.share(block);
  pool.give_back(block, false);
  EXPECT_EQ(arena->epoch(block), 0U);
  pool.give_back(block, false);
  EXPECT_EQ(arena->epoch(block), 1U);
}

TEST(BlockPoolDeath, ASecondReleaseIsABug) {
  const auto arena = arena_of(1);
  BlockPool pool(*arena, [](BlockId) {});
  const BlockId block = pool.take(1)->front();
  pool.give_back(block, false);
  EXPECT_DEATH(pool.give_back(block, false), "has no owner");
}

PrefixHash weak_hash(PrefixHash, std::span<const TokenId>) { return {1, 1}; }

TEST(PrefixIndex, TheTokensDecideEvenIfAllHashesAreEqual) {
  for (const PrefixHasher hasher : {weak_hash, xxh3_prefix_hash}) {
    PrefixIndex index(8, 16, hasher);
    const auto a = tokens_of(32);
    const auto b = tokens_of(32, 100);
    PrefixCursor cursor = PrefixIndex::root("");
    EXPECT_TRUE(index.insert(cursor, std::span(a).first(16), BlockId{0}));
    EXPECT_TRUE(index.insert(cursor, std::span(a).last(16), BlockId{1}));
    EXPECT_EQ(index.match("", a, 8), (std::vector{BlockId{0}, BlockId{1}}));
    EXPECT_TRUE(index.match("", b, 8).empty());
    // The second block of `a` is no prefix of its own, nor after another first block.
    EXPECT_TRUE(index.match("", std::span(a).last(16), 8).empty());
    std::vector<TokenId> mixed(b.begin(), b.begin() + 16);
    mixed.insert(mixed.end(), a.begin() + 16, a.end());
    PrefixCursor other = PrefixIndex::root("");
    EXPECT_TRUE(index.insert(other, std::span(mixed).first(16), BlockId{2}));
    EXPECT_EQ(index.match("", mixed, 8), (std::vector{BlockId{2}}));
    // Another salt is another world.
    EXPECT_TRUE(index.match("salt", a, 8).empty());
    EXPECT_EQ(index.find_inconsistency(), "");
  }
}

TEST(PrefixIndex, TheHashOfABlockIsAFunctionOfItsArguments) {
  const auto tokens = tokens_of(16);
  const PrefixHash first = xxh3_prefix_hash({1, 2}, tokens);
  for (uint64_t other = 0; other < 100; ++other) {
    // What other hashes left on the stack must not matter.
    static_cast<void>(xxh3_prefix_hash({other, other * 3}, tokens));
    EXPECT_EQ(xxh3_prefix_hash({1, 2}, tokens), first);
  }
  EXPECT_NE(xxh3_prefix_hash({1, 3}, tokens), first);
  EXPECT_NE(xxh3_prefix_hash({2, 2}, tokens), first);
}

TEST(PrefixIndex, AChainWithoutItsFirstBlockIsFoundNoMore) {
  PrefixIndex index(8, 16);
  const auto tokens = tokens_of(48);
  PrefixCursor cursor = PrefixIndex::root("");
  for (uint32_t i = 0; i < 3; ++i) index.insert(cursor, std::span(tokens).subspan(i * 16, 16), BlockId{i});
  index.erase(BlockId{1});
  EXPECT_EQ(index.match("", tokens, 8), (std::vector{BlockId{0}}));
  PrefixCursor again = PrefixIndex::root("");
  index.find(again, std::span(tokens).first(16));
  index.insert(again, std::span(tokens).subspan(16, 16), BlockId{4});
  EXPECT_EQ(index.match("", tokens, 8), (std::vector{BlockId{0}, BlockId{4}}));
  EXPECT_EQ(index.find_inconsistency(), "");
}

TEST(PagedCache, AWriterNeverTouchesASharedOrIndexedBlock) {
  const auto arena = arena_of(8);
  PagedCache cache(*arena, true);
  const auto tokens = tokens_of(32);
  BlockTable a;
  ASSERT_TRUE(cache.grow(a, 0, 20));
  std::memset(arena->at(1, a.blocks[1]).data(), 5, 8);
  BlockTable b = cache.fork(a);
  EXPECT_EQ(cache.growth(b, 20, 21), 1U);
  ASSERT_TRUE(cache.grow(b, 20, 21));
  EXPECT_EQ(b.blocks[0], a.blocks[0]);
  ASSERT_NE(b.blocks[1], a.blocks[1]);
  EXPECT_EQ(std::memcmp(arena->at(1, a.blocks[1]).data(), arena->at(1, b.blocks[1]).data(), 8), 0);
  EXPECT_EQ(cache.growth(a, 20, 21), 0U);  // now alone with it
  cache.index_full_blocks(a, "", tokens, 16);
  const BlockId first = a.blocks[0];
  cache.release(b);
  ASSERT_TRUE(cache.grow(a, 15, 16));  // indexed: copied
  EXPECT_NE(a.blocks[0], first);
  EXPECT_EQ(cache.pool().state(first), BlockState::kCached);
  cache.release(a);
  EXPECT_EQ(cache.counts(), (BlockCounts{.free = 7, .cached = 1, .owned = 0}));
  EXPECT_EQ(cache.find_inconsistency(), "");
}

TEST(PagedCache, ADuplicateBlockStaysPrivateAndIsFreedAtTheEnd) {
  const auto arena = arena_of(8);
  PagedCache cache(*arena, true);
  const auto tokens = tokens_of(32);
  BlockTable a;
  BlockTable b;
  cache.grow(a, 0, 32);
  cache.grow(b, 0, 32);
  cache.index_full_blocks(a, "", tokens, 32);
  cache.index_full_blocks(b, "", tokens, 32);
  cache.release(b);
  EXPECT_EQ(cache.counts(), (BlockCounts{.free = 6, .cached = 0, .owned = 2}));
  cache.release(a);
  EXPECT_EQ(cache.find_prefix("", tokens).cached, 2U);
  cache.reset_prefixes();
  EXPECT_EQ(cache.counts(), (BlockCounts{.free = 8, .cached = 0, .owned = 0}));
}

// Random tables grow, fork, index, end; nothing is ever lost, and what is found holds what was written.
TEST(PagedCache, BlocksAddUpWhateverHappens) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const auto arena = arena_of(12);
    PagedCache cache(*arena, true, seed % 4 == 0 ? weak_hash : xxh3_prefix_hash);
    std::mt19937 random(seed);
    struct Live {
      BlockTable table;
      std::vector<TokenId> tokens;
    };
    std::vector<Live> live;
    for (int step = 0; step < 60; ++step) {
      const uint32_t what = random() % 6;
      if (what <= 1 && live.size() < 4) {
        Live fresh;
        for (uint32_t i = 0; i < 64; ++i)
          fresh.tokens.push_back(static_cast<TokenId>(i / 16 * (random() % 2)));
        cache.adopt(fresh.table, cache.find_prefix("", fresh.tokens), "", fresh.tokens);
        live.push_back(std::move(fresh));
      } else if (what == 5) {
        cache.reset_prefixes();
      } else if (!live.empty()) {
        const size_t which = random() % live.size();
        Live& one = live[which];
        const auto held = static_cast<uint32_t>(one.table.blocks.size()) * 16;
        const uint32_t to = std::min<uint32_t>(64, held + random() % 20);
        if (what == 2 && cache.grow(one.table, std::min(held, to), to)) {
          cache.index_full_blocks(one.table, "", one.tokens, to);
        } else if (what == 3) {
          cache.release(one.table);
          live.erase(live.begin() + static_cast<ptrdiff_t>(which));
        } else if (what == 4 && live.size() < 4) {
          live.push_back({cache.fork(one.table), one.tokens});
        }
      }
      ASSERT_EQ(cache.find_inconsistency(), "") << "seed " << seed << " step " << step;
    }
    for (Live& one : live) cache.release(one.table);
    EXPECT_EQ(cache.counts().owned, 0U);
    cache.reset_prefixes();
    EXPECT_EQ(cache.counts().free, 12U);
  }
}

}  // namespace
}  // namespace baton::kv
