// The identity of a model: equal fingerprints mean that two instances may exchange KV. SHA-256 over the
// config, the tokenizer and template files, and the tensors in the order of their names, so that how a
// checkpoint is cut into shards does not matter.
#pragma once

#include <array>
#include <atomic>
#include <compare>
#include <cstdint>
#include <string>

#include "base/result.h"
#include "checkpoint/checkpoint.h"

namespace baton::checkpoint {

struct Fingerprint {
  std::array<uint8_t, 32> sha256{};

  auto operator<=>(const Fingerprint&) const = default;
  std::string hex() const;  // 64 lower-case digits
};

inline constexpr size_t kSampledPages = 256;
inline constexpr size_t kSampledPageBytes = 4096;

// Cheap, at start: text files in full, names, dtypes and shapes of all tensors, and kSampledPages pages
// spread evenly over the weights. Milliseconds when the pages are cached.
Result<Fingerprint> quick_fingerprint(const Checkpoint& checkpoint);

// The same over every byte of the weights. Takes about a second per GB; meant for a background thread.
// kCancelled soon after `cancel` becomes true.
Result<Fingerprint> complete_fingerprint(const Checkpoint& checkpoint, const std::atomic<bool>& cancel);

}  // namespace baton::checkpoint
