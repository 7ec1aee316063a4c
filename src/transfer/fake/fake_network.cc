#include "transfer/fake/fake_network.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace baton::transfer::fake {
namespace {

constexpr Duration kSilenceMax = std::chrono::seconds(1);
constexpr Duration kHandshakeMax = std::chrono::seconds(2);

template <class... Kinds>
bool is_any(const Message& message) {
  return (std::holds_alternative<Kinds>(message) || ...);
}

}  // namespace

std::unique_ptr<FakeMover> FakeNetwork::join(std::string host, uint16_t port, Identity identity,
                                             kv::KvArena& arena) {
  std::unique_ptr<FakeMover> mover(new FakeMover(*this, std::move(host), port, std::move(identity), arena));
  movers_.push_back(mover.get());
  return mover;
}

Duration FakeNetwork::delay() {
  return Duration(static_cast<int64_t>(random_() % (static_cast<uint64_t>(config_.delay_max.count()) + 1)));
}

Time FakeNetwork::next_due() const {
  Time next = kNever;
  for (const auto& connection : connections_) {
    if (connection->open && connection->silent_since != kNever)
      next = std::min(next, connection->silent_since + kSilenceMax);
    if (connection->open && is_parted(*connection)) continue;
    for (const End& end : connection->ends) {
      if (end.mover != nullptr && !end.mover->frozen_ && !end.arriving.empty())
        next = std::min(next, end.arriving.front().due);
    }
  }
  return next;
}

void FakeNetwork::connect(FakeMover& from, const Connect& command) {
  connections_.push_back(std::make_unique<Connection>());
  Connection& connection = *connections_.back();
  connection.ends[0].mover = &from;
  connection.ends[0].id = command.peer;
  connection.ends[0].port = from.port_;
  connection.ends[1].port = command.port;
  const std::string where = fmt::format("{}:{}", command.host, command.port);
  const auto to = std::ranges::find_if(movers_, [&](const FakeMover* mover) {
    return mover->host_ == command.host && mover->port_ == command.port;
  });
  if (to == movers_.end())
    return send(connection, 0, Lost{{Code::kUnavailable, where + ": connect: refused"}});
  if ((*to)->frozen_ || is_parted(connection)) {
    connection.ends[0].arriving.push_back(
        {now_ + kHandshakeMax, Lost{{Code::kUnavailable, where + ": the handshake took more than 2 s"}}});
    return;
  }
  const std::string mismatch = find_mismatch((*to)->identity_, from.identity_);
  if (!mismatch.empty())
    return send(connection, 0, Lost{{Code::kUnavailable, where + ": the peer refuses: " + mismatch}});
  connection.ends[1].mover = *to;
  connection.ends[1].id = PeerId{next_accepted_++};
  connection.flow = command.flow;
  connection.open = true;
  send(connection, 0, Up{(*to)->identity_});
  send(connection, 1, Up{from.identity_});
}

void FakeNetwork::send(Connection& connection, size_t to, Parcel parcel) {
  End& end = connection.ends[to];
  end.last_due = std::max(end.last_due, now_ + delay());
  const auto* const message = std::get_if<Message>(&parcel);
  const bool may_repeat =
      message != nullptr && is_any<Renew, Claim, Landing, PrefillDone, Taken, ReleaseHandover>(*message);
  if (may_repeat && random_() % 100 < config_.repeat_percent) end.arriving.push_back({end.last_due, parcel});
  end.arriving.push_back({end.last_due, std::move(parcel)});
}

// What is on its way is lost, as with a reset connection.
void FakeNetwork::end(Connection& connection, const std::string& reason) {
  if (!connection.open) return;
  connection.open = false;
  for (End& end : connection.ends) {
    end.arriving.clear();
    if (end.mover != nullptr) end.arriving.push_back({now_, Lost{{Code::kUnavailable, reason}}});
  }
}

// What a process sent before it died may still arrive, or be lost with its connection. Who is parted from it
// hears nothing at all.
void FakeNetwork::leave(FakeMover& mover) {
  for (const auto& connection : connections_) {
    for (size_t i = 0; i < 2; ++i) {
      End& end = connection->ends[i];
      if (end.mover != &mover) continue;
      end.mover = nullptr;
      end.arriving.clear();
      if (!connection->open || is_parted(*connection)) continue;
      connection->open = false;
      End& other = connection->ends[1 - i];
      if (other.mover == nullptr) continue;
      if (random_() % 2 == 0) other.arriving.clear();
      other.last_due = std::max(other.last_due, now_);
      other.arriving.push_back(
          {other.last_due, Lost{{Code::kUnavailable, "the peer closed the connection"}}});
    }
  }
  std::erase(movers_, &mover);
  note_silence();
}

bool FakeNetwork::is_parted(const Connection& connection) const {
  return !parted_.empty() && parted_.contains(std::minmax(connection.ends[0].port, connection.ends[1].port));
}

void FakeNetwork::part(uint16_t one, uint16_t other, bool parted) {
  const std::pair<uint16_t, uint16_t> pair = std::minmax(one, other);
  if (parted) parted_.insert(pair);
  if (!parted) parted_.erase(pair);
  note_silence();
}

// On which connections one end hears nothing of the other.
void FakeNetwork::note_silence() {
  for (const auto& connection : connections_) {
    const bool is_silent =
        is_parted(*connection) || std::ranges::any_of(connection->ends, [](const End& end) {
          return end.mover == nullptr || end.mover->frozen_;
        });
    if (!is_silent) connection->silent_since = kNever;
    if (is_silent && connection->silent_since == kNever) connection->silent_since = now_;
  }
}

// Between parted ends everything on the way is lost; what has reached a stopped process waits there.
void FakeNetwork::end_silent() {
  for (const auto& connection : connections_) {
    if (!connection->open || connection->silent_since == kNever ||
        now_ < connection->silent_since + kSilenceMax)
      continue;
    connection->open = false;
    const bool is_lost = is_parted(*connection);
    for (End& end : connection->ends) {
      if (is_lost || end.mover == nullptr) end.arriving.clear();
      if (end.mover == nullptr) continue;
      end.last_due = std::max(end.last_due, now_);
      end.arriving.push_back({end.last_due, Lost{{Code::kUnavailable, "silent for more than 1 s"}}});
    }
  }
}

bool FakeNetwork::cut_any() {
  std::vector<Connection*> open;
  for (const auto& connection : connections_) {
    if (connection->open) open.push_back(connection.get());
  }
  if (open.empty()) return false;
  end(*open[random_() % open.size()], "connection reset");
  return true;
}

void FakeNetwork::freeze(FakeMover& mover, bool frozen) {
  mover.frozen_ = frozen;
  note_silence();
}

FakeMover::~FakeMover() { network_.leave(*this); }

std::pair<FakeNetwork::Connection*, size_t> FakeMover::find(PeerId peer) {
  for (const auto& connection : network_.connections_) {
    for (size_t i = 0; i < 2; ++i) {
      if (connection->ends[i].mover == this && connection->ends[i].id == peer) return {connection.get(), i};
    }
  }
  return {nullptr, 0};
}

void FakeMover::execute(Command command) {
  if (auto* const connect = std::get_if<Connect>(&command)) {
    network_.connect(*this, *connect);
  } else if (auto* const send = std::get_if<Send>(&command)) {
    const auto [connection, at] = find(send->peer);
    if (connection != nullptr && connection->open && connection->ends[at].up)
      network_.send(*connection, 1 - at, std::move(send->message));
  } else if (auto* const allow = std::get_if<AllowStores>(&command)) {
    const auto [connection, at] = find(allow->peer);
    if (connection == nullptr || !connection->open) {
      events_.emplace_back(MoveFailed{allow->transfer, {Code::kUnavailable, "the connection is gone"}});
      return;
    }
    const TransferId transfer = allow->transfer;
    CHECK(grants_.emplace(transfer, Grant::of(std::move(*allow))).second, "granted twice");
  } else if (auto* const stop = std::get_if<StopStores>(&command)) {
    grants_.erase(stop->transfer);
    events_.emplace_back(StoresStopped{stop->transfer});
  } else if (auto* const push = std::get_if<Push>(&command)) {
    const auto [connection, at] = find(push->peer);
    if (connection == nullptr || !connection->open) return;
    network_.send(*connection, 1 - at,
                  Message(Announce{.transfer = push->transfer,
                                   .layers = push->layers,
                                   .first = push->move.first,
                                   .end = push->move.end,
                                   .source = push->source,
                                   .epochs = push->epochs,
                                   .last = push->last}));
    const auto flow = std::ranges::find_if(
        outflows_, [&](const Outflow& one) { return one.pushes.front().transfer == push->transfer; });
    if (flow != outflows_.end()) {
      flow->pushes.push_back(std::move(*push));
    } else {
      Outflow& fresh = outflows_.emplace_back();
      fresh.next = kv::PieceCursor(push->move);
      fresh.pushes.push_back(std::move(*push));
    }
  } else if (auto* const stop_push = std::get_if<StopPush>(&command)) {
    std::erase_if(outflows_,
                  [&](const Outflow& flow) { return flow.pushes.front().transfer == stop_push->transfer; });
  } else if (auto* const close = std::get_if<Close>(&command)) {
    const auto [connection, at] = find(close->peer);
    if (connection != nullptr) network_.end(*connection, "closed: " + close->reason);
  }
}

std::vector<MoverEvent> FakeMover::poll(Duration /*timeout*/) {
  if (frozen_) return {};
  network_.end_silent();
  for (size_t c = 0; c < network_.connections_.size(); ++c) {
    FakeNetwork::Connection& connection = *network_.connections_[c];
    for (size_t i = 0; i < 2; ++i) {
      FakeNetwork::End& end = connection.ends[i];
      if (connection.open && network_.is_parted(connection)) continue;
      while (end.mover == this && !end.arriving.empty() && end.arriving.front().due <= network_.now_) {
        FakeNetwork::Parcel parcel = std::move(end.arriving.front().parcel);
        end.arriving.pop_front();
        take(connection, i, parcel);
      }
    }
  }
  std::erase_if(network_.connections_, [](const auto& connection) {
    return !connection->open && connection->ends[0].arriving.empty() && connection->ends[1].arriving.empty();
  });
  send_blocks();
  return std::exchange(events_, {});
}

void FakeMover::take(FakeNetwork::Connection& connection, size_t at, FakeNetwork::Parcel& parcel) {
  FakeNetwork::End& end = connection.ends[at];
  if (const auto* const up = std::get_if<FakeNetwork::Up>(&parcel)) {
    end.up = true;
    events_.emplace_back(PeerUp{.peer = end.id,
                                .identity = up->peer,
                                .transport = Transport::kFake,
                                .authenticated = true,
                                .flow = connection.flow});
  } else if (const auto* const lost = std::get_if<FakeNetwork::Lost>(&parcel)) {
    std::erase_if(grants_, [&](const auto& entry) { return entry.second.peer == end.id; });
    std::erase_if(outflows_, [&](const Outflow& flow) { return flow.pushes.front().peer == end.id; });
    if (end.up || !is_accepted(end.id)) events_.emplace_back(PeerLost{end.id, lost->error});
  } else if (auto* const message = std::get_if<Message>(&parcel)) {
    take_message(end.id, *message);
  } else {
    take_bytes(std::get<FakeNetwork::KvBytes>(parcel));
  }
}

void FakeMover::take_message(PeerId peer, Message& message) {
  if (const auto* const announce = std::get_if<Announce>(&message)) {
    const auto at = grants_.find(announce->transfer);
    if (at == grants_.end()) return;
    if (auto checked = check_announce(*announce, at->second, arena_.layout()); !checked)
      return fail_move(announce->transfer, checked.error());
    add_announce(at->second, *announce, arena_.layout());
  } else if (const auto* const pushed = std::get_if<Pushed>(&message)) {
    const auto at = grants_.find(pushed->transfer);
    if (at == grants_.end()) return;
    Grant& grant = at->second;
    if (grant.announces.empty() || !grant.next.is_done())
      return fail_move(pushed->transfer, {Code::kCorrupt, "Pushed: positions are missing"});
    if (!end_announce(grant)) return;
    events_.emplace_back(Landed{pushed->transfer, grant.bytes});
    grants_.erase(at);
  } else {
    events_.emplace_back(Received{peer, std::move(message)});
  }
}

void FakeMover::take_bytes(const FakeNetwork::KvBytes& bytes) {
  const auto at = grants_.find(bytes.frame.transfer);
  if (at == grants_.end()) return;
  Grant& grant = at->second;
  const auto place = place_frame(bytes.frame, grant, arena_);
  if (!place) return fail_move(bytes.frame.transfer, place.error());
  if (XXH3_64bits(bytes.bytes.data(), bytes.bytes.size()) != bytes.frame.checksum)
    return fail_move(bytes.frame.transfer, {Code::kCorrupt, "KvFrame: checksum"});
  kv::scatter(arena_, place->part, place->offset, bytes.bytes);
  count_frame(bytes.frame, grant, arena_.layout());
}

void FakeMover::fail_move(TransferId transfer, Error error) {
  grants_.erase(transfer);
  events_.emplace_back(MoveFailed{transfer, std::move(error)});
}

void FakeMover::send_blocks() {
  for (size_t turn = 0; turn < network_.config_.blocks_per_poll && !outflows_.empty(); ++turn) {
    Outflow flow = std::move(outflows_.front());
    outflows_.pop_front();
    if (send_piece(flow)) outflows_.push_back(std::move(flow));
  }
}

// The next piece of a transfer. False if nothing of it is left to be sent.
bool FakeMover::send_piece(Outflow& flow) {
  const kv::KvLayout& layout = arena_.layout();
  const Push& push = flow.pushes.front();
  const auto [connection, at] = find(push.peer);
  if (connection == nullptr || !connection->open) return false;
  const kv::Piece& piece = *flow.next;
  const BlockId block = push.source[piece.source];
  if (arena_.epoch(block) != push.epochs[piece.source]) {
    events_.emplace_back(MoveFailed{push.transfer, {Code::kUnavailable, "P has given the blocks away"}});
    return false;
  }
  const size_t offset = push.layers.first * layout.layer_bytes(piece.tokens);
  FakeNetwork::KvBytes bytes;
  bytes.bytes.resize(push.layers.count * layout.layer_bytes(piece.tokens));
  kv::gather(arena_, {block, piece.source_token, piece.tokens}, offset, bytes.bytes);
  bytes.frame = {.transfer = push.transfer,
                 .position = piece.number,
                 .offset = static_cast<uint32_t>(offset),
                 .bytes = static_cast<uint32_t>(bytes.bytes.size()),
                 .epoch = push.epochs[piece.source],
                 .checksum = XXH3_64bits(bytes.bytes.data(), bytes.bytes.size())};
  network_.send(*connection, 1 - at, std::move(bytes));
  flow.next.next();
  if (!flow.next.is_done()) return true;
  network_.send(*connection, 1 - at, Message(Pushed{push.transfer, push.layers, push.last}));
  flow.pushes.pop_front();
  if (flow.pushes.empty()) return false;
  flow.next = kv::PieceCursor(flow.pushes.front().move);
  return true;
}

}  // namespace baton::transfer::fake
