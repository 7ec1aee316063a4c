// The peers that one of the hand-over machines calls: one connection per host and port, opened when it is
// first needed, closed after a while without use. Part of a machine; without I/O, owned by the engine thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "transfer/mover.h"
#include "transfer/wire.h"

namespace baton::transfer {

struct CalledPeer {
  PeerId id{};
  std::string host;
  uint16_t port = 0;
  std::optional<Identity> identity;  // once it is up
  Transport transport{};
  std::vector<Message> waiting;  // to be said when it is up
  size_t uses = 0;               // transfers that count on it
  Time idle_since;
};

class CalledPeers {
 public:
  // Ids are drawn from `first` on. Every call appends its commands to `out`.
  CalledPeers(Flow flow, PeerId first, Duration idle_close)
      : flow_(flow), next_(value(first)), idle_close_(idle_close) {}

  // One more use; end_use() gives it back.
  CalledPeer& use(const std::string& host, uint16_t port, Time now, std::vector<Command>& out);
  void end_use(PeerId peer, Time now);

  // nullptr if it is not one of these (any longer).
  const CalledPeer* find(PeerId peer) const;

  // False if it is not one of these.
  bool on_up(const PeerUp& up, std::vector<Command>& out);
  bool on_lost(PeerId peer);

  // To a peer that is not up yet the message goes when it is; to one that is gone, never.
  void tell(PeerId peer, Message message, std::vector<Command>& out);

  void on_time(Time now, std::vector<Command>& out);
  Time next_deadline() const;  // kNever while every connection is in use

  // As Source::write_state.
  void write_state(Writer& to, Time now) const;

 private:
  Flow flow_;
  uint64_t next_;
  Duration idle_close_;
  std::map<PeerId, CalledPeer> peers_;
};

}  // namespace baton::transfer
