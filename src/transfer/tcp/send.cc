// Writing: messages first, then KV frames, one transfer after the other.
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "transfer/tcp/socket_mover.h"

namespace baton::transfer::tcp {

void SocketMover::post(Connection& connection, const Message& message) {
  connection.outgoing.push_back(encode(message));
  connection.outgoing_bytes += connection.outgoing.back().size();
}

Result<void> SocketMover::write(Connection& connection) {
  if (connection.phase <= Phase::kTls) return {};
  size_t turn = 0;
  bool blocked = false;
  while (!blocked && turn < kTurnBytes) {
    if (!connection.out_frame && !connection.outgoing.empty()) {
      TRY(blocked, write_messages(connection));
      continue;
    }
    if (!connection.out_frame && !next_frame(connection)) {
      if (connection.outgoing.empty()) break;
      continue;
    }
    TRY(blocked, write_frame(connection));
    turn += kKvBytesMax;
  }
  const bool wants_write = blocked || turn >= kTurnBytes;
  if (wants_write != connection.wants_write) {
    watch(connection.fd.get(), value(connection.id), wants_write, false);
    connection.wants_write = wants_write;
  }
  return {};
}

// Writes of `head` and then `bytes` what follows their first `done`, which grows. True when the socket takes
// no more before their end.
Result<bool> SocketMover::send_some(Connection& connection, std::span<const std::byte> head,
                                    std::span<const std::byte> bytes, size_t& done) {
  while (done < head.size() + bytes.size()) {
    const std::span<const std::byte> first = head.subspan(std::min(done, head.size()));
    const std::span<const std::byte> second = bytes.subspan(done - (head.size() - first.size()));
    if (connection.tls) {
      TRY(const std::optional<size_t> sent, connection.tls->send(first.empty() ? second : first));
      if (!sent) return true;
      done += *sent;
    } else {
      std::array<iovec, 2> parts{};
      size_t count = 0;
      for (const std::span<const std::byte> part : {first, second})
        if (!part.empty()) parts[count++] = {const_cast<std::byte*>(part.data()), part.size()};
      msghdr message{};
      message.msg_iov = parts.data();
      message.msg_iovlen = count;
      const ssize_t sent = sendmsg(connection.fd.get(), &message, MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0 && errno == EAGAIN) return true;
      if (sent < 0) return fail(Code::kUnavailable, fmt::format("send: {}", std::strerror(errno)));
      done += static_cast<size_t>(sent);
    }
    connection.last_sent = now_;
  }
  return false;
}

// True when the socket takes no more.
Result<bool> SocketMover::write_messages(Connection& connection) {
  while (!connection.outgoing.empty()) {
    const std::vector<std::byte>& bytes = connection.outgoing.front();
    TRY(const bool blocked, send_some(connection, bytes, {}, connection.outgoing_done));
    if (blocked) return true;
    connection.outgoing_bytes -= bytes.size();
    connection.outgoing_done = 0;
    connection.outgoing.pop_front();
  }
  return false;
}

// The bytes of a frame: as they lie where its piece is a whole block, else put together.
const std::byte* SocketMover::find_bytes(Connection& connection, const kv::BlockPart& part,
                                         const KvFrame& frame) {
  const auto whole = kv::find_whole(std::as_const(arena_), part, frame.offset, frame.bytes);
  if (!whole.empty()) return whole.data();
  connection.staged.resize(kKvBytesMax);
  kv::gather(arena_, part, frame.offset, std::span(connection.staged).first(frame.bytes));
  return connection.staged.data();
}

// Takes the next frame of the transfer whose turn it is. False if none may be sent now.
bool SocketMover::next_frame(Connection& connection) {
  const kv::KvLayout& layout = arena_.layout();
  for (size_t i = 0; i < connection.outflows.size(); ++i) {
    Outflow flow = std::move(connection.outflows.front());
    connection.outflows.pop_front();
    if (flow.pushes.empty() || flow.sent - flow.acked >= kWindowBytes) {
      connection.outflows.push_back(std::move(flow));
      continue;
    }
    const Push& push = flow.pushes.front();
    const kv::Piece& piece = *flow.next;
    const size_t first = push.layers.first * layout.layer_bytes(piece.tokens);
    const size_t range = push.layers.count * layout.layer_bytes(piece.tokens);
    OutFrame out;
    out.source = push.source[piece.source];
    out.frame = {.transfer = flow.transfer,
                 .position = piece.number,
                 .offset = static_cast<uint32_t>(first + flow.offset),
                 .bytes = static_cast<uint32_t>(std::min(kKvBytesMax, range - flow.offset)),
                 .epoch = push.epochs[piece.source],
                 .checksum = 0};
    out.bytes = find_bytes(connection, {out.source, piece.source_token, piece.tokens}, out.frame);
    out.frame.checksum = XXH3_64bits(out.bytes, out.frame.bytes);
    out.head = encode(out.frame);
    flow.sent += out.frame.bytes;
    flow.offset += out.frame.bytes;
    if (flow.offset == range) {
      flow.offset = 0;
      flow.next.next();
    }
    connection.out_frame = out;
    connection.outflows.push_back(std::move(flow));
    return true;
  }
  return false;
}

Result<bool> SocketMover::write_frame(Connection& connection) {
  OutFrame& out = *connection.out_frame;
  TRY(const bool blocked, send_some(connection, out.head, std::span(out.bytes, out.frame.bytes), out.done));
  if (blocked) return true;
  end_out_frame(connection);
  return false;
}

// The frame has left. If its block was given away meanwhile, D must not count on any of it: without the
// Pushed that ends a range nothing lands.
void SocketMover::end_out_frame(Connection& connection) {
  const OutFrame out = *connection.out_frame;
  connection.out_frame.reset();
  const auto flow = std::ranges::find(connection.outflows, out.frame.transfer, &Outflow::transfer);
  if (flow == connection.outflows.end()) return;  // stopped
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint32_t epoch = arena_.epoch(out.source);
  if (epoch != out.frame.epoch) {
    events_.emplace_back(
        MoveFailed{out.frame.transfer,
                   {Code::kUnavailable, fmt::format("source block {}: epoch is {}, expected {}",
                                                    index(out.source), epoch, out.frame.epoch)}});
    post(connection, AbortTransfer{out.frame.transfer, {Code::kUnavailable, "P has given the blocks away"}});
    connection.outflows.erase(flow);
    return;
  }
  if (!flow->next.is_done()) return;
  const Push& push = flow->pushes.front();
  post(connection, Pushed{push.transfer, push.layers, push.last});
  if (push.last) {
    connection.outflows.erase(flow);
    return;
  }
  flow->pushes.pop_front();
  if (!flow->pushes.empty()) flow->begin_first();
}

}  // namespace baton::transfer::tcp
