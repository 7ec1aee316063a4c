// Words that were encoded lately and their ids: text repeats its words, and a look here is several times
// cheaper than the merges. Direct-mapped, 1 MiB, lossy; belongs to one thread and one tokenizer at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "base/ids.h"

namespace baton::text::bpe {

class WordCache {
 public:
  static constexpr size_t kWordBytesMax = 24;  // longer words are rare and not kept
  static constexpr size_t kIdsMax = 9;

  // A word as three zero-padded numbers; its length is told apart by `bytes`.
  struct Key {
    std::array<uint64_t, 3> words{};
    uint8_t bytes = 0;
    bool operator==(const Key&) const = default;

    // `word` has 1 to kWordBytesMax bytes.
    static Key of(std::string_view word) {
      Key key;
      std::memcpy(key.words.data(), word.data(), word.size());
      key.bytes = static_cast<uint8_t>(word.size());
      return key;
    }
  };

  struct alignas(64) Entry {
    Key key;
    uint8_t count = 0;
    std::array<TokenId, kIdsMax> ids{};
  };

  // Forgets everything unless the cache already belongs to the tokenizer of this serial number.
  void own(uint64_t serial) {
    if (serial_ == serial) return;
    entries_.assign(kEntries, Entry{});
    serial_ = serial;
  }

  // The one place where `key` may be; holds another word, or none, unless its key is equal.
  Entry& place(const Key& key) {
    uint64_t hash = key.bytes;
    for (const uint64_t word : key.words) hash = (hash ^ word ^ word >> 32) * 0x9E3779B97F4A7C15;
    return entries_[hash >> (64 - kEntriesLog2)];
  }

 private:
  static constexpr unsigned kEntriesLog2 = 14;
  static constexpr size_t kEntries = size_t{1} << kEntriesLog2;

  std::vector<Entry> entries_;
  uint64_t serial_ = 0;
};

}  // namespace baton::text::bpe
