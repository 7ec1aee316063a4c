#include "transfer/called_peers.h"

#include <algorithm>
#include <utility>

namespace baton::transfer {
namespace {

constexpr size_t kWaitingMax =
    4096;  // messages for a peer that is not up yet; beyond it leases have to expire

}  // namespace

CalledPeer& CalledPeers::use(const std::string& host, uint16_t port, Time now, std::vector<Command>& out) {
  for (auto& [id, peer] : peers_) {
    if (peer.port != port || peer.host != host) continue;
    ++peer.uses;
    return peer;
  }
  const PeerId id{next_++};
  CalledPeer& peer = peers_[id];
  peer.id = id;
  peer.host = host;
  peer.port = port;
  peer.uses = 1;
  peer.idle_since = now;
  out.emplace_back(Connect{id, host, port, flow_});
  return peer;
}

void CalledPeers::end_use(PeerId id, Time now) {
  const auto peer = peers_.find(id);
  if (peer == peers_.end()) return;
  if (--peer->second.uses == 0) peer->second.idle_since = now;
}

const CalledPeer* CalledPeers::find(PeerId id) const {
  const auto peer = peers_.find(id);
  return peer == peers_.end() ? nullptr : &peer->second;
}

bool CalledPeers::on_up(const PeerUp& up, std::vector<Command>& out) {
  const auto peer = peers_.find(up.peer);
  if (peer == peers_.end()) return false;
  peer->second.identity = up.identity;
  peer->second.transport = up.transport;
  for (Message& message : std::exchange(peer->second.waiting, {}))
    out.emplace_back(Send{up.peer, std::move(message)});
  return true;
}

bool CalledPeers::on_lost(PeerId id) { return peers_.erase(id) > 0; }

void CalledPeers::tell(PeerId id, Message message, std::vector<Command>& out) {
  const auto peer = peers_.find(id);
  if (peer == peers_.end()) return;
  if (peer->second.identity) {
    out.emplace_back(Send{id, std::move(message)});
  } else if (peer->second.waiting.size() < kWaitingMax) {
    peer->second.waiting.push_back(std::move(message));
  }
}

void CalledPeers::on_time(Time now, std::vector<Command>& out) {
  for (auto at = peers_.begin(); at != peers_.end();) {
    const auto next = std::next(at);
    if (at->second.uses == 0 && now >= at->second.idle_since + idle_close_) {
      out.emplace_back(Close{at->first, "idle"});
      peers_.erase(at);
    }
    at = next;
  }
}

Time CalledPeers::next_deadline() const {
  Time next = kNever;
  for (const auto& [id, peer] : peers_) {
    if (peer.uses == 0) next = std::min(next, peer.idle_since + idle_close_);
  }
  return next;
}

void CalledPeers::write_state(Writer& to, Time now) const {
  for (const auto& [id, peer] : peers_) {
    to.number(value(id));
    to.text(peer.host, kTextBytesMax);
    to.number(peer.port);
    to.raw(peer.identity.value_or(Identity{}).incarnation.bytes);
    to.number(static_cast<uint8_t>(peer.identity.has_value()));
    to.number(peer.uses);
    to.number(peer.uses == 0 ? (peer.idle_since - now).count() : 0);
    for (const Message& message : peer.waiting) {
      for (const std::byte byte : encode(message)) to.number(static_cast<uint8_t>(byte));
    }
  }
}

}  // namespace baton::transfer
