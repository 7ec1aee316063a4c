#include "kv/paged_cache.h"

#include <fmt/format.h>

#include <cstring>

#include "base/check.h"

namespace baton::kv {

PagedCache::PagedCache(KvArena& arena, bool prefixes, PrefixHasher hasher)
    : arena_(arena),
      index_(arena.blocks(), arena.layout().block_tokens, hasher),
      pool_(arena, [this](BlockId block) { index_.erase(block); }),
      prefixes_(prefixes) {}

PagedCache::PrefixHit PagedCache::find_prefix(std::string_view salt, std::span<const TokenId> tokens) const {
  PrefixHit hit;
  if (!prefixes_) return hit;
  hit.blocks = index_.match(salt, tokens, arena_.blocks());
  for (const BlockId block : hit.blocks) hit.cached += pool_.owners(block) == 0 ? 1 : 0;
  return hit;
}

void PagedCache::adopt(BlockTable& table, const PrefixHit& hit, std::string_view salt,
                       std::span<const TokenId> tokens) {
  CHECK(table.blocks.empty(), "the table has {} blocks", table.blocks.size());
  table.cursor = PrefixIndex::root(salt);
  for (const BlockId block : hit.blocks) {
    const auto found =
        index_.find(table.cursor, tokens.subspan(table.blocks.size() * block_tokens(), block_tokens()));
    CHECK(found == block, "block {} is not the prefix it was", baton::index(block));
    pool_.share(block);
    table.blocks.push_back(block);
  }
}

uint32_t PagedCache::growth(const BlockTable& table, uint32_t from, uint32_t positions) const {
  const auto held = static_cast<uint32_t>(table.blocks.size());
  const uint32_t wanted = arena_.layout().blocks_for(positions);
  uint32_t blocks = wanted > held ? wanted - held : 0;
  for (uint32_t i = from / block_tokens(); i < std::min(held, wanted); ++i) {
    blocks += is_writable(table.blocks[i]) ? 0 : 1;
  }
  return blocks;
}

bool PagedCache::grow(BlockTable& table, uint32_t from, uint32_t positions) {
  const uint32_t count = growth(table, from, positions);
  if (count == 0) return true;
  auto taken = pool_.take(count);
  if (!taken) return false;
  const auto held = static_cast<uint32_t>(table.blocks.size());
  const uint32_t wanted = arena_.layout().blocks_for(positions);
  auto next = taken->begin();
  for (uint32_t i = from / block_tokens(); i < std::min(held, wanted); ++i) {
    const BlockId old = table.blocks[i];
    if (is_writable(old)) continue;
    for (uint32_t layer = 0; layer < arena_.layout().layers; ++layer) {
      const auto to = arena_.at(layer, *next);
      std::memcpy(to.data(), arena_.at(layer, old).data(), to.size());
    }
    table.blocks[i] = *next++;
    give_back(old);
  }
  table.blocks.insert(table.blocks.end(), next, taken->end());
  return true;
}

BlockTable PagedCache::fork(const BlockTable& table) {
  for (const BlockId block : table.blocks) pool_.share(block);
  return table;
}

void PagedCache::index_full_blocks(BlockTable& table, std::string_view salt, std::span<const TokenId> tokens,
                                   uint32_t computed) {
  if (!prefixes_) return;
  CHECK(computed <= tokens.size(), "{} of {} tokens", computed, tokens.size());
  if (table.cursor.blocks() == 0) table.cursor = PrefixIndex::root(salt);
  while ((table.cursor.blocks() + 1) * block_tokens() <= computed) {
    const uint32_t at = table.cursor.blocks();
    const uint32_t before = at;
    index_.insert(table.cursor, tokens.subspan(size_t{at} * block_tokens(), block_tokens()),
                  table.blocks[at]);
    if (table.cursor.blocks() == before) return;  // its chain left the index
  }
}

void PagedCache::release(BlockTable& table) {
  for (auto it = table.blocks.rbegin(); it != table.blocks.rend(); ++it) give_back(*it);
  table = {};
}

void PagedCache::discard(BlockTable& table) {
  for (const BlockId block : table.blocks) index_.erase(block);
  release(table);
}

void PagedCache::reset_prefixes() {
  for (uint32_t i = 0; i < arena_.blocks(); ++i) pool_.uncache(BlockId{i});
  index_.reset();
}

void PagedCache::reset() {
  reset_prefixes();
  pool_.reset();
}

std::string PagedCache::find_inconsistency() const {
  if (std::string wrong = pool_.find_inconsistency(); !wrong.empty()) return "pool: " + wrong;
  if (std::string wrong = index_.find_inconsistency(); !wrong.empty()) return "prefix index: " + wrong;
  for (uint32_t i = 0; i < arena_.blocks(); ++i) {
    const BlockId block{i};
    const bool indexed = index_.contains(block);
    if (pool_.state(block) == BlockState::kCached && !indexed)
      return fmt::format("block {}: cached, unknown", i);
    if (pool_.state(block) == BlockState::kFree && indexed) return fmt::format("block {}: free, indexed", i);
  }
  return {};
}

}  // namespace baton::kv
