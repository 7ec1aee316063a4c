// D's side of the hand-over: from the moment a request with a remote prefill is queued until its KV has
// landed or cannot. A state machine without I/O, owned by the engine thread. Its table of states, events and
// actions is docs/handover.md.
//
// Every expected transfer ends in exactly one outcome. Blocks given to land() are the engine's again only
// with that outcome: then no store into them can come.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
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

// What D knows of a prefill that a peer holds for it, or, in the layer-wise order (kFromCaller), that some
// peer will compute for it: host, port, engine_id, incarnation and handover are then empty, and the peer that
// claims the transfer is the one.
struct Expected {
  Flow flow = Flow::kToCaller;
  TransferId transfer;
  HandoverId handover;
  std::string host;
  uint16_t port = 0;
  std::string engine_id;    // empty: any
  Incarnation incarnation;  // zero: any
  uint32_t tokens = 0;      // positions held
  std::string prompt_hash;
  Time deadline = kNever;  // for all of it, waiting in the queue included; must not be kNever
};

enum class TransferState : uint8_t {
  kConnecting,  // the peer is not up yet; layer-wise: nobody has claimed it yet
  kWaiting,     // the lease is renewed (layer-wise: claimed); the engine has no blocks for it yet
  kMoving,      // Landing sent, stores allowed
  kStopping,    // has failed; waits until no store can come
};
constexpr std::string_view transfer_state_name(TransferState state) {
  switch (state) {
    case TransferState::kConnecting:
      return "connecting";
    case TransferState::kWaiting:
      return "waiting";
    case TransferState::kMoving:
      return "moving";
    case TransferState::kStopping:
      return "stopping";
  }
  return "unknown";
}

// The end of one expected transfer.
struct Outcome {
  TransferId transfer;
  std::optional<Error> error;   // empty: landed. Names peer and cause; kCancelled after abort()
  uint64_t bytes = 0;           // of KV that moved
  Transport transport{};        // meaningful once the peer was up
  std::string peer;             // "host:port (engine_id)"
  std::vector<std::byte> note;  // layer-wise, landed: what P's engine says (PrefillDone)
  bool operator==(const Outcome&) const = default;
};

struct TransferSnapshot {
  TransferId transfer;
  HandoverId handover;
  TransferState state{};
  std::string peer;  // "host:port"
  uint32_t blocks = 0;
  Time since;  // of the state
  Time until;
};

class Target {
 public:
  // `layout` and `epochs` are those of the arena where target blocks lie; epochs are read when blocks are
  // granted.
  Target(HandoverConfig config, const kv::KvLayout& layout, const kv::BlockEpochs& epochs);
  Target(HandoverConfig config, const kv::KvArena& arena) : Target(config, arena.layout(), arena) {}

  // Connects, and renews P's lease from now on; layer-wise: waits for a Claim. CHECKs that the transfer id is
  // new and the deadline finite.
  void expect(Expected expected, Time now);

  // The blocks are there: entry i is for block position tokens_present / block_tokens + i of the prompt.
  // `tokens_present` is a multiple of this side's block size, or expected.tokens with no blocks at all: then
  // the outcome is "landed" at once and P is told (layer-wise: once P is done). No effect if the transfer has
  // ended or is stopping: its outcome is on the way and the blocks never left the engine.
  void land(TransferId transfer, std::vector<BlockId> blocks, uint32_t tokens_present, Time now);

  // The request does not want it any longer. Ends in an outcome (kCancelled), unless it has ended already.
  void abort(TransferId transfer, const std::string& reason, Time now);

  // Layer-wise: nobody will come. Ends in an outcome with `error`, unless somebody has come already.
  void refuse(TransferId transfer, const Error& error, Time now);

  // Events of peers that this instance takes KV from, and of transfers; others are ignored.
  void on_event(const MoverEvent& event, Time now);
  void on_time(Time now);
  Time next_deadline() const;  // kNever while nothing is expected and no connection is open

  std::vector<Command> take_commands();
  std::vector<Outcome> take_outcomes();

  size_t size() const { return transfers_.size(); }
  bool is_expected(TransferId transfer) const { return transfers_.contains(transfer); }
  std::vector<TransferSnapshot> snapshot() const;
  // Everything that decides what comes next, times as seen from `now`: targets that write the same behave the
  // same. For those who explore states; what was not taken yet is left out.
  void write_state(Writer& to, Time now) const;

 private:
  struct Transfer {
    Expected expected;
    PeerId peer{};  // none until it is claimed
    TransferState state = TransferState::kConnecting;
    Time since;
    std::optional<std::pair<std::vector<BlockId>, uint32_t>> landing;  // blocks, tokens_present
    Time renew_at = kNever;                                            // while the peer is up
    Duration lease{0};
    std::optional<uint64_t> landed_bytes;        // if kMoving: all is there
    std::optional<std::vector<std::byte>> note;  // layer-wise, if kMoving: P is done
    std::optional<Error> error;                  // if kStopping
    Time stop_again_at = kNever;                 // if kStopping
  };
  using TransferMap = std::map<TransferId, Transfer>;

  void on_peer_up(const PeerUp& up, Time now);
  void on_peer_lost(const PeerLost& lost, Time now);
  void on_message(PeerId peer, const Message& message, Time now);
  void on_claim(PeerId peer, const Claim& claim, Time now);
  void begin(TransferMap::iterator at, Time now);  // the peer is up
  void start_moving(TransferMap::iterator at, Time now);
  void finish_if_whole(TransferMap::iterator at, Time now);
  // Leads to a failed outcome: at once, or when the mover has confirmed that no store can come.
  void fail_transfer(TransferMap::iterator at, Error error, Time now);
  void finish(TransferMap::iterator at, std::optional<Error> error, uint64_t bytes, Time now);
  bool knows(PeerId peer) const;
  const Identity* identity_of(PeerId peer) const;  // nullptr: not up
  void tell(PeerId peer, Message message);
  std::string describe(const Transfer& transfer) const;

  HandoverConfig config_;
  kv::KvLayout layout_;
  const kv::BlockEpochs& epochs_;
  TransferMap transfers_;
  std::vector<Command> commands_;
  std::vector<Outcome> outcomes_;
  CalledPeers called_;                // pull order
  std::map<PeerId, PeerUp> callers_;  // layer-wise order
};

}  // namespace baton::transfer
