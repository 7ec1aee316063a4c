// For tests: the smallest world in which a hand-over can go wrong, as a value that can be copied, so that
// every continuation of it can be tried. One P and one D run the shipped machines; between them are
// connections and movers that do as little as the contract in mover.h lets them: stores go on until the very
// moment of StoresStopped, and no mover asks whether D's block still has its owner.
#pragma once

#include <xxhash.h>

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
inline constexpr uint32_t kRequests = 2;  // at most; each has one block of KV
inline constexpr int kNobody = -1;
inline constexpr kv::KvLayout kLayout{.layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 16};
inline constexpr Duration kDeadline = std::chrono::milliseconds(50);  // of a request

struct Block {
  uint32_t epoch = 0;
  int owner = kNobody;    // the request that it belongs to
  int content = kNobody;  // the request whose KV it holds
};
using Blocks = std::array<Block, kBlocks>;

// The epochs that the machines of the world under the pen see.
class Epochs final : public kv::BlockEpochs {
 public:
  const Blocks* blocks = nullptr;
  uint32_t epoch(BlockId block) const override { return (*blocks)[index(block)].epoch; }
};

struct Bounds {
  bool local = false;     // D copies from P's memory, else P sends
  uint32_t requests = 1;  // that arrive
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
  kTick,
  kLateTick,
  kArrive,
  // faults
  kNobodyAsks,
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
                                        "a timer runs out",
                                        "all timers run out",
                                        "a request comes",
                                        "P prefills and nobody asks",
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
  uint32_t at = 0;  // request, or place in the list that the kind is about
};

struct Parcel {
  enum class What : uint8_t { kUp, kLost, kMessage, kKv } what{};
  Message message = Ping{};
  TransferId transfer;
  int content = kNobody;
};

struct Connection {
  PeerId at_d{};
  PeerId at_p{};
  size_t p_life = 0;
  bool open = true;
  bool up_at_p = false;
  bool up_at_d = false;
  std::deque<Parcel> to_p;
  std::deque<Parcel> to_d;
};

struct Stores {  // what D's mover was allowed
  PeerId peer{};
  BlockId block{};
  std::optional<std::pair<BlockId, uint32_t>> announced;  // P's block and epoch
  bool copied = false;
};

struct Request {
  bool arrived = false;
  bool expected = false;  // by D, in this life
  bool left = false;
  int d_block = kNobody;
  int outcomes = 0;
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
  Identity identity(bool p) const;
  void start_p();
  void start_d();
  void arrive(uint32_t request, bool asks);
  void land(uint32_t request);
  void fault(Choice choice);
  void tick(Duration late);
  void kill_p();
  void kill_d();
  void end(Connection& connection);
  void to_p(size_t at);
  void to_d(size_t at);
  void send_kv(size_t at);
  void store(TransferId transfer, const Stores& stores, int content);
  void finish_stores(TransferId transfer, bool good);
  void tell_d(const MoverEvent& event);
  void settle_p();
  void settle_d();
  void run_p(Command& command);
  void run_d(Command& command);
  void check();
  Connection* find(PeerId at_d) {
    const auto at = std::ranges::find_if(connections_, [&](const auto& one) { return one.at_d == at_d; });
    return at == connections_.end() ? nullptr : &*at;
  }

  bool local_;
  uint32_t requests_max_;
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
};

inline World::World(const Bounds& bounds)
    : local_(bounds.local), requests_max_(bounds.requests), faults_(bounds.faults), ticks_(bounds.ticks) {
  p_arenas_.emplace_back();
  focus();
  start_p();
  start_d();
}

inline Identity World::identity(bool p) const {
  Identity identity;
  identity.engine_id = p ? "p" : "d";
  identity.incarnation = id_of<Incarnation>(p ? static_cast<uint32_t>(p_arenas_.size()) : 0x80 + d_life_);
  identity.layout = kLayout;
  return identity;
}

inline void World::start_p() {
  HandoverConfig config;
  config.incarnation = identity(true).incarnation;
  config.lease = std::chrono::milliseconds(30);
  source_.emplace(config, kLayout, p_epochs());
}

inline void World::start_d() {
  HandoverConfig config;
  config.incarnation = identity(false).incarnation;
  config.lease = std::chrono::milliseconds(30);
  config.stop_retry = std::chrono::milliseconds(20);
  target_.emplace(config, kLayout, d_epochs());
}

inline std::vector<Choice> World::choices() const {
  std::vector<Choice> all;
  const auto may = [&](bool may_be, Kind kind, size_t at = 0) {
    if (may_be && (!is_fault(kind) || faults_ > 0)) all.push_back({kind, static_cast<uint32_t>(at)});
  };
  const bool p_runs = source_ && !p_stopped_;
  may(!source_, Kind::kStartP);
  may(p_stopped_, Kind::kContinueP);
  may(d_stopped_, Kind::kContinueD);
  may(p_runs && !stop_pushes_.empty(), Kind::kStopPush);
  may(!d_stopped_ && !stop_stores_.empty(), Kind::kStopStores);
  for (size_t i = 0; i < pushes_.size(); ++i) may(p_runs, Kind::kSendKv, i);
  for (const auto& [transfer, stores] : stores_) {
    may(!d_stopped_ && stores.announced && !stores.copied, Kind::kCopy, number_of(transfer));
    may(!d_stopped_ && stores.copied, Kind::kCompareEpochs, number_of(transfer));
  }
  may(!d_stopped_ && !events_.empty(), Kind::kTakeEvent);
  for (size_t i = 0; i < connections_.size(); ++i) {
    const Connection& one = connections_[i];
    may(p_runs && !one.to_p.empty(), Kind::kToP, i);
    may(!d_stopped_ && !one.to_d.empty(), Kind::kToD, i);
    may(one.open && (p_stopped_ || d_stopped_), Kind::kSilence, i);
    const auto is_bytes = [](const Parcel& parcel) { return parcel.what >= Parcel::What::kMessage; };
    may(!one.to_p.empty() && is_bytes(one.to_p.front()), Kind::kLoseToP, i);
    may(!one.to_d.empty() && is_bytes(one.to_d.front()), Kind::kLoseToD, i);
    may(!one.to_p.empty() && is_bytes(one.to_p.front()), Kind::kRepeatToP, i);
    may(!one.to_d.empty() && is_bytes(one.to_d.front()), Kind::kRepeatToD, i);
    may(one.open, Kind::kReset, i);
  }
  const bool d_has_room =
      std::ranges::any_of(d_blocks_, [](const Block& block) { return block.owner == kNobody; });
  const bool p_has_room =
      std::ranges::any_of(p_arenas_.back(), [](const Block& block) { return block.owner == kNobody; });
  for (uint32_t i = 0; i < requests_max_; ++i) {
    const Request& one = requests_[i];
    const bool open = one.expected && one.outcomes == 0;
    may(!d_stopped_ && open && one.d_block == kNobody && d_has_room, Kind::kLand, i);
    may(!d_stopped_ && open && !one.left, Kind::kClientLeaves, i);
    const bool is_held = p_runs && std::ranges::any_of(p_arenas_.back(), [&](const Block& block) {
                           return block.owner == static_cast<int>(i);
                         });
    may(is_held, Kind::kPGivesUp, i);
    const bool is_next = !one.arrived && (i == 0 || requests_[i - 1].arrived);
    may(is_next && p_runs && p_has_room && !d_stopped_, Kind::kArrive, i);
    may(is_next && p_runs && p_has_room, Kind::kNobodyAsks, i);
  }
  may(ticks_ > 0, Kind::kTick);
  may(ticks_ > 0, Kind::kLateTick);
  may(source_.has_value(), Kind::kKillP);
  may(true, Kind::kKillD);
  may(p_runs, Kind::kStopP);
  may(!d_stopped_, Kind::kStopD);
  return all;
}

inline void World::apply(Choice choice) {
  focus();
  if (is_fault(choice.kind)) --faults_;
  const uint32_t at = choice.at;
  switch (choice.kind) {
    case Kind::kStartP:
      start_p();
      break;
    case Kind::kContinueP:
      p_stopped_ = false;
      source_->on_time(now_);
      break;
    case Kind::kContinueD:
      d_stopped_ = false;
      target_->on_time(now_);
      break;
    case Kind::kStopPush:
      std::erase_if(pushes_, [&](const Push& push) { return push.transfer == stop_pushes_.front(); });
      stop_pushes_.pop_front();
      break;
    case Kind::kStopStores:
      stores_.erase(stop_stores_.front());
      events_.emplace_back(StoresStopped{stop_stores_.front()});
      stop_stores_.pop_front();
      break;
    case Kind::kSendKv:
      send_kv(at);
      break;
    case Kind::kCopy: {
      Stores& stores = stores_.at(id_of<TransferId>(at));
      const Blocks& arena = p_arenas_.at(find(stores.peer)->p_life);
      store(id_of<TransferId>(at), stores, arena[index(stores.announced->first)].content);
      stores.copied = true;
      break;
    }
    case Kind::kCompareEpochs: {
      const Stores& stores = stores_.at(id_of<TransferId>(at));
      const Blocks& arena = p_arenas_.at(find(stores.peer)->p_life);
      finish_stores(id_of<TransferId>(at),
                    arena[index(stores.announced->first)].epoch == stores.announced->second);
      break;
    }
    case Kind::kTakeEvent: {
      const MoverEvent event = std::move(events_.front());
      events_.pop_front();
      target_->on_event(event, now_);
      break;
    }
    case Kind::kToP:
      to_p(at);
      break;
    case Kind::kToD:
      to_d(at);
      break;
    case Kind::kSilence:
      end(connections_[at]);
      break;
    case Kind::kLand:
      land(at);
      break;
    case Kind::kTick:
      tick(Duration(0));
      break;
    case Kind::kLateTick:
      tick(kDeadline);
      break;
    case Kind::kArrive:
      arrive(at, true);
      break;
    default:
      fault(choice);
      break;
  }
  if (source_) settle_p();
  settle_d();
  std::erase_if(connections_,
                [](const Connection& one) { return !one.open && one.to_p.empty() && one.to_d.empty(); });
  check();
}

inline void World::fault(Choice choice) {
  const uint32_t at = choice.at;
  switch (choice.kind) {
    case Kind::kNobodyAsks:
      arrive(at, false);
      break;
    case Kind::kReset:
      end(connections_[at]);
      break;
    case Kind::kClientLeaves:
      requests_[at].left = true;
      target_->abort(id_of<TransferId>(at), "the client left", now_);
      break;
    case Kind::kPGivesUp:
      source_->release(id_of<HandoverId>(at), "given up");
      break;
    case Kind::kLoseToP:
      connections_[at].to_p.pop_front();
      break;
    case Kind::kLoseToD:
      connections_[at].to_d.pop_front();
      break;
    case Kind::kRepeatToP:
      connections_[at].to_p.push_back(connections_[at].to_p.front());
      break;
    case Kind::kRepeatToD:
      connections_[at].to_d.push_back(connections_[at].to_d.front());
      break;
    case Kind::kKillP:
      kill_p();
      break;
    case Kind::kKillD:
      kill_d();
      break;
    case Kind::kStopP:
      p_stopped_ = true;
      break;
    case Kind::kStopD:
      d_stopped_ = true;
      break;
    default:
      break;
  }
}

inline void World::arrive(uint32_t request, bool asks) {
  Blocks& arena = p_arenas_.back();
  const auto block = std::ranges::find(arena, kNobody, &Block::owner);
  block->owner = block->content = static_cast<int>(request);
  const auto handover = id_of<HandoverId>(request);
  source_->hold({handover, {BlockId{static_cast<uint32_t>(block - arena.begin())}}, 16, "h"}, now_);
  requests_[request].arrived = true;
  if (!asks) return;
  requests_[request].expected = true;
  target_->expect({.transfer = id_of<TransferId>(request),
                   .handover = handover,
                   .host = "p",
                   .port = 1,
                   .engine_id = "p",
                   .incarnation = identity(true).incarnation,
                   .tokens = 16,
                   .prompt_hash = "h",
                   .deadline = now_ + kDeadline},
                  now_);
}

inline void World::land(uint32_t request) {
  const auto block = std::ranges::find(d_blocks_, kNobody, &Block::owner);
  block->owner = static_cast<int>(request);
  requests_[request].d_block = static_cast<int>(block - d_blocks_.begin());
  target_->land(id_of<TransferId>(request), {BlockId{static_cast<uint32_t>(block - d_blocks_.begin())}}, 0,
                now_);
}

// To the next moment at which a machine that runs has something to do, or so much later.
inline void World::tick(Duration late) {
  --ticks_;
  const bool p_runs = source_ && !p_stopped_;
  const Time next =
      std::min(p_runs ? source_->next_deadline() : kNever, d_stopped_ ? kNever : target_->next_deadline());
  if (next == kNever) return;
  now_ = std::max(now_, next + late);
  if (p_runs) source_->on_time(now_);
  if (!d_stopped_) target_->on_time(now_);
}

// Both ends learn of it, each in its time; what is on its way is lost.
inline void World::end(Connection& connection) {
  connection.open = false;
  connection.to_p.assign(1, {.what = Parcel::What::kLost, .transfer = {}});
  connection.to_d.assign(1, {.what = Parcel::What::kLost, .transfer = {}});
}

inline void World::kill_p() {
  for (Connection& one : connections_) {
    if (one.open) end(one);
    one.to_p.clear();
  }
  source_.reset();
  p_stopped_ = false;
  pushes_.clear();
  stop_pushes_.clear();
  p_arenas_.emplace_back();
}

inline void World::kill_d() {
  for (Connection& one : connections_) {
    if (one.open) end(one);
    one.to_d.clear();
    one.at_d = PeerId{};
  }
  d_stopped_ = false;
  d_blocks_ = {};
  stores_.clear();
  stop_stores_.clear();
  events_.clear();
  for (Request& one : requests_) one.expected = false;
  ++d_life_;
  start_d();
}

inline void World::to_p(size_t at) {
  Connection& one = connections_[at];
  const Parcel parcel = std::move(one.to_p.front());
  one.to_p.pop_front();
  if (parcel.what == Parcel::What::kUp) {
    one.up_at_p = true;
    one.to_d.push_back({.what = Parcel::What::kUp, .transfer = {}});
    source_->on_event(PeerUp{one.at_p, identity(false), Transport::kFake, true}, now_);
  } else if (parcel.what == Parcel::What::kLost) {
    std::erase_if(pushes_, [&](const Push& push) { return push.peer == one.at_p; });
    if (one.up_at_p) source_->on_event(PeerLost{one.at_p, {Code::kUnavailable, "lost"}}, now_);
  } else {
    source_->on_event(Received{one.at_p, parcel.message}, now_);
  }
}

inline void World::to_d(size_t at) {
  Connection& one = connections_[at];
  const Parcel parcel = std::move(one.to_d.front());
  one.to_d.pop_front();
  if (parcel.what == Parcel::What::kUp) {
    one.up_at_d = true;
    tell_d(PeerUp{one.at_d, identity(true), Transport::kFake, true});
  } else if (parcel.what == Parcel::What::kLost) {
    std::erase_if(stores_, [&](const auto& entry) { return entry.second.peer == one.at_d; });
    tell_d(PeerLost{one.at_d, {Code::kUnavailable, "lost"}});
  } else if (parcel.what == Parcel::What::kKv) {
    const auto stores = stores_.find(parcel.transfer);
    if (stores == stores_.end() || stores->second.peer != one.at_d) return;
    store(parcel.transfer, stores->second, parcel.content);
    finish_stores(parcel.transfer, true);
  } else if (const auto* const announce = std::get_if<Announce>(&parcel.message)) {
    const auto stores = stores_.find(announce->transfer);
    if (stores == stores_.end() || stores->second.peer != one.at_d) return;
    if (stores->second.announced) return finish_stores(announce->transfer, false);
    stores->second.announced = {announce->source.at(0), announce->epochs.at(0)};
  } else {
    tell_d(Received{one.at_d, parcel.message});
  }
}

// What the mover itself finds out waits for the machine; what came by the network has waited there.
inline void World::tell_d(const MoverEvent& event) {
  if (events_.empty()) return target_->on_event(event, now_);
  events_.push_back(event);
}

inline void World::send_kv(size_t at) {
  const Push push = pushes_[at];
  pushes_.erase(pushes_.begin() + static_cast<ptrdiff_t>(at));
  const auto one = std::ranges::find(connections_, push.peer, &Connection::at_p);
  if (one == connections_.end() || !one->open) return;
  const Block& block = p_arenas_.back()[index(push.source.at(0))];
  if (block.epoch == push.epochs.at(0)) {
    one->to_d.push_back({.what = Parcel::What::kKv, .transfer = push.transfer, .content = block.content});
    return;
  }
  const Error error{Code::kUnavailable, "given away"};
  one->to_d.push_back(
      {.what = Parcel::What::kMessage, .message = AbortTransfer{push.transfer, error}, .transfer = {}});
  source_->on_event(MoveFailed{push.transfer, error}, now_);
}

inline void World::store(TransferId transfer, const Stores& stores, int content) {
  Block& block = d_blocks_[index(stores.block)];
  if (block.owner != static_cast<int>(number_of(transfer)))
    broken(fmt::format("a store of request {} lands in a block of request {}", number_of(transfer),
                       block.owner));
  block.content = content;
}

inline void World::finish_stores(TransferId transfer, bool good) {
  stores_.erase(transfer);
  if (good) events_.emplace_back(Landed{transfer, 1});
  if (!good) events_.emplace_back(MoveFailed{transfer, {Code::kUnavailable, "given away"}});
}

inline void World::settle_p() {
  Blocks& arena = p_arenas_.back();
  for (const ReleasedHold& hold : source_->take_released()) {
    Block& block = arena.at(index(hold.blocks.at(0)));
    if (block.owner != static_cast<int>(number_of(hold.handover))) broken("P's block comes back twice");
    block = {.epoch = block.epoch + 1};
  }
  for (Command& command : source_->take_commands()) run_p(command);
}

inline void World::run_p(Command& command) {
  if (auto* const send = std::get_if<Send>(&command)) {
    const auto one = std::ranges::find(connections_, send->peer, &Connection::at_p);
    if (one == connections_.end() || !one->open) return;
    one->to_d.push_back(
        {.what = Parcel::What::kMessage, .message = std::move(send->message), .transfer = {}});
  } else if (auto* const push = std::get_if<Push>(&command)) {
    const auto one = std::ranges::find(connections_, push->peer, &Connection::at_p);
    if (one == connections_.end() || !one->open) return;
    if (!local_) return pushes_.push_back(std::move(*push));
    Announce announce{push->transfer, push->layers, push->move.first, push->move.end,
                      push->source,   push->epochs, push->last};
    one->to_d.push_back({.what = Parcel::What::kMessage, .message = std::move(announce), .transfer = {}});
  } else if (const auto* const stop = std::get_if<StopPush>(&command)) {
    if (!local_) stop_pushes_.push_back(stop->transfer);
  }
}

inline void World::settle_d() {
  for (const Outcome& outcome : target_->take_outcomes()) {
    Request& request = requests_.at(number_of(outcome.transfer));
    if (++request.outcomes > 1) broken("a request has two outcomes");
    if (request.d_block == kNobody) continue;
    Block& block = d_blocks_.at(static_cast<size_t>(request.d_block));
    if (!outcome.error && block.content != static_cast<int>(number_of(outcome.transfer)))
      broken(fmt::format("what landed is KV of {}, expected {}", block.content, number_of(outcome.transfer)));
    block = {.epoch = block.epoch + 1};
  }
  for (Command& command : target_->take_commands()) run_d(command);
}

inline void World::run_d(Command& command) {
  if (const auto* const connect = std::get_if<Connect>(&command)) {
    Connection one;
    one.at_d = connect->peer;
    one.at_p = PeerId{next_accepted_++};
    one.p_life = p_arenas_.size() - 1;
    one.open = source_.has_value();
    if (one.open) one.to_p.push_back({.what = Parcel::What::kUp, .transfer = {}});
    if (!one.open) one.to_d.push_back({.what = Parcel::What::kLost, .transfer = {}});
    connections_.push_back(std::move(one));
    return;
  }
  if (const auto* const stop = std::get_if<StopStores>(&command)) {
    stop_stores_.push_back(stop->transfer);
  } else if (auto* const send = std::get_if<Send>(&command)) {
    Connection* const one = find(send->peer);
    if (one == nullptr || !one->open) return;
    one->to_p.push_back(
        {.what = Parcel::What::kMessage, .message = std::move(send->message), .transfer = {}});
  } else if (const auto* const allow = std::get_if<AllowStores>(&command)) {
    const Connection* const one = find(allow->peer);
    if (one != nullptr && one->open) {
      const bool is_new =
          stores_.emplace(allow->transfer, Stores{allow->peer, allow->blocks.at(0), {}, false}).second;
      if (!is_new) broken("stores are allowed twice");
      return;
    }
    events_.emplace_back(MoveFailed{allow->transfer, {Code::kUnavailable, "gone"}});
  } else if (const auto* const close = std::get_if<Close>(&command)) {
    if (Connection* const one = find(close->peer); one != nullptr && one->open) end(*one);
  }
}

// What must hold at every moment.
inline void World::check() {
  for (const auto& [transfer, stores] : stores_) {
    if (d_blocks_[index(stores.block)].owner != static_cast<int>(number_of(transfer)))
      broken(
          fmt::format("stores of request {} are allowed into a block that it has lost", number_of(transfer)));
  }
  if (source_) {
    const auto held =
        std::ranges::count_if(p_arenas_.back(), [](const Block& b) { return b.owner != kNobody; });
    if (source_->held_blocks() != static_cast<size_t>(held)) broken("P's blocks and holds do not agree");
    if (source_->size() > 0 && source_->next_deadline() == kNever) broken("P waits without a deadline");
    for (const HeldSnapshot& one : source_->snapshot()) {
      if (one.state != HeldState::kWaiting && one.peer.empty())
        broken("P holds blocks for a peer that is gone");
    }
  }
  if (target_->size() > 0 && target_->next_deadline() == kNever) broken("D waits without a deadline");
}

inline void World::drain() {
  constexpr int kStepsMax = 1000;
  faults_ = 0;
  requests_max_ = kRequests;
  for (int i = 0; i < kStepsMax && violation.empty(); ++i) {
    ticks_ = 1;
    auto next = choices();
    std::erase_if(next, [](const Choice& choice) {
      return choice.kind == Kind::kArrive || choice.kind == Kind::kLateTick;
    });
    const bool is_over = !p_stopped_ && !d_stopped_ && source_ && source_->next_deadline() == kNever &&
                         target_->next_deadline() == kNever && next.size() == 1;
    if (is_over) break;
    apply(next.front());
  }
  if (!violation.empty()) return;
  if (!source_ || source_->size() != 0) broken("P still holds blocks when everything is over");
  if (target_->size() != 0) broken("D still expects a transfer when everything is over");
  for (const Blocks& blocks : {p_arenas_.back(), d_blocks_}) {
    if (std::ranges::any_of(blocks, [](const Block& block) { return block.owner != kNobody; }))
      broken("a block has not come back");
  }
  for (const Request& request : requests_) {
    if (request.expected && request.outcomes != 1) broken("a request has no outcome");
  }
}

inline uint64_t World::key() const {
  Writer to;
  to.number(static_cast<uint8_t>(faults_));
  to.number(static_cast<uint8_t>(ticks_));
  to.number(static_cast<uint8_t>((source_ ? 1 : 0) + (p_stopped_ ? 2 : 0) + (d_stopped_ ? 4 : 0)));
  if (source_) source_->write_state(to, now_);
  target_->write_state(to, now_);
  const auto blocks = [&](const Blocks& all) {
    for (const Block& one : all) {
      to.number(one.epoch);
      to.number(static_cast<uint8_t>(one.owner));
      to.number(static_cast<uint8_t>(one.content));
    }
  };
  for (const Blocks& arena : p_arenas_) blocks(arena);
  blocks(d_blocks_);
  to.number(d_life_);
  const auto parcels = [&](const std::deque<Parcel>& all) {
    to.number(static_cast<uint8_t>(all.size()));
    for (const Parcel& one : all) {
      to.number(static_cast<uint8_t>(one.what));
      to.raw(one.transfer.bytes);
      to.number(static_cast<uint8_t>(one.content));
      if (one.what != Parcel::What::kMessage) continue;
      for (const std::byte byte : encode(one.message)) to.number(static_cast<uint8_t>(byte));
    }
  };
  for (const Connection& one : connections_) {
    to.number(value(one.at_d));
    to.number(value(one.at_p));
    to.number(static_cast<uint8_t>(one.p_life));
    to.number(static_cast<uint8_t>((one.open ? 1 : 0) + (one.up_at_p ? 2 : 0) + (one.up_at_d ? 4 : 0)));
    parcels(one.to_p);
    parcels(one.to_d);
  }
  for (const Push& one : pushes_) {
    to.raw(one.transfer.bytes);
    to.number(value(one.peer));
    to.number(index(one.source.at(0)));
    to.number(one.epochs.at(0));
  }
  to.number(uint8_t{0xA0});
  for (const TransferId one : stop_pushes_) to.raw(one.bytes);
  to.number(uint8_t{0xA1});
  for (const auto& [transfer, one] : stores_) {
    to.raw(transfer.bytes);
    to.number(value(one.peer));
    to.number(index(one.block));
    const auto [block, epoch] = one.announced.value_or(std::pair(BlockId{99}, 0U));
    to.number(index(block));
    to.number(epoch);
    to.number(static_cast<uint8_t>(one.copied));
  }
  to.number(uint8_t{0xA2});
  for (const TransferId one : stop_stores_) to.raw(one.bytes);
  to.number(uint8_t{0xA3});
  for (const MoverEvent& event : events_) {
    to.number(static_cast<uint8_t>(event.index()));
    if (const auto* const one = std::get_if<Landed>(&event)) to.raw(one->transfer.bytes);
    if (const auto* const one = std::get_if<MoveFailed>(&event)) to.raw(one->transfer.bytes);
    if (const auto* const one = std::get_if<StoresStopped>(&event)) to.raw(one->transfer.bytes);
    if (const auto* const one = std::get_if<PeerUp>(&event)) to.number(value(one->peer));
    if (const auto* const one = std::get_if<PeerLost>(&event)) to.number(value(one->peer));
    if (const auto* const one = std::get_if<Received>(&event)) {
      to.number(value(one->peer));
      for (const std::byte byte : encode(one->message)) to.number(static_cast<uint8_t>(byte));
    }
  }
  for (const Request& one : requests_) {
    to.number(static_cast<uint8_t>((one.arrived ? 1 : 0) + (one.expected ? 2 : 0) + (one.left ? 4 : 0)));
    to.number(static_cast<uint8_t>(one.d_block));
    to.number(static_cast<uint8_t>(one.outcomes));
  }
  const std::vector<std::byte> bytes = to.take();
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace baton::transfer::explorer
