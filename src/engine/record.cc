// Reads flight records: bytes of which nothing is known but that an engine is to be stepped through them.
#include <fmt/format.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <unordered_set>

#include "engine/archive.h"
#include "engine/recorder.h"

namespace baton::engine {
namespace {

Failure corrupt(std::string_view where, std::string_view what) {
  return fail(Code::kCorrupt, fmt::format("{}: {}", where, what));
}

Result<std::span<const std::byte>> read_framed(Reader& reader, std::string_view where) {
  constexpr size_t kHashBytes = sizeof(uint64_t);
  if (reader.left() < sizeof(uint32_t)) {
    return corrupt(where, fmt::format("the record ends after {} bytes of its length, expected {}",
                                      reader.left(), sizeof(uint32_t)));
  }
  uint32_t bytes = 0;
  field(reader, bytes);
  if (reader.left() < bytes + kHashBytes) {
    return corrupt(where, fmt::format("the record ends {} bytes into it, expected {} and a checksum of {}",
                                      reader.left(), bytes, kHashBytes));
  }
  const auto body = reader.take(bytes);
  uint64_t hash = 0;
  field(reader, hash);
  const uint64_t expected = XXH3_64bits(body.data(), body.size());
  if (hash != expected)
    return corrupt(where, fmt::format("checksum is {:016x}, expected {:016x}", hash, expected));
  return body;
}

Result<void> finish(const Reader& reader, std::string_view where) {
  if (!reader.ok()) return corrupt(where, reader.error());
  if (reader.left() > 0) return corrupt(where, fmt::format("{} surplus bytes, expected none", reader.left()));
  return {};
}

Result<void> check_duration(std::string_view where, std::string_view name, Duration value) {
  if (value >= Duration(0) && value <= transfer::kDurationMax) return {};
  return corrupt(where, fmt::format("{} is {} ns, expected 0 to {}", name, value.count(),
                                    transfer::kDurationMax.count()));
}

Result<void> check_head(const RecordHead& head) {
  if (const auto sound = validate(head.layout); !sound) return corrupt("head", sound.error().message);
  struct Row {
    std::string_view name;
    uint32_t value;
    uint32_t max;
  };
  const EngineConfig& config = head.config;
  for (const Row row :
       {Row{"arena_blocks", head.arena_blocks, kRecordBlocksMax},
        Row{"config.limits.seqs_max", config.limits.seqs_max, kRecordBatchTokensMax},
        Row{"config.limits.batch_tokens_max", config.limits.batch_tokens_max, kRecordBatchTokensMax}}) {
    if (row.value == 0 || row.value > row.max)
      return corrupt("head", fmt::format("{} is {}, expected 1 to {}", row.name, row.value, row.max));
  }
  TRY_DO(check_duration("head", "config.limits.step_max", config.limits.step_max));
  TRY_DO(check_duration("head", "config.landing_max", config.landing_max));
  TRY_DO(check_duration("head", "config.handover.lease", config.handover.lease));
  TRY_DO(check_duration("head", "config.handover.idle_close", config.handover.idle_close));
  return check_duration("head", "config.handover.stop_retry", config.handover.stop_retry);
}

// What an engine takes for granted of the steps before and after each other: times do not go back, and
// requests, hand-overs and transfers have ids of their own.
class StepRules {
 public:
  // `where` names the step.
  Result<void> check(const RecordedStep& step, const std::string& where) {
    if (cut_short_)
      return corrupt(where, "follows a step that has not ended, expected the end of the record");
    cut_short_ = !step.ended;
    if (step.now < last_ || step.now > kRecordTimeMax) {
      return corrupt(where, fmt::format("now is {} ns, expected {} to {}", step.now.since_start.count(),
                                        last_.since_start.count(), kRecordTimeMax.since_start.count()));
    }
    last_ = step.now;
    TRY_DO(check_duration(where, "pass.took", step.pass.took));
    items_ += step.inbox.size();
    if (items_ > kRecordItemsMax)
      return corrupt(where,
                     fmt::format("{} inbox items so far, expected at most {}", items_, kRecordItemsMax));
    for (size_t i = 0; i < step.inbox.size(); ++i) {
      const std::string item = fmt::format("{}: inbox[{}]", where, i);
      if (const auto* submit = std::get_if<Submit>(&step.inbox[i]))
        TRY_DO(check_request(submit->request, item));
      if (const auto* event = std::get_if<transfer::MoverEvent>(&step.inbox[i])) {
        const auto* up = std::get_if<transfer::PeerUp>(event);
        if (up == nullptr) continue;
        if (const auto sound = validate(up->identity.layout); !sound)
          return corrupt(item + ".identity.layout", sound.error().message);
      }
    }
    return {};
  }

 private:
  Result<void> check_request(const Request& request, const std::string& item) {
    if (!requests_.insert(value(request.id)).second)
      return corrupt(item, fmt::format("request.id: {} comes twice, expected a new one", value(request.id)));
    if (request.hold && !holds_.insert(*request.hold).second) {
      return corrupt(item,
                     fmt::format("request.hold: {} comes twice, expected a new one", request.hold->hex()));
    }
    if (request.remote && !transfers_.insert(request.transfer).second) {
      return corrupt(
          item, fmt::format("request.transfer: {} comes twice, expected a new one", request.transfer.hex()));
    }
    if (request.deadline < Time{}) {
      return corrupt(item, fmt::format("request.deadline is {} ns, expected at least 0",
                                       request.deadline.since_start.count()));
    }
    return {};
  }

  Time last_;
  bool cut_short_ = false;
  size_t items_ = 0;
  std::unordered_set<uint64_t> requests_;
  std::set<HandoverId> holds_;
  std::set<TransferId> transfers_;
};

Result<RecordHead> read_head(Reader& reader) {
  std::array<char, kRecordMagic.size()> magic{};
  reader.bytes(magic.data(), magic.size());
  if (!reader.ok() || magic != kRecordMagic)
    return corrupt("flight record", "its first bytes are others, expected BATONREC");
  uint32_t version = 0;
  field(reader, version);
  if (!reader.ok()) return corrupt("version", reader.error());
  if (version != kRecordVersion)
    return corrupt("version", fmt::format("is {}, expected {}", version, kRecordVersion));
  TRY(const auto body, read_framed(reader, "head"));
  RecordHead head;
  Reader fields_of(body);
  field(fields_of, head);
  TRY_DO(finish(fields_of, "head"));
  TRY_DO(check_head(head));
  return head;
}

}  // namespace

Result<Record> parse_record(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  Record record;
  TRY(record.head, read_head(reader));
  StepRules rules;
  while (reader.left() > 0) {
    const std::string where = fmt::format("step {}", record.steps.size());
    TRY(const auto body, read_framed(reader, where));
    Reader fields_of(body);
    RecordedStep step;
    FIELDS(fields_of, step.now, step.inbox, step.ended, step.pass, step.outbox_hash);
    TRY_DO(finish(fields_of, where));
    TRY_DO(rules.check(step, where));
    record.steps.push_back(std::move(step));
  }
  return record;
}

Result<Record> read_record_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return fail(Code::kNotFound, fmt::format("{}: cannot be opened: {}", path, strerrordesc_np(errno)));
  std::vector<char> bytes;
  constexpr size_t kPiece = size_t{1} << 20;
  while (file && bytes.size() <= kRecordFileBytesMax) {
    const size_t before = bytes.size();
    bytes.resize(before + kPiece);
    file.read(bytes.data() + before, static_cast<std::streamsize>(kPiece));
    bytes.resize(before + static_cast<size_t>(file.gcount()));
  }
  if (file.bad()) return fail(Code::kIo, fmt::format("{}: cannot be read: {}", path, strerrordesc_np(errno)));
  if (bytes.size() > kRecordFileBytesMax) {
    return fail(Code::kCorrupt,
                fmt::format("{}: more than {} bytes, expected a flight record of at most that", path,
                            kRecordFileBytesMax));
  }
  auto record = parse_record(std::as_bytes(std::span(bytes)));
  if (!record) return fail(record.error().code, fmt::format("{}: {}", path, record.error().message));
  return record;
}

}  // namespace baton::engine
