// P's side of the hand-over: which prefills are held for whom, until when. A state machine without I/O,
// owned by the engine thread: events and times go in, commands for the mover and blocks for the engine come
// out. Its table of states, events and actions is docs/handover.md.
//
// Two orders, one mechanism. Pull: hold() what is computed; a peer calls, renews and sends its Landing.
// Layer-wise: promise() before anything is computed; this side calls D, claims the transfer and gets the
// Landing (take_ready), then on_layer() announces what each pass adds and finish() holds the rest until D has
// it.
//
// A held block is read by the mover of this process (tcp) or by the peer itself (local), never written. Its
// blocks may be given back while somebody still reads: the engine bumps their epochs when they change owner,
// and a reader that finds another epoch than the announced one discards what it read.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "kv/arena.h"
#include "transfer/called_peers.h"
#include "transfer/handover_config.h"
#include "transfer/mover.h"
#include "transfer/wire.h"

namespace baton::transfer {

enum class HeldState : uint8_t {
  kWaiting,   // nobody has asked for it
  kClaimed,   // a peer renews the lease
  kPromised,  // layer-wise: D has been called and has not sent its Landing yet
  kFilling,   // layer-wise: the Landing is here, the prompt is being computed
  kMoving,    // everything is announced
};
constexpr std::string_view held_state_name(HeldState state) {
  switch (state) {
    case HeldState::kWaiting:
      return "waiting";
    case HeldState::kClaimed:
      return "claimed";
    case HeldState::kPromised:
      return "promised";
    case HeldState::kFilling:
      return "filling";
    case HeldState::kMoving:
      return "moving";
  }
  return "unknown";
}

// One line of /debug: a held prefill.
struct HeldSnapshot {
  HandoverId handover;
  HeldState state{};
  std::string peer;  // engine id of the one that claimed it; empty: nobody
  uint32_t blocks = 0;
  uint32_t tokens = 0;
  Time since;  // of the state
  Time expires_at;
};

enum class HoldEnd : uint8_t { kTaken, kReleasedByPeer, kReleasedHere, kExpired, kPeerLost, kFailed };
constexpr std::string_view hold_end_name(HoldEnd end) {
  switch (end) {
    case HoldEnd::kTaken:
      return "taken";
    case HoldEnd::kReleasedByPeer:
      return "released_by_peer";
    case HoldEnd::kReleasedHere:
      return "released_here";
    case HoldEnd::kExpired:
      return "expired";
    case HoldEnd::kPeerLost:
      return "peer_lost";
    case HoldEnd::kFailed:
      return "failed";
  }
  return "unknown";
}

// Blocks that are the engine's again; none while it was promised or filling: then they never left it.
struct ReleasedHold {
  HandoverId handover;
  std::vector<BlockId> blocks;
  HoldEnd end{};
  std::string reason;
};

class Source {
 public:
  // `layout` and `epochs` are those of the arena where held blocks lie; epochs are read when blocks are held.
  Source(HandoverConfig config, const kv::KvLayout& layout, const kv::BlockEpochs& epochs);
  Source(HandoverConfig config, const kv::KvArena& arena) : Source(config, arena.layout(), arena) {}

  // Takes over `blocks`, which hold the KV of `tokens` positions, block after block. They come back in
  // take_released() exactly once. CHECKs that `id` is not held and that the counts agree.
  struct Hold {
    HandoverId id;
    std::vector<BlockId> blocks;
    uint32_t tokens = 0;
    std::string prompt_hash;
  };
  void hold(Hold hold, Time now);

  // Layer-wise: `tokens` positions are going to be computed for D's transfer. Ends with take_ready() or,
  // without blocks, with take_released(); until `deadline`. CHECKs that `id` is not held and the deadline
  // finite.
  struct Promise {
    HandoverId id;
    TransferId transfer;
    std::string host;  // of D
    uint16_t port = 0;
    std::string engine_id;    // empty: any
    Incarnation incarnation;  // of D; zero: any
    uint32_t tokens = 0;
    std::string prompt_hash;
    Time deadline = kNever;
  };
  void promise(Promise promise, Time now);
  // Promises whose Landing has come since the last call: the prompt may be computed.
  std::vector<HandoverId> take_ready() { return std::exchange(ready_, {}); }
  // `blocks` hold positions [0, end) in layers [0, layer], and all but what the current pass adds in the
  // later ones. Announces what a peer may have now. No effect unless it is filling.
  void on_layer(HandoverId id, std::span<const BlockId> blocks, uint32_t layer, uint32_t end);
  // The prompt is whole, every layer was reported: as hold(), and `note` goes to D's engine. False if it has
  // ended already: the blocks stay the caller's.
  bool finish(HandoverId id, std::vector<BlockId> blocks, std::vector<std::byte> note, Time now);

  // This instance gives up a hold (abort, drain). False if it is not held: ended already.
  bool release(HandoverId id, const std::string& reason);

  // Events of peers that take KV from this instance; others are ignored.
  void on_event(const MoverEvent& event, Time now);
  void on_time(Time now);
  Time next_deadline() const;  // kNever while nothing is held

  std::vector<Command> take_commands();
  std::vector<ReleasedHold> take_released();

  size_t size() const { return held_.size(); }
  size_t held_blocks() const { return held_blocks_; }
  std::vector<HeldSnapshot> snapshot() const;
  // Everything that decides what comes next, times as seen from `now`: sources that write the same behave the
  // same. For those who explore states; what was not taken yet is left out.
  void write_state(Writer& to, Time now) const;

 private:
  struct Held {
    Hold hold;                     // no blocks while kPromised or kFilling
    std::vector<uint32_t> epochs;  // [hold.blocks]
    HeldState state = HeldState::kWaiting;
    PeerId peer{};    // unless kWaiting
    Landing landing;  // if kFilling or kMoving
    Time since;
    Time lease_until = kNever;
    Time move_until = kNever;
    // layer-wise
    Promise promise;
    uint32_t chunk_first = 0;       // positions before it are announced in all layers
    uint32_t chunk_end = 0;         // if layers_announced > 0
    uint32_t layers_announced = 0;  // of [chunk_first, chunk_end)
  };
  using HeldMap = std::map<HandoverId, Held>;

  void on_message(PeerId peer, const Message& message, Time now);
  void on_renew(PeerId peer, const Renew& renew, Time now);
  void on_landing(PeerId peer, const Landing& landing, Time now);
  void on_peer_up(const PeerUp& up);
  void check_promises(PeerId peer);
  void on_peer_lost(PeerId peer, const Error& error);
  Result<void> check_landing(PeerId peer, const Landing& landing, const Held& held) const;
  kv::Move move_to(PeerId peer, const Landing& landing) const;  // `landing` fits what is held
  void announce(Held& held, std::span<const BlockId> blocks, LayerRange layers, uint32_t end);
  void end(HeldMap::iterator at, HoldEnd end, const std::string& reason);
  HeldMap::iterator find_transfer(TransferId transfer);
  bool knows(PeerId peer) const;
  const Identity* identity_of(PeerId peer) const;  // nullptr: not up
  void send(PeerId peer, Message message);

  HandoverConfig config_;
  kv::KvLayout layout_;
  const kv::BlockEpochs& epochs_;
  Time now_;  // as last told
  HeldMap held_;
  size_t held_blocks_ = 0;
  std::map<TransferId, HandoverId> moving_;
  std::vector<Command> commands_;
  std::vector<ReleasedHold> released_;
  std::vector<HandoverId> ready_;
  std::map<PeerId, Identity> callers_;  // pull order
  CalledPeers called_;                  // layer-wise order
};

}  // namespace baton::transfer
