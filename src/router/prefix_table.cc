#include "router/prefix_table.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <string_view>

namespace baton::router {
namespace {

class Chain {
 public:
  // What shapes every prompt is part of each link and has no length.
  void seed(std::string_view text) { hash_ = XXH3_64bits_withSeed(text.data(), text.size(), hash_ + 1); }

  void add(std::string_view text) {
    while (!text.empty() && cuts_.size() < kPrefixCutsMax) {
      const std::string_view piece = text.substr(0, kPrefixCutBytes);
      text.remove_prefix(piece.size());
      hash_ = XXH3_64bits_withSeed(piece.data(), piece.size(), hash_);
      bytes_ += piece.size();
      cuts_.push_back({hash_, bytes_});
    }
  }

  std::vector<PrefixCut> take() { return std::move(cuts_); }

 private:
  uint64_t hash_ = 0;
  uint64_t bytes_ = 0;
  std::vector<PrefixCut> cuts_;
};

}  // namespace

std::vector<PrefixCut> prefix_chain(const ClientBody& client) {
  Chain chain;
  for (const char* key : {"cache_salt", "model", "tools", "chat_template", "chat_template_kwargs"})
    chain.seed(client.members.find(key).value_or(""));
  if (client.route == Route::kChat) {
    for (const std::string_view message : api::array_elements(client.members.find("messages").value_or("")))
      chain.add(message);
    return chain.take();
  }
  // Without its last quote or bracket a prompt that grows keeps its links.
  std::string_view prompt = client.members.find("prompt").value_or("");
  if (!prompt.empty()) prompt.remove_suffix(1);
  chain.add(prompt);
  return chain.take();
}

PrefixTable::PrefixTable(size_t capacity)
    : capacity_(std::clamp<size_t>(capacity, 1, kPrefixEntriesMax)),
      buckets_(std::bit_ceil(capacity_), kNone) {}

uint32_t PrefixTable::find(uint64_t hash) const {
  uint32_t index = buckets_[hash & (buckets_.size() - 1)];
  while (index != kNone && at(index).hash != hash) index = at(index).next;
  return index;
}

void PrefixTable::unlink(uint32_t index) {
  const Entry& entry = at(index);
  (entry.newer == kNone ? newest_ : at(entry.newer).older) = entry.older;
  (entry.older == kNone ? oldest_ : at(entry.older).newer) = entry.newer;
}

void PrefixTable::make_newest(uint32_t index) {
  Entry& entry = at(index);
  entry.newer = kNone;
  entry.older = newest_;
  (newest_ == kNone ? oldest_ : at(newest_).newer) = index;
  newest_ = index;
}

uint32_t PrefixTable::obtain(uint64_t hash) {
  uint32_t index = find(hash);
  if (index != kNone) {
    unlink(index);
    return index;
  }
  if (size_ < capacity_) {
    if (size_ % kPageEntries == 0) pages_.push_back(std::make_unique<Entry[]>(kPageEntries));
    index = static_cast<uint32_t>(size_++);
  } else {
    index = oldest_;
    unlink(index);
    uint32_t* link = &bucket(at(index).hash);
    while (*link != index) link = &at(*link).next;
    *link = at(index).next;
  }
  Entry& entry = at(index);
  entry = Entry{.hash = hash, .next = bucket(hash)};
  bucket(hash) = index;
  return index;
}

void PrefixTable::record(std::span<const PrefixCut> chain, CacheId cache) {
  for (size_t i = chain.size(); i > 0; --i) {
    if (i > 8) __builtin_prefetch(&bucket(chain[i - 9].hash));
    const uint32_t index = obtain(chain[i - 1].hash);
    make_newest(index);
    auto& caches = at(index).caches;
    const auto known = std::ranges::find(caches, cache);
    const auto end = known == caches.end() ? caches.end() - 1 : known;
    std::move_backward(caches.begin(), end, end + 1);
    caches.front() = cache;
  }
}

void PrefixTable::match(std::span<const PrefixCut> chain, std::vector<Match>& out) const {
  out.clear();
  size_t known = 0;  // links that are known; those before a known one are, too
  size_t unknown = chain.size() + 1;
  while (known + 1 < unknown) {
    const size_t middle = (known + unknown) / 2;
    (find(chain[middle - 1].hash) == kNone ? unknown : known) = middle;
  }
  // Others have less of it: seen at the half, the quarter, ... which is near enough.
  for (size_t cuts = known; cuts > 0; cuts /= 2) {
    const uint32_t index = find(chain[cuts - 1].hash);
    if (index == kNone) continue;
    for (const CacheId cache : at(index).caches) {
      const auto same = [cache](const Match& match) { return match.cache == cache; };
      if (cache == kNoCache || std::ranges::any_of(out, same)) continue;
      out.push_back({cache, static_cast<uint32_t>(cuts)});
    }
  }
}

}  // namespace baton::router
