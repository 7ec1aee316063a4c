#include "engine/recorder.h"

#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/check.h"
#include "engine/archive.h"

namespace baton::engine {
namespace {

constexpr std::array<char, 8> kMagic = {'B', 'A', 'T', 'O', 'N', 'R', 'E', 'C'};

template <class A, class T>
void head_fields(A& a, T& head) {
  fields(a, head.config, head.fingerprint, head.layout, head.arena_blocks);
}

// u32 length, body, u64 xxh3-64 of the body.
void append_framed(std::vector<std::byte>& out, std::span<const std::byte> body) {
  Writer writer(out);
  auto bytes = static_cast<uint32_t>(body.size());
  field(writer, bytes);
  writer.bytes(body.data(), body.size());
  uint64_t hash = XXH3_64bits(body.data(), body.size());
  field(writer, hash);
}

// Nothing if the bytes end before the frame does.
Result<std::optional<std::span<const std::byte>>> read_framed(Reader& reader, const std::string& what) {
  uint32_t bytes = 0;
  field(reader, bytes);
  const auto body = reader.take(bytes);
  uint64_t hash = 0;
  field(reader, hash);
  if (!reader.ok()) return std::optional<std::span<const std::byte>>();
  if (hash != XXH3_64bits(body.data(), body.size())) {
    return fail(Code::kCorrupt, fmt::format("flight record: {}: checksum is {:016x}, expected {:016x}", what,
                                            hash, XXH3_64bits(body.data(), body.size())));
  }
  return std::optional(body);
}

std::vector<std::byte> step_body(std::span<const std::byte> inbox, bool ended, const PassMark& pass,
                                 uint64_t outbox_hash) {
  std::vector<std::byte> body(inbox.begin(), inbox.end());
  Writer writer(body);
  fields(writer, ended, pass, outbox_hash);
  return body;
}

}  // namespace

// ---- recording ----

void Recorder::start(const EngineConfig& config, const model::ModelInfo& info, uint32_t arena_blocks) {
  const RecordHead head{.config = config,
                        .fingerprint = info.fingerprint,
                        .layout = info.kv_layout,
                        .arena_blocks = arena_blocks};
  std::vector<std::byte> body;
  Writer writer(body);
  head_fields(writer, head);
  head_.clear();
  Writer file(head_);
  file.bytes(kMagic.data(), kMagic.size());
  uint32_t version = kRecordVersion;
  field(file, version);
  append_framed(head_, body);
}

void Recorder::begin_step(const std::vector<Inbox>& inbox, Time now) {
  is_stepping_ = true;
  open_.clear();
  Writer writer(open_);
  fields(writer, now, inbox);
  for (const Inbox& item : inbox) {
    const auto* event = std::get_if<transfer::MoverEvent>(&item);
    if (event == nullptr) continue;
    if (const auto* up = std::get_if<transfer::PeerUp>(event); up != nullptr && is_accepted(up->peer)) {
      peers_up_[transfer::value(up->peer)] = *up;
    }
    if (const auto* lost = std::get_if<transfer::PeerLost>(event))
      peers_up_.erase(transfer::value(lost->peer));
  }
}

void Recorder::end_step(Engine& engine, const Outbox& outbox, const PassMark& pass) {
  is_stepping_ = false;
  for (const transfer::Command& command : outbox.commands) {
    connected_ = connected_ || std::holds_alternative<transfer::Connect>(command);
  }
  if (!full_) {
    append_framed(steps_, step_body(open_, true, pass, hash_outbox(outbox)));
    full_ = steps_.size() > bytes_max_;
  }
  if (full_ && !connected_ && !engine.draining_ && engine.is_idle()) {
    engine.reset_idle();
    begin_anew();
  }
}

// The new record's first step tells of the connections that are open, and of nothing else.
void Recorder::begin_anew() {
  steps_.clear();
  full_ = false;
  if (peers_up_.empty()) return;
  std::vector<Inbox> peers;
  for (const auto& [id, up] : peers_up_) peers.emplace_back(transfer::MoverEvent(up));
  std::vector<std::byte> inbox;
  Writer writer(inbox);
  const Time first{Duration::min()};
  fields(writer, first, std::as_const(peers));
  append_framed(steps_, step_body(inbox, true, {}, hash_outbox({})));
}

std::vector<std::byte> Recorder::bytes() const {
  std::vector<std::byte> all = head_;
  all.insert(all.end(), steps_.begin(), steps_.end());
  if (is_stepping_ && !full_) append_framed(all, step_body(open_, false, {}, 0));
  return all;
}

Result<std::string> Recorder::write_file() {
  const std::string path = fmt::format("{}/baton-{}-{}.record", directory_, getpid(), ++files_);
  const std::vector<std::byte> all = bytes();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(all.data()), static_cast<std::streamsize>(all.size()));
  file.close();
  if (!file) return fail(Code::kIo, fmt::format("{}: cannot be written: {}", path, strerrordesc_np(errno)));
  return path;
}

uint64_t hash_outbox(const Outbox& outbox) {
  std::vector<std::byte> bytes;
  Writer writer(bytes);
  field(writer, outbox.answers);
  for (const transfer::Command& command : outbox.commands) {
    auto kind = static_cast<uint8_t>(command.index());
    field(writer, kind);
    if (const auto* connect = std::get_if<transfer::Connect>(&command)) {
      fields(writer, connect->peer, connect->host, connect->port);
    } else if (const auto* send = std::get_if<transfer::Send>(&command)) {
      fields(writer, send->peer, send->message);
    } else if (const auto* allow = std::get_if<transfer::AllowStores>(&command)) {
      fields(writer, allow->peer, allow->transfer, allow->blocks);
    } else if (const auto* push = std::get_if<transfer::Push>(&command)) {
      fields(writer, push->peer, push->transfer, push->source);
    }
  }
  return XXH3_64bits(bytes.data(), bytes.size());
}

// ---- reading ----

Result<Record> parse_record(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  std::array<char, 8> magic{};
  reader.bytes(magic.data(), magic.size());
  uint32_t version = 0;
  field(reader, version);
  if (!reader.ok() || magic != kMagic) return fail(Code::kCorrupt, "flight record: magic is not BATONREC");
  if (version != kRecordVersion) {
    return fail(Code::kCorrupt,
                fmt::format("flight record: version is {}, expected {}", version, kRecordVersion));
  }
  Record record;
  TRY(const auto head, read_framed(reader, "head"));
  if (!head) return fail(Code::kCorrupt, "flight record: ends within its head");
  Reader head_reader(*head);
  head_fields(head_reader, record.head);
  if (!head_reader.ok() || head_reader.left() != 0) {
    return fail(Code::kCorrupt, "flight record: head: expected a configuration, a model and an arena");
  }
  TRY_DO(validate(record.head.layout));
  while (reader.left() > 0) {
    const std::string what = fmt::format("step {}", record.steps.size());
    TRY(const auto body, read_framed(reader, what));
    if (!body) break;
    Reader step_reader(*body);
    RecordedStep step;
    fields(step_reader, step.now, step.inbox, step.ended, step.pass, step.outbox_hash);
    if (!step_reader.ok() || step_reader.left() != 0) {
      return fail(Code::kCorrupt, fmt::format("flight record: {}: expected an inbox", what));
    }
    if (!record.steps.empty() && step.now < record.steps.back().now) {
      return fail(Code::kCorrupt, fmt::format("flight record: {}: its time is before the last one's", what));
    }
    record.steps.push_back(std::move(step));
  }
  return record;
}

Result<Record> read_record_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return fail(Code::kNotFound, fmt::format("{}: cannot be opened: {}", path, strerrordesc_np(errno)));
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return parse_record(std::as_bytes(std::span(bytes)));
}

// ---- replay ----

namespace {

// Says what the recorded pass took: the engine asks once before and once after a pass.
class ReplayClock final : public Clock {
 public:
  Time now() const override { return Time{Duration{(asked_++ % 2 == 0) ? 0 : took_.count()}}; }
  void expect(Duration took) {
    took_ = took;
    asked_ = 0;
  }

 private:
  mutable uint64_t asked_ = 0;
  Duration took_{0};
};

Result<void> check_fit(const RecordHead& head, const model::ModelInfo& info, const kv::KvArena& arena) {
  if (info.fingerprint != head.fingerprint) {
    return fail(Code::kInvalid, fmt::format("replay: the model's fingerprint is {}, expected {}",
                                            info.fingerprint, head.fingerprint));
  }
  if (!(arena.layout() == head.layout) || arena.blocks() != head.arena_blocks) {
    return fail(Code::kInvalid,
                fmt::format("replay: the arena has {} blocks of {} tokens, expected {} of {}", arena.blocks(),
                            arena.layout().block_tokens, head.arena_blocks, head.layout.block_tokens));
  }
  return check_config(head.config, info, arena);
}

// Computes the KV that a peer sent, in pieces of what the model takes.
void compute_landed(model::LanguageModel& model, kv::KvArena& arena, std::span<const TokenId> tokens,
                    uint32_t from, std::span<const BlockId> blocks) {
  for (uint32_t at = from; at < tokens.size();) {
    const uint32_t rows = std::min(model.batch_rows_max(), static_cast<uint32_t>(tokens.size()) - at);
    const model::SequenceRows sequence{.rows = rows, .first_position = at, .blocks = blocks};
    model.forward(
        {.tokens = tokens.subspan(at, rows), .sequences = std::span(&sequence, 1), .logit_rows = {}}, arena,
        [](uint32_t) { return true; });
    at += rows;
  }
}

uint64_t count_tokens(const Outbox& outbox) {
  uint64_t tokens = 0;
  for (const Answer& answer : outbox.answers) {
    if (const auto* event = std::get_if<TokensEvent>(&answer)) tokens += event->tokens.size();
  }
  return tokens;
}

}  // namespace

Result<ReplayReport> replay(const Record& record, model::LanguageModel& model, kv::KvArena& arena) {
  TRY_DO(check_fit(record.head, model.info(), arena));
  ReplayClock clock;
  const RecordedStep* current = nullptr;
  Surroundings surroundings;
  surroundings.clock = &clock;
  surroundings.poll_interrupt = [&](uint32_t layer) { return current->pass.interrupted_after == layer; };
  surroundings.refill = [&](std::span<const TokenId> tokens, uint32_t from, std::span<const BlockId> blocks) {
    compute_landed(model, arena, tokens, from, blocks);
  };
  Engine engine(record.head.config, model, arena, std::move(surroundings));
  ReplayReport report;
  for (const RecordedStep& step : record.steps) {
    current = &step;
    clock.expect(step.pass.took);
    const Outbox outbox = engine.step(step.inbox, step.now);
    report.tokens += count_tokens(outbox);
    if (step.ended && hash_outbox(outbox) != step.outbox_hash && !report.first_difference) {
      report.first_difference = report.steps;
    }
    ++report.steps;
  }
  return report;
}

}  // namespace baton::engine
