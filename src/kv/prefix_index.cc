#include "kv/prefix_index.h"

#include <fmt/format.h>
#define XXH_STATIC_LINKING_ONLY  // the state lives on the stack
#include <xxhash.h>

#include <algorithm>

#include "base/check.h"

namespace baton::kv {

PrefixHash xxh3_prefix_hash(PrefixHash parent, std::span<const TokenId> tokens) {
  // The high word of the parent goes in as the seed, the low word in front of the tokens, so all 128 bits of
  // the chain take part.
  XXH3_state_t state;
  XXH3_INITSTATE(&state);  // a seeded reset compares with the seed before
  XXH3_128bits_reset_withSeed(&state, parent.high);
  XXH3_128bits_update(&state, &parent.low, sizeof(parent.low));
  XXH3_128bits_update(&state, tokens.data(), tokens.size_bytes());
  const XXH128_hash_t hash = XXH3_128bits_digest(&state);
  return {hash.low64, hash.high64};
}

PrefixIndex::PrefixIndex(uint32_t blocks, uint32_t block_tokens, PrefixHasher hasher)
    : block_tokens_(block_tokens), hasher_(hasher), nodes_(blocks) {}

PrefixCursor PrefixIndex::root(std::string_view salt) {
  PrefixCursor cursor;
  cursor.salt_ = salt;
  const XXH128_hash_t hash = XXH3_128bits(salt.data(), salt.size());
  cursor.hash_ = {hash.low64, hash.high64};
  return cursor;
}

bool PrefixIndex::holds(const Node& node, const PrefixCursor& cursor, std::span<const TokenId> tokens) const {
  if (node.parent != cursor.node_) return false;
  if (node.parent == 0 && node.salt != cursor.salt_) return false;
  return std::ranges::equal(node.tokens, tokens);
}

std::optional<BlockId> PrefixIndex::find(PrefixCursor& cursor, std::span<const TokenId> tokens) const {
  CHECK(tokens.size() == block_tokens_, "{} tokens, expected {}", tokens.size(), block_tokens_);
  const PrefixHash hash = hasher_(cursor.hash_, tokens);
  const auto [first, last] = by_hash_.equal_range(hash);
  for (auto it = first; it != last; ++it) {
    const Node& node = nodes_[index(it->second)];
    if (!holds(node, cursor, tokens)) continue;
    cursor.hash_ = hash;
    cursor.node_ = node.id;
    cursor.block_ = it->second;
    ++cursor.blocks_;
    return it->second;
  }
  return std::nullopt;
}

std::vector<BlockId> PrefixIndex::match(std::string_view salt, std::span<const TokenId> tokens,
                                        uint32_t blocks_max) const {
  std::vector<BlockId> blocks;
  PrefixCursor cursor = root(salt);
  while (blocks.size() < blocks_max && (blocks.size() + 1) * block_tokens_ <= tokens.size()) {
    const auto block = find(cursor, tokens.subspan(blocks.size() * block_tokens_, block_tokens_));
    if (!block) break;
    blocks.push_back(*block);
  }
  return blocks;
}

bool PrefixIndex::insert(PrefixCursor& cursor, std::span<const TokenId> tokens, BlockId block) {
  const bool attached = cursor.node_ == 0 || nodes_[index(cursor.block_)].id == cursor.node_;
  if (!attached) return false;
  if (find(cursor, tokens)) return cursor.block_ == block;
  CHECK(!contains(block), "block {} holds two prefixes", index(block));
  Node& node = nodes_[index(block)];
  node.id = next_id_++;
  node.parent = cursor.node_;
  if (node.parent == 0) node.salt = cursor.salt_;
  node.hash = hasher_(cursor.hash_, tokens);
  node.tokens.assign(tokens.begin(), tokens.end());
  by_hash_.emplace(node.hash, block);
  ++size_;
  cursor.hash_ = node.hash;
  cursor.node_ = node.id;
  cursor.block_ = block;
  ++cursor.blocks_;
  return true;
}

void PrefixIndex::erase(BlockId block) {
  Node& node = nodes_.at(index(block));
  if (node.id == 0) return;
  const auto [first, last] = by_hash_.equal_range(node.hash);
  const auto it = std::find_if(first, last, [&](const auto& entry) { return entry.second == block; });
  CHECK(it != last, "block {} is indexed but its hash is not", index(block));
  by_hash_.erase(it);
  node = Node{};
  --size_;
}

void PrefixIndex::reset() {
  by_hash_.clear();
  for (Node& node : nodes_) node = Node{};
  size_ = 0;
}

std::string PrefixIndex::find_inconsistency() const {
  uint32_t indexed = 0;
  for (uint32_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    if (node.id == 0) continue;
    ++indexed;
    if (node.tokens.size() != block_tokens_) return fmt::format("block {}: {} tokens", i, node.tokens.size());
    const auto [first, last] = by_hash_.equal_range(node.hash);
    const auto times = std::count_if(first, last, [&](const auto& e) { return index(e.second) == i; });
    if (times != 1) return fmt::format("block {}: found {} times by its hash", i, times);
  }
  if (indexed != size_ || by_hash_.size() != size_) {
    return fmt::format("{} nodes, {} hashes, size {}", indexed, by_hash_.size(), size_);
  }
  return {};
}

}  // namespace baton::kv
