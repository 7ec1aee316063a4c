// Which caches probably hold the beginning of a request. A request's beginning is a chain of hashes over its
// canonical bytes (prefix_chain); the table remembers which instances were lately given each link. It
// guesses, and what instances report corrects it (router/registry.h): a wrong guess costs time, never an
// answer.
//
// Canonical bytes: the values of what shapes a prompt as they were written (cache_salt, model, tools,
// chat_template, chat_template_kwargs), then the messages one after the other, or the prompt. A chain is cut
// at each message's end and every kPrefixCutBytes within one, so that a conversation that goes on, and a
// prompt that grows, keep their links.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "router/bodies.h"

namespace baton::router {

inline constexpr size_t kPrefixCutBytes = 512;
inline constexpr size_t kPrefixCutsMax = 512;  // what lies behind is not looked at
inline constexpr size_t kPrefixEntriesMax = 1'000'000;

// One life of one instance's prefix cache; never reused.
using CacheId = uint32_t;
inline constexpr CacheId kNoCache = 0;

struct PrefixCut {
  uint64_t hash = 0;   // xxh3 of everything up to here
  uint64_t bytes = 0;  // of the prompt's part up to here
  bool operator==(const PrefixCut&) const = default;
};

std::vector<PrefixCut> prefix_chain(const ClientBody& client);

// Bounded; the entries not touched for longest go first. A link is touched after those behind it, so that a
// known link's predecessors are known too. match: a few cache misses; record: some per link.
class PrefixTable {
 public:
  explicit PrefixTable(size_t capacity = kPrefixEntriesMax);

  struct Match {
    CacheId cache = kNoCache;
    uint32_t cuts = 0;  // links of the chain that it was given, at least
  };
  // Caches that were given the longest known beginnings, the longest first, each once.
  void match(std::span<const PrefixCut> chain, std::vector<Match>& out) const;
  // `cache` has, or will have, the whole chain.
  void record(std::span<const PrefixCut> chain, CacheId cache);

  size_t size() const { return size_; }

 private:
  static constexpr size_t kCachesPerEntry = 4;  // the last ones
  static constexpr size_t kPageEntries = 4096;
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Entry {
    uint64_t hash = 0;
    uint32_t newer = kNone;  // in order of use
    uint32_t older = kNone;
    uint32_t next = kNone;                          // in its bucket
    std::array<CacheId, kCachesPerEntry> caches{};  // the last first
  };
  Entry& at(uint32_t index) { return pages_[index / kPageEntries][index % kPageEntries]; }
  const Entry& at(uint32_t index) const { return pages_[index / kPageEntries][index % kPageEntries]; }
  uint32_t& bucket(uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }
  uint32_t find(uint64_t hash) const;
  uint32_t obtain(uint64_t hash);
  void unlink(uint32_t index);
  void make_newest(uint32_t index);

  size_t capacity_;
  size_t size_ = 0;
  std::vector<uint32_t> buckets_;  // a power of two of them
  std::vector<std::unique_ptr<Entry[]>> pages_;
  uint32_t newest_ = kNone;
  uint32_t oldest_ = kNone;
};

}  // namespace baton::router
