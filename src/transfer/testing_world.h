// For tests: the smallest world in which a hand-over can go wrong, as a value that can be copied, so that
// every continuation of it can be tried. One P and one D run the shipped machines, in the pull order or in
// the layer-wise one; between them are connections and movers that do as little as the contract in mover.h
// lets them: stores go on until the very moment of StoresStopped, and no mover asks whether D's block still
// has its owner.
//
// Here: what the world is made of. Its functions: testing_world_events.h (what may happen, and what the two
// engines do), testing_world_network.h (connections and movers), testing_world_check.h (promises, and the
// state as bytes).
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "transfer/source.h"
#include "transfer/target.h"

namespace baton::transfer::explorer {

inline constexpr uint32_t kBlocks = 2;    // of each side: lowest free first, so that blocks are reused
inline constexpr uint32_t kRequests = 2;  // at most
inline constexpr uint32_t kLayersMax = 2;
inline constexpr uint32_t kBlockTokens = 16;
inline constexpr int kNobody = -1;
inline constexpr Duration kDeadline = std::chrono::milliseconds(50);  // of a request

struct Block {
  uint32_t epoch = 0;
  int owner = kNobody;                                    // D: the request; P: the hold, by number
  std::array<int, kLayersMax> content{kNobody, kNobody};  // the request whose KV each layer holds
};
using Blocks = std::array<Block, kBlocks>;
inline uint32_t free_blocks(const Blocks& blocks) {
  return static_cast<uint32_t>(std::ranges::count(blocks, kNobody, &Block::owner));
}

// The epochs that the machines of the world under the pen see.
class Epochs final : public kv::BlockEpochs {
 public:
  const Blocks* blocks = nullptr;
  uint32_t epoch(BlockId block) const override { return (*blocks)[index(block)].epoch; }
};

struct Bounds {
  bool layerwise = false;  // P calls and fills while it computes, else D calls for what is held
  bool local = false;      // D copies from P's memory, else P sends
  uint32_t layers = 1;     // of the model
  uint32_t blocks = 1;     // of each request
  uint32_t requests = 1;   // that arrive
  int faults = 0;
  int ticks = 0;  // times that a timer runs out
  int depth = 0;  // events one after the other
};

enum class Kind : uint8_t {
  // what happens anyway
  kStartP,
  kContinueP,
  kContinueD,
  kStopPush,
  kStopStores,
  kSendKv,
  kCopy,
  kCompareEpochs,
  kTakeEvent,
  kToP,
  kToD,
  kSilence,
  kLand,
  kAsk,
  kCompute,
  kTick,
  kLateTick,
  kArrive,
  // faults
  kNobodyAsks,
  kAskAgain,
  kRefuse,
  kInterrupt,
  kPreempt,
  kClientLeaves,
  kPGivesUp,
  kLoseToP,
  kLoseToD,
  kRepeatToP,
  kRepeatToD,
  kReset,
  kKillP,
  kKillD,
  kStopP,
  kStopD,
};
inline const char* kind_name(Kind kind) {
  static constexpr std::array kNames = {"P starts",
                                        "P continues",
                                        "D continues",
                                        "P's mover stops a push",
                                        "D's mover stops",
                                        "P sends KV",
                                        "D copies KV",
                                        "D compares epochs",
                                        "D takes an event",
                                        "P receives",
                                        "D receives",
                                        "a side falls silent",
                                        "D has blocks",
                                        "P is asked to fill them",
                                        "P computes a layer",
                                        "a timer runs out",
                                        "all timers run out",
                                        "a request comes",
                                        "a request comes of which one side hears",
                                        "P is asked again",
                                        "D hears that nobody will come",
                                        "P's pass is interrupted",
                                        "P's prefill loses its blocks",
                                        "a client leaves",
                                        "P gives up a hold",
                                        "lost on the way to P",
                                        "lost on the way to D",
                                        "repeated to P",
                                        "repeated to D",
                                        "connection reset",
                                        "P dies",
                                        "D dies",
                                        "P is stopped",
                                        "D is stopped"};
  return kNames.at(static_cast<size_t>(kind));
}
inline bool is_fault(Kind kind) { return kind >= Kind::kNobodyAsks; }

struct Choice {
  Kind kind{};
  uint32_t at = 0;  // request, hold, or place in the list that the kind is about
};

// Blocks [first, end) of a request in layers [layer, layer + layers).
struct Range {
  uint8_t first = 0;
  uint8_t end = 0;
  uint8_t layer = 0;
  uint8_t layers = 0;
  bool last = false;
};
template <class Where>
Range range_of(const Where& where, uint32_t first, uint32_t end) {
  return {static_cast<uint8_t>(first / kBlockTokens),
          static_cast<uint8_t>((end + kBlockTokens - 1) / kBlockTokens),
          static_cast<uint8_t>(where.layers.first), static_cast<uint8_t>(where.layers.count), where.last};
}

using Content = std::array<std::array<int, kLayersMax>, kBlocks>;  // [block of a request][layer]

struct Parcel {
  enum class What : uint8_t { kUp, kLost, kMessage, kKv } what{};
  Message message = Ping{};
  TransferId transfer;
  Range range = {};  // of KV
  Content content = {};
};

struct Connection {
  PeerId at_d{};
  PeerId at_p{};
  bool p_calls = false;
  size_t p_life = 0;
  bool open = true;
  bool up_at_p = false;
  bool up_at_d = false;
  std::deque<Parcel> to_p;
  std::deque<Parcel> to_d;
};

// What D's mover was allowed, and how far it has come: blocks before `first` are announced whole, of
// [first, end) the layers before `layers`.
struct Stores {
  PeerId peer{};
  std::vector<BlockId> blocks;
  uint8_t first = 0;
  uint8_t end = 0;
  uint8_t layers = 0;
  std::deque<std::pair<Range, Announce>> announced;  // P's blocks and epochs, not copied and compared yet
  bool copied = false;                               // the first of them
};

struct Request {
  bool arrived = false;
  bool expected = false;  // by D, in this life
  bool left = false;
  bool reserved = false;     // layer-wise: D has said where its blocks are
  uint32_t reserved_by = 0;  // the life of D that did
  uint32_t asks = 0;         // of P
  std::vector<BlockId> d_blocks;
  int outcomes = 0;
};

// A prefill of P, from the moment when its engine hears of it.
struct Hold {
  bool ready = false;    // may be computed
  bool is_held = false;  // is computed: its blocks are the machine's
  std::vector<BlockId> blocks;
  uint8_t computed = 0;  // blocks of it, in all layers
  uint8_t pass_end = 1;  // of the pass that goes on: blocks
  uint8_t layer = 0;     // that it computes next
};

template <class Id>
Id id_of(uint32_t number) {
  Id id;
  id.bytes[0] = static_cast<uint8_t>(number + 1);
  return id;
}
template <class Id>
uint32_t number_of(Id id) {
  return id.bytes[0] - 1U;
}
// Holds of one request have numbers that differ by this.
constexpr uint32_t request_of(uint32_t hold) { return hold % kRequests; }

class World {
 public:
  explicit World(const Bounds& bounds);

  std::vector<Choice> choices() const;
  void apply(Choice choice);
  // Lets everything take its course without another fault; what is left over at its end is a violation.
  void drain();
  uint64_t key() const;

  int faults() const { return faults_; }
  std::string violation;  // the first broken promise; empty: none

 private:
  static Epochs& p_epochs() {
    static Epochs epochs;
    return epochs;
  }
  static Epochs& d_epochs() {
    static Epochs epochs;
    return epochs;
  }
  void focus() {
    p_epochs().blocks = &p_arenas_.back();
    d_epochs().blocks = &d_blocks_;
  }
  void broken(const std::string& what) {
    if (violation.empty()) violation = what;
  }

  // testing_world_events.h
  void choose_requests(std::vector<Choice>& all) const;
  void choose_network(std::vector<Choice>& all) const;
  void may(std::vector<Choice>& all, bool may_be, Kind kind, size_t at = 0) const {
    if (may_be && (!is_fault(kind) || faults_ > 0)) all.push_back({kind, static_cast<uint32_t>(at)});
  }
  void happen(Choice choice);
  void fault(Choice choice);
  Identity identity(bool p) const;
  kv::KvLayout layout() const;
  void start_p();
  void start_d();
  void kill_p();
  void kill_d();
  void arrive(uint32_t request, bool is_whole);
  void land(uint32_t request);
  void ask(uint32_t request);
  void compute(uint32_t hold);
  void lose_blocks(Hold& hold);
  void tick(Duration late);
  void settle_p();
  void settle_d();

  // testing_world_network.h
  void end(Connection& connection);
  void connect(const Connect& command, bool p_calls);
  void to_p(size_t at);
  void to_d(size_t at);
  void to_mover_of_d(Connection& connection, const Parcel& parcel);
  void send_kv(size_t at);
  void copy(TransferId transfer);
  void compare_epochs(TransferId transfer);
  void store(TransferId transfer, const Stores& stores, const Range& range, const Content& content);
  void finish_stores(TransferId transfer, bool good);
  bool in_order(Stores& stores, const Range& range) const;
  Content content_of(const Blocks& arena, const Range& range, const std::vector<BlockId>& blocks) const;
  void tell_d(const MoverEvent& event);
  void run_p(Command& command);
  void run_d(Command& command);
  Connection* find(PeerId id, PeerId Connection::* at) {
    const auto one = std::ranges::find(connections_, id, at);
    return one == connections_.end() ? nullptr : &*one;
  }

  // testing_world_check.h
  void check();
  void write_connections(Writer& to) const;
  void write_movers(Writer& to) const;

  Bounds bounds_;
  int faults_;
  int ticks_;
  Time now_{std::chrono::seconds(1)};
  std::optional<Source> source_;  // empty: P is dead
  std::optional<Target> target_;
  bool p_stopped_ = false;
  bool d_stopped_ = false;
  std::vector<Blocks> p_arenas_;  // of each life: D may still have the mapping of a dead one
  Blocks d_blocks_{};
  uint32_t d_life_ = 0;
  std::vector<Connection> connections_;
  uint64_t next_accepted_ = kAcceptedPeers;
  std::deque<Push> pushes_;
  std::deque<TransferId> stop_pushes_;
  std::map<TransferId, Stores> stores_;
  std::deque<TransferId> stop_stores_;
  std::deque<MoverEvent> events_;  // for D's machine
  std::array<Request, kRequests> requests_{};
  std::map<uint32_t, Hold> holds_;  // of P's life
};

}  // namespace baton::transfer::explorer

#include "transfer/testing_world_check.h"
#include "transfer/testing_world_events.h"
#include "transfer/testing_world_network.h"
