// Reading: frames are taken apart, checked, and KV bytes stored.
#include <fmt/format.h>
#include <sys/socket.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "transfer/tcp/socket_mover.h"

namespace baton::transfer::tcp {

bool SocketMover::was_stopped(const Connection& connection, TransferId transfer) const {
  return std::ranges::find(connection.stopped, transfer) != connection.stopped.end();
}

// What is to be filled now. KV bytes go straight into the block, or nowhere if its grant is gone.
std::span<std::byte> SocketMover::missing(Connection& connection) {
  switch (connection.reading) {
    case Reading::kHead:
      return std::span(connection.head_bytes).subspan(connection.filled, kFrameHeadBytes - connection.filled);
    case Reading::kBody:
      return std::span(connection.body).subspan(connection.filled);
    case Reading::kKvHead:
      return std::span(connection.head_bytes).subspan(connection.filled);
    case Reading::kKvBytes: {
      const std::span<std::byte> nowhere =
          std::span(scratch_).first(connection.frame.bytes).subspan(connection.filled);
      if (connection.frame_discarded) return nowhere;
      const auto grant = grants_.find(connection.frame.transfer);
      const auto place = grant == grants_.end() ? Result<FramePlace>(fail(Code::kCancelled, "stopped"))
                                                : place_frame(connection.frame, grant->second, arena_);
      if (place && !place->whole.empty()) return place->whole.subspan(connection.filled);
      if (place) return std::span(connection.staged).first(connection.frame.bytes).subspan(connection.filled);
      if (grant != grants_.end()) fail_move(connection.frame.transfer, place.error());
      connection.frame_discarded = true;
      return nowhere;
    }
  }
  return {};
}

// The count of bytes that were there; nothing if there are none now.
Result<std::optional<size_t>> SocketMover::receive(Connection& connection, std::span<std::byte> space) {
  if (connection.tls) return connection.tls->receive(space);
  while (true) {
    const ssize_t got = recv(connection.fd.get(), space.data(), space.size(), 0);
    if (got > 0) return std::optional<size_t>(static_cast<size_t>(got));
    if (got == 0) return fail(Code::kUnavailable, "the peer closed the connection");
    if (errno == EAGAIN) return std::optional<size_t>();
    if (errno != EINTR) return fail(Code::kUnavailable, fmt::format("receive: {}", std::strerror(errno)));
  }
}

Result<void> SocketMover::read(Connection& connection) {
  size_t turn = 0;
  // What TLS has decrypted no epoll tells of.
  while (turn < kTurnBytes || (connection.tls && connection.tls->has_pending())) {
    const std::span<std::byte> space = missing(connection);
    TRY(const std::optional<size_t> got, receive(connection, space));
    if (!got) return {};
    connection.last_received = now_;
    connection.filled += *got;
    turn += *got;
    if (connection.phase < Phase::kUp && connection.reading == Reading::kHead && connection.filled >= 3 &&
        net::looks_like_tls(std::span(connection.head_bytes).first(connection.filled))) {
      return fail(Code::kDenied, "TLS: the peer speaks it, expected --kv-tls-certfile here too");
    }
    // A body may be empty: then its part is finished as soon as it begins.
    while (*got == space.size() && missing(connection).empty()) {
      TRY_DO(finish_part(connection));
    }
  }
  return {};
}

// The part that was missing is whole.
Result<void> SocketMover::finish_part(Connection& connection) {
  connection.filled = 0;
  switch (connection.reading) {
    case Reading::kHead: {
      TRY(connection.head, parse_head(std::span(connection.head_bytes).first<kFrameHeadBytes>()));
      if (connection.head.kind == FrameKind::kKvFrame) {
        if (connection.phase != Phase::kUp)
          return fail(Code::kCorrupt, "handshake: KvFrame comes out of turn");
        connection.reading = Reading::kKvHead;
        return {};
      }
      connection.body.resize(connection.head.body_bytes);
      connection.reading = Reading::kBody;
      return {};
    }
    case Reading::kBody: {
      connection.reading = Reading::kHead;
      TRY(Message message, parse_body(connection.head.kind, connection.body));
      return take_message(connection, message);
    }
    case Reading::kKvHead:
      connection.reading = Reading::kKvBytes;
      return begin_frame(connection);
    case Reading::kKvBytes:
      connection.reading = Reading::kHead;
      end_frame(connection);
      return {};
  }
  return {};
}

Result<void> SocketMover::take_message(Connection& connection, Message& message) {
  if (connection.phase != Phase::kUp) return take_handshake(connection, message);
  if (std::holds_alternative<Ping>(message)) return {};
  if (auto* const announce = std::get_if<Announce>(&message)) return take_announce(connection, *announce);
  if (const auto* const pushed = std::get_if<Pushed>(&message)) {
    take_pushed(connection, *pushed);
    return {};
  }
  if (const auto* const ack = std::get_if<Ack>(&message)) {
    for (Outflow& flow : connection.outflows) {
      if (flow.transfer == ack->transfer) flow.acked = std::clamp(ack->bytes, flow.acked, flow.sent);
    }
    events_.emplace_back(PushProgress{connection.id, ack->transfer, ack->bytes});
    return {};
  }
  if (const auto* const refused = std::get_if<Refused>(&message))
    return fail(Code::kUnavailable, fmt::format("the peer refuses: {}", refused->error.message));
  if (message.index() < 4 || std::holds_alternative<Ready>(message))
    return fail(Code::kCorrupt, fmt::format("{} comes after the handshake", message_name(message)));
  if (const auto* const withdraw = std::get_if<Withdraw>(&message)) {
    if (!connection.fabric || takes_kv(connection))
      return fail(Code::kCorrupt, "Withdraw comes from a side that has the KV, or without a fabric");
    connection.landings.erase(withdraw->transfer);
    connection.fabric->withdraw(withdraw->transfer);
    return {};
  }
  if (const auto* const withdrawn = std::get_if<Withdrawn>(&message)) {
    end_quarantine(connection, withdrawn->transfer);
    return {};
  }
  if (const auto* const landing = std::get_if<Landing>(&message); landing != nullptr && connection.fabric)
    TRY_DO(remember_landing(connection, *landing));
  events_.emplace_back(Received{connection.id, std::move(message)});
  return {};
}

Result<void> SocketMover::take_announce(Connection& connection, Announce& announce) {
  const auto at = grants_.find(announce.transfer);
  if (at == grants_.end() || at->second.peer != connection.id) {
    if (was_stopped(connection, announce.transfer)) return {};
    return fail(Code::kCorrupt, fmt::format("Announce: transfer {} is unknown, expected a granted one",
                                            announce.transfer.hex()));
  }
  if (auto checked = check_announce(announce, at->second, arena_.layout()); !checked) {
    fail_move(announce.transfer, checked.error());
    return {};
  }
  if (connection.local) {
    for (const BlockId block : announce.source) {
      if (index(block) < connection.arena->blocks()) continue;
      fail_move(announce.transfer,
                {Code::kCorrupt, fmt::format("Announce: source block is {}, expected below {}", index(block),
                                             connection.arena->blocks())});
      return {};
    }
  }
  add_announce(at->second, std::move(announce), arena_.layout());
  if (connection.local && at->second.announces.size() == 1) copy_next(at->second);
  return {};
}

void SocketMover::take_pushed(Connection& connection, const Pushed& pushed) {
  const auto at = grants_.find(pushed.transfer);
  if (at == grants_.end() || at->second.peer != connection.id) return;
  Grant& grant = at->second;
  const bool is_written = connection.fabric != nullptr;
  const bool is_first = !grant.announces.empty() && grant.announces.front().layers == pushed.layers;
  if (!is_first || (!is_written && !grant.next.is_done())) {
    return fail_move(
        pushed.transfer,
        {Code::kCorrupt, fmt::format("Pushed: {} of {} positions have come", grant.next.positions_done(),
                                     grant.next.move().end - grant.next.move().first)});
  }
  if (is_written) grant.bytes += grant.next.move().bytes(arena_.layout(), pushed.layers.count);
  if (!end_announce(grant)) return;
  if (auto owned = check_owner(grant, arena_); !owned) return fail_move(pushed.transfer, owned.error());
  events_.emplace_back(Landed{pushed.transfer, grant.bytes});
  grants_.erase(at);
}

Result<void> SocketMover::begin_frame(Connection& connection) {
  TRY(connection.frame, parse_kv_head(connection.head.body_bytes, connection.head_bytes));
  const TransferId transfer = connection.frame.transfer;
  connection.frame_discarded = false;
  const auto at = grants_.find(transfer);
  if (at == grants_.end() || at->second.peer != connection.id) {
    if (!was_stopped(connection, transfer)) {
      return fail(Code::kCorrupt,
                  fmt::format("KvFrame: transfer {} is unknown, expected a granted one", transfer.hex()));
    }
    connection.frame_discarded = true;
    return {};
  }
  if (auto place = place_frame(connection.frame, at->second, arena_); !place) {
    fail_move(transfer, place.error());
    connection.frame_discarded = true;
  } else if (place->whole.empty()) {
    connection.staged.resize(kKvBytesMax);
  }
  return {};
}

void SocketMover::end_frame(Connection& connection) {
  if (connection.frame_discarded) return;
  const KvFrame& frame = connection.frame;
  const auto at = grants_.find(frame.transfer);
  if (at == grants_.end()) return;
  Grant& grant = at->second;
  const auto place = place_frame(frame, grant, arena_);
  if (!place) return fail_move(frame.transfer, place.error());
  const bool is_staged = place->whole.empty();
  const std::span<const std::byte> bytes =
      is_staged ? std::span(connection.staged).first(frame.bytes) : place->whole;
  const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
  if (checksum != frame.checksum) {
    return fail_move(
        frame.transfer,
        {Code::kCorrupt, fmt::format("KvFrame: checksum of position {} is {:016x}, expected {:016x}",
                                     frame.position, checksum, frame.checksum)});
  }
  if (is_staged) kv::scatter(arena_, place->part, place->offset, bytes);
  count_frame(frame, grant, arena_.layout());
  if (grant.bytes - grant.acked >= kAckEveryBytes) {
    grant.acked = grant.bytes;
    post(connection, Ack{frame.transfer, grant.bytes});
  }
}

// D: the transfer is over; frames of it that still come are dropped.
void SocketMover::fail_move(TransferId transfer, Error error) {
  const auto at = grants_.find(transfer);
  CHECK(at != grants_.end());
  if (Connection* const connection = find(at->second.peer)) {
    if (connection->fabric) {
      quarantine(*connection, transfer).error = std::move(error);
      return;
    }
    connection->stopped.push_back(transfer);
    if (connection->stopped.size() > kStoppedKept) connection->stopped.pop_front();
  }
  copier_.drop_transfer(transfer);
  grants_.erase(at);
  events_.emplace_back(MoveFailed{transfer, std::move(error)});
}

}  // namespace baton::transfer::tcp
