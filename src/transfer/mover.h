// Moves KV bytes and messages between instances: the seam between the hand-over's state machines (source.h,
// target.h) and the world. Movers: local/ (one host, P's arena mapped), tcp/, ucx/, fake/ (simulated). A
// mover is called by one thread only.
//
// Contract of every mover:
// - Commands take effect in order; events tell of one peer in the order in which they happened.
// - A peer ends in exactly one PeerLost, also when Connect fails. Ids of peers are never reused.
// - A store into a granted block happens only between AllowStores and the first of Landed, MoveFailed and
//   StoresStopped for that transfer. Each StopStores is answered by one StoresStopped, also for transfers
//   that are not known (any longer), also after PeerLost.
// - Landed: every byte of the granted move is there, and P's epochs were unchanged after the last was read.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "kv/pieces.h"
#include "transfer/messages.h"

namespace baton::transfer {

// One connection. Who connects draws ids from below kAcceptedPeers (D's machine from 1 on, P's from
// kCalledDecodePeers on), a mover's listener from above.
enum class PeerId : uint64_t {};
inline constexpr uint64_t kCalledDecodePeers = uint64_t{1} << 48;
inline constexpr uint64_t kAcceptedPeers = uint64_t{1} << 63;
constexpr uint64_t value(PeerId peer) { return static_cast<uint64_t>(peer); }
constexpr bool is_accepted(PeerId peer) { return value(peer) >= kAcceptedPeers; }

// How KV bytes travel on a connection.
enum class Transport : uint8_t { kLocal, kTcp, kUcx, kFake };
constexpr std::string_view transport_name(Transport transport) {
  switch (transport) {
    case Transport::kLocal:
      return "local";
    case Transport::kTcp:
      return "tcp";
    case Transport::kUcx:
      return "ucx";
    case Transport::kFake:
      return "fake";
  }
  return "unknown";
}

// --kv-transport. kAuto: local where it is possible, else ucx where both sides have an RDMA port that is up
// and the cluster secret, else tcp.
enum class TransportChoice : uint8_t { kAuto, kLocal, kTcp, kUcx };

// ---- commands ----

struct Connect {
  PeerId peer{};
  std::string host;
  uint16_t port = 0;
  Flow flow = Flow::kToCaller;
};
// Dropped silently if the peer is not up.
struct Send {
  PeerId peer{};
  Message message;
};
// D: the peer may have the positions of `move` stored into `blocks`, as long as blocks[i] has epoch
// epochs[i].
struct AllowStores {
  PeerId peer{};
  TransferId transfer;
  std::vector<BlockId> blocks;   // [move.target_blocks()], at least 1
  std::vector<uint32_t> epochs;  // [blocks]
  kv::Move move;                 // from the peer's block size to this instance's
};
struct StopStores {
  TransferId transfer;
};
// P: these layers of these blocks are ready for the peer. Those of one transfer are sent in order.
struct Push {
  PeerId peer{};
  TransferId transfer;
  LayerRange layers;
  std::vector<BlockId> source;   // [move.source_blocks()]
  std::vector<uint32_t> epochs;  // [source]
  kv::Move move;                 // the positions; from this instance's block size to the peer's
  bool last = false;
};
// P: nothing more of this transfer is read. Not answered: epochs protect what is on its way.
struct StopPush {
  TransferId transfer;
};
struct Close {
  PeerId peer{};
  std::string reason;
};
using Command = std::variant<Connect, Send, AllowStores, StopStores, Push, StopPush, Close>;

// ---- events ----

// The handshake has ended well: the peer is who it says it is, and its KV fits.
struct PeerUp {
  PeerId peer{};
  Identity identity;
  Transport transport{};
  bool authenticated = false;
  Flow flow = Flow::kToCaller;
  bool operator==(const PeerUp&) const = default;
};
struct PeerLost {
  PeerId peer{};
  Error error;  // names the address and the cause
  bool operator==(const PeerLost&) const = default;
};
struct Received {
  PeerId peer{};
  Message message;  // never one of the handshake, Ping, Ack, Announce, Pushed, Withdraw(n): these are the
                    // mover's own
  bool operator==(const Received&) const = default;
};
// D
struct Landed {
  TransferId transfer;
  uint64_t bytes = 0;
  bool operator==(const Landed&) const = default;
};
// D: the grant is gone. P: the push is.
struct MoveFailed {
  TransferId transfer;
  Error error;
  bool operator==(const MoveFailed&) const = default;
};
// D
struct StoresStopped {
  TransferId transfer;
  bool operator==(const StoresStopped&) const = default;
};
// P: this peer has stored this many bytes of the transfer so far; with a fabric, bytes of a push of the
// transfer are on their way, and the peer takes what is sent to it.
struct PushProgress {
  PeerId peer{};
  TransferId transfer;
  uint64_t bytes = 0;
  bool operator==(const PushProgress&) const = default;
};
using MoverEvent = std::variant<PeerUp, PeerLost, Received, Landed, MoveFailed, StoresStopped, PushProgress>;

class KvMover {
 public:
  virtual ~KvMover() = default;
  virtual void execute(Command command) = 0;
  // Does what can be done, waits at most `timeout` for something to do, returns what happened.
  virtual std::vector<MoverEvent> poll(Duration timeout) = 0;
  // Makes a poll() that waits return soon. Any thread.
  virtual void wake() = 0;
};

}  // namespace baton::transfer
