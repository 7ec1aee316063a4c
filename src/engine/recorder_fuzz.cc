// Bytes that claim to be a flight record: as they come, and once more with their frames and checksums made
// right, so that what lies behind them is reached. What can be read is replayed on the fake model: the engine
// and the hand-over's state machines have to bear every inbox that a record can tell of.
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "engine/recorder.h"
#include "model/testing.h"

namespace {

constexpr size_t kStepsMax = 100;
constexpr size_t kFrameBytes = sizeof(uint32_t) + sizeof(uint64_t);  // beside its body

// Magic, version, and the length and checksum of each frame; the last one is cut to what there is.
std::vector<std::byte> repaired(std::span<const std::byte> data) {
  using namespace baton::engine;
  std::vector<std::byte> bytes(data.begin(), data.end());
  size_t at = kRecordMagic.size() + sizeof(kRecordVersion);
  if (bytes.size() < at) return bytes;
  std::memcpy(bytes.data(), kRecordMagic.data(), kRecordMagic.size());
  std::memcpy(bytes.data() + kRecordMagic.size(), &kRecordVersion, sizeof(kRecordVersion));
  while (bytes.size() - at >= kFrameBytes) {
    uint32_t size = 0;
    std::memcpy(&size, bytes.data() + at, sizeof(size));
    size = static_cast<uint32_t>(std::min<size_t>(size, bytes.size() - at - kFrameBytes));
    std::memcpy(bytes.data() + at, &size, sizeof(size));
    const uint64_t hash = XXH3_64bits(bytes.data() + at + sizeof(size), size);
    std::memcpy(bytes.data() + at + sizeof(size) + size, &hash, sizeof(hash));
    at += kFrameBytes + size;
  }
  bytes.resize(at);
  return bytes;
}

void replay_small(baton::engine::Record record) {
  using namespace baton;
  model::FakeModel model({.max_position = 512, .nan_token = 61, .inf_token = 60});
  engine::RecordHead& head = record.head;
  head.fingerprint = model.info().fingerprint;
  head.layout = model.info().kv_layout;
  head.arena_blocks = 1 + head.arena_blocks % 32;
  engine::ScheduleLimits& limits = head.config.limits;
  limits.seqs_max = 1 + limits.seqs_max % 16;
  limits.batch_tokens_max = std::clamp(limits.batch_tokens_max, limits.seqs_max, 256U);
  record.steps.resize(std::min(record.steps.size(), kStepsMax));
  auto arena = kv::KvArena::create(head.layout, head.arena_blocks, head.config.handover.incarnation);
  if (arena) static_cast<void>(engine::replay(record, model, **arena));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  static_cast<void>(baton::engine::parse_record(bytes));
  auto record = baton::engine::parse_record(repaired(bytes));
  if (record) replay_small(std::move(*record));
  return 0;
}
