// The flight recorder: every inbox of an engine as bytes, always on, so that what an engine did can be done
// again offline, bit for bit. A record begins at an engine that is as new: at its start, or, once the record
// has reached its bound, at the next moment when the engine is idle (the prefix cache is then forgotten). An
// engine that has itself fetched KV keeps its first record, up to the bound: its connections outlive
// idleness. Replay needs no KV of peers: what landed is computed instead, which by the arithmetic law gives
// the bytes that came. Owned by the engine thread.
//
// File, little-endian: "BATONREC", u32 version, head, then steps; head and each step begin with a u32 length
// and end with the xxh3-64 of their bytes. A checksum protects from accidents only: whoever reads a record
// holds it to everything that an engine takes for granted of its inbox, and to the bounds below.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"
#include "kv/sizing.h"

namespace baton::engine {

inline constexpr std::array<char, 8> kRecordMagic = {'B', 'A', 'T', 'O', 'N', 'R', 'E', 'C'};
inline constexpr uint32_t kRecordVersion = 7;
inline constexpr size_t kRecordBytesMax = size_t{64} << 20;

// Bounds of what is read. No running instance is beyond them: check_config and kv::arena_blocks see to it.
inline constexpr size_t kRecordFileBytesMax = 4 * kRecordBytesMax;  // the step that filled a record is whole
inline constexpr size_t kRecordItemsMax = size_t{4} << 20;          // of all inboxes together
inline constexpr uint32_t kRecordBlocksMax = kv::kArenaBlocksMax;
inline constexpr uint32_t kRecordBatchTokensMax = 256 * 1024;
inline constexpr Time kRecordTimeMax{std::chrono::hours(24 * 365 * 100)};

// What the recorded engine was made of.
struct RecordHead {
  EngineConfig config;
  std::string fingerprint;  // of the model
  kv::KvLayout layout;
  uint32_t arena_blocks = 0;

  bool operator==(const RecordHead&) const = default;
};

struct RecordedStep {
  Time now;
  std::vector<Inbox> inbox;
  bool ended = false;  // false: the process died within this step
  PassMark pass;
  uint64_t outbox_hash = 0;  // if ended
};

struct Record {
  RecordHead head;
  std::vector<RecordedStep> steps;
};

class Recorder {
 public:
  // Files go to `directory`; in memory at most `bytes_max`.
  explicit Recorder(std::string directory, size_t bytes_max = kRecordBytesMax)
      : directory_(std::move(directory)), bytes_max_(bytes_max) {}

  // Called by the engine.
  void start(const EngineConfig& config, const model::ModelInfo& info, uint32_t arena_blocks);
  void begin_step(const std::vector<Inbox>& inbox, Time now);
  void end_step(Engine& engine, const Outbox& outbox, const PassMark& pass);

  // The record so far, a step that has begun and not ended included.
  std::vector<std::byte> bytes() const;
  // Whether every step since the record began is in it.
  bool is_complete() const { return !full_; }

  // Writes it to a new file DIRECTORY/baton-<pid>-<number>.record and returns its path. Also what a hook of
  // on_check_failed calls.
  Result<std::string> write_file();

 private:
  void begin_anew();

  std::string directory_;
  size_t bytes_max_;
  std::vector<std::byte> head_;
  std::vector<std::byte> steps_;
  std::vector<std::byte> open_;                    // inbox of the step that has begun
  std::map<uint64_t, transfer::PeerUp> peers_up_;  // accepted connections: a new record begins with them
  bool connected_ = false;                         // the engine has opened a connection itself
  bool full_ = false;
  bool is_stepping_ = false;
  uint32_t files_ = 0;
};

// Of everything that shows in an outbox but epochs, which count since the arena was made.
uint64_t hash_outbox(const Outbox& outbox);

// kCorrupt names step, field, value and expectation: "step 3: inbox[1].request.sampling.n: 2 bytes are left,
// expected 4". Also of a step that is cut off, of ids that come twice and of times that go back. What is
// returned can be replayed: no step of it breaks an invariant of an engine.
Result<Record> parse_record(std::span<const std::byte> bytes);
// As parse_record; the error begins with the path.
Result<Record> read_record_file(const std::string& path);

struct ReplayReport {
  uint64_t steps = 0;
  uint64_t tokens = 0;                       // drawn
  std::optional<uint64_t> first_difference;  // the step whose outbox was another one
  bool is_same() const { return !first_difference; }
};

// Steps a new engine through a record that parse_record has read. kInvalid names what of `model` or `arena`
// is not the recorded one.
Result<ReplayReport> replay(const Record& record, model::LanguageModel& model, kv::KvArena& arena);

}  // namespace baton::engine
