#include "engine/recorder.h"

#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/check.h"
#include "engine/archive.h"

namespace baton::engine {
namespace {

// u32 length, body, u64 xxh3-64 of the body.
void append_framed(std::vector<std::byte>& out, std::span<const std::byte> body) {
  Writer writer(out);
  auto bytes = static_cast<uint32_t>(body.size());
  field(writer, bytes);
  writer.bytes(body.data(), body.size());
  uint64_t hash = XXH3_64bits(body.data(), body.size());
  field(writer, hash);
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
  field(writer, head);
  head_.clear();
  Writer file(head_);
  file.bytes(kRecordMagic.data(), kRecordMagic.size());
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
  const Time first;
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
      fields(writer, push->peer, push->transfer, push->layers.first, push->layers.count, push->move.first,
             push->move.end, push->source);
    }
  }
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace baton::engine
