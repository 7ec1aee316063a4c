// For tests: what may happen in the world of testing_world.h, and what the engines of its two sides do. Its
// last lines include this.
#pragma once

#include "transfer/testing_world.h"

namespace baton::transfer::explorer {

inline std::vector<BlockId> take_blocks(Blocks& blocks, uint32_t count, uint32_t owner) {
  std::vector<BlockId> taken;
  for (uint32_t i = 0; i < kBlocks && taken.size() < count; ++i) {
    if (blocks[i].owner != kNobody) continue;
    blocks[i].owner = static_cast<int>(owner);
    taken.push_back(BlockId{i});
  }
  return taken;
}
inline World::World(const Bounds& bounds) : bounds_(bounds), faults_(bounds.faults), ticks_(bounds.ticks) {
  p_arenas_.emplace_back();
  focus();
  start_p();
  start_d();
}

inline kv::KvLayout World::layout() const {
  return {.layers = bounds_.layers, .kv_heads = 1, .head_dim = 8, .block_tokens = kBlockTokens};
}

inline Identity World::identity(bool p) const {
  Identity identity;
  identity.engine_id = p ? "p" : "d";
  identity.incarnation = id_of<Incarnation>(p ? static_cast<uint32_t>(p_arenas_.size()) : 0x80 + d_life_);
  identity.layout = layout();
  return identity;
}

inline void World::start_p() {
  HandoverConfig config;
  config.incarnation = identity(true).incarnation;
  config.lease = std::chrono::milliseconds(30);
  source_.emplace(config, layout(), p_epochs());
}

inline void World::start_d() {
  HandoverConfig config;
  config.incarnation = identity(false).incarnation;
  config.lease = std::chrono::milliseconds(30);
  config.stop_retry = std::chrono::milliseconds(20);
  target_.emplace(config, layout(), d_epochs());
}

inline std::vector<Choice> World::choices() const {
  std::vector<Choice> all;
  const bool p_runs = source_ && !p_stopped_;
  may(all, !source_, Kind::kStartP);
  may(all, p_stopped_, Kind::kContinueP);
  may(all, d_stopped_, Kind::kContinueD);
  choose_network(all);
  choose_requests(all);
  may(all, ticks_ > 0, Kind::kTick);
  may(all, ticks_ > 0, Kind::kLateTick);
  may(all, source_.has_value(), Kind::kKillP);
  may(all, true, Kind::kKillD);
  may(all, p_runs, Kind::kStopP);
  may(all, !d_stopped_, Kind::kStopD);
  return all;
}

inline void World::choose_network(std::vector<Choice>& all) const {
  const bool p_runs = source_ && !p_stopped_;
  may(all, p_runs && !stop_pushes_.empty(), Kind::kStopPush);
  may(all, !d_stopped_ && !stop_stores_.empty(), Kind::kStopStores);
  for (size_t i = 0; i < pushes_.size(); ++i) {
    const auto first = std::ranges::find(pushes_, pushes_[i].transfer, &Push::transfer);
    may(all, p_runs && first == pushes_.begin() + static_cast<ptrdiff_t>(i), Kind::kSendKv, i);
  }
  for (const auto& [transfer, stores] : stores_) {
    may(all, !d_stopped_ && !stores.announced.empty() && !stores.copied, Kind::kCopy, number_of(transfer));
    may(all, !d_stopped_ && stores.copied, Kind::kCompareEpochs, number_of(transfer));
  }
  may(all, !d_stopped_ && !events_.empty(), Kind::kTakeEvent);
  for (size_t i = 0; i < connections_.size(); ++i) {
    const Connection& one = connections_[i];
    may(all, p_runs && !one.to_p.empty(), Kind::kToP, i);
    may(all, !d_stopped_ && !one.to_d.empty(), Kind::kToD, i);
    may(all, one.open && (p_stopped_ || d_stopped_), Kind::kSilence, i);
    const auto is_bytes = [](const Parcel& parcel) { return parcel.what >= Parcel::What::kMessage; };
    may(all, !one.to_p.empty() && is_bytes(one.to_p.front()), Kind::kLoseToP, i);
    may(all, !one.to_d.empty() && is_bytes(one.to_d.front()), Kind::kLoseToD, i);
    may(all, !one.to_p.empty() && is_bytes(one.to_p.front()), Kind::kRepeatToP, i);
    may(all, !one.to_d.empty() && is_bytes(one.to_d.front()), Kind::kRepeatToD, i);
    may(all, one.open, Kind::kReset, i);
  }
}

inline void World::choose_requests(std::vector<Choice>& all) const {
  const bool p_runs = source_ && !p_stopped_;
  const bool p_has_room = free_blocks(p_arenas_.back()) >= bounds_.blocks;
  for (uint32_t i = 0; i < bounds_.requests; ++i) {
    const Request& one = requests_[i];
    const bool open = one.expected && one.outcomes == 0;
    may(all, !d_stopped_ && open && one.d_blocks.empty() && free_blocks(d_blocks_) >= bounds_.blocks,
        Kind::kLand, i);
    may(all, !d_stopped_ && open && !one.left, Kind::kClientLeaves, i);
    const bool is_next = !one.arrived && (i == 0 || requests_[i - 1].arrived);
    const bool p_can = bounds_.layerwise || (p_runs && p_has_room);
    may(all, is_next && p_can && !d_stopped_, Kind::kArrive, i);
    may(all, is_next && p_can && !(bounds_.layerwise && d_stopped_), Kind::kNobodyAsks, i);
    may(all, p_runs && one.reserved && one.asks == 0, Kind::kAsk, i);
    may(all, p_runs && one.reserved && one.asks == 1, Kind::kAskAgain, i);
    may(all, !d_stopped_ && open && one.reserved, Kind::kRefuse, i);
  }
  for (const auto& [number, hold] : holds_) {
    const bool is_computed = hold.ready && !hold.is_held;
    may(all, p_runs && is_computed && (p_has_room || !hold.blocks.empty()), Kind::kCompute, number);
    may(all, p_runs && is_computed && hold.layer > 0, Kind::kInterrupt, number);
    may(all, p_runs && is_computed && !hold.blocks.empty(), Kind::kPreempt, number);
    may(all, p_runs, Kind::kPGivesUp, number);
  }
}

inline void World::apply(Choice choice) {
  focus();
  if (is_fault(choice.kind)) {
    --faults_;
    fault(choice);
  } else {
    happen(choice);
  }
  if (source_) settle_p();
  settle_d();
  std::erase_if(connections_,
                [](const Connection& one) { return !one.open && one.to_p.empty() && one.to_d.empty(); });
  check();
}

inline void World::happen(Choice choice) {
  const uint32_t at = choice.at;
  switch (choice.kind) {
    case Kind::kStartP:
      return start_p();
    case Kind::kContinueP:
      p_stopped_ = false;
      return source_->on_time(now_);
    case Kind::kContinueD:
      d_stopped_ = false;
      return target_->on_time(now_);
    case Kind::kStopPush:
      std::erase_if(pushes_, [&](const Push& push) { return push.transfer == stop_pushes_.front(); });
      return stop_pushes_.pop_front();
    case Kind::kStopStores:
      stores_.erase(stop_stores_.front());
      events_.emplace_back(StoresStopped{stop_stores_.front()});
      return stop_stores_.pop_front();
    case Kind::kSendKv:
      return send_kv(at);
    case Kind::kCopy:
      return copy(id_of<TransferId>(at));
    case Kind::kCompareEpochs:
      return compare_epochs(id_of<TransferId>(at));
    case Kind::kTakeEvent: {
      const MoverEvent event = std::move(events_.front());
      events_.pop_front();
      return target_->on_event(event, now_);
    }
    case Kind::kToP:
      return to_p(at);
    case Kind::kToD:
      return to_d(at);
    case Kind::kSilence:
      return end(connections_[at]);
    case Kind::kLand:
      return land(at);
    case Kind::kAsk:
      return ask(at);
    case Kind::kCompute:
      return compute(at);
    case Kind::kTick:
      return tick(Duration(0));
    case Kind::kLateTick:
      return tick(kDeadline);
    case Kind::kArrive:
      return arrive(at, true);
    default:
      break;
  }
}

inline void World::fault(Choice choice) {
  const uint32_t at = choice.at;
  switch (choice.kind) {
    case Kind::kNobodyAsks:
      return arrive(at, false);
    case Kind::kAskAgain:
      return ask(at);
    case Kind::kRefuse:
      return target_->refuse(id_of<TransferId>(at), {Code::kUnavailable, "nobody comes"}, now_);
    case Kind::kInterrupt:  // what goes on then covers other positions
      holds_.at(at).layer = 0;
      holds_.at(at).pass_end = static_cast<uint8_t>(bounds_.blocks);
      return;
    case Kind::kPreempt:
      return lose_blocks(holds_.at(at));
    case Kind::kReset:
      return end(connections_[at]);
    case Kind::kClientLeaves:
      requests_[at].left = true;
      return target_->abort(id_of<TransferId>(at), "the client left", now_);
    case Kind::kPGivesUp:
      source_->release(id_of<HandoverId>(at), "given up");
      return;
    case Kind::kLoseToP:
      return connections_[at].to_p.pop_front();
    case Kind::kLoseToD:
      return connections_[at].to_d.pop_front();
    case Kind::kRepeatToP:
      return connections_[at].to_p.push_back(Parcel(connections_[at].to_p.front()));
    case Kind::kRepeatToD:
      return connections_[at].to_d.push_back(Parcel(connections_[at].to_d.front()));
    case Kind::kKillP:
      return kill_p();
    case Kind::kKillD:
      return kill_d();
    case Kind::kStopP:
      p_stopped_ = true;
      return;
    case Kind::kStopD:
      d_stopped_ = true;
      return;
    default:
      break;
  }
}

// Pull: P has computed, and D is told unless nobody asks. Layer-wise: D is told, and P will be unless the way
// to it fails.
inline void World::arrive(uint32_t number, bool is_whole) {
  Request& request = requests_[number];
  const auto handover = id_of<HandoverId>(number);
  const uint32_t tokens = bounds_.blocks * kBlockTokens;
  request.arrived = true;
  Expected expected;
  expected.transfer = id_of<TransferId>(number);
  expected.tokens = tokens;
  expected.prompt_hash = "h";
  expected.deadline = now_ + kDeadline;
  if (bounds_.layerwise) {
    expected.flow = Flow::kFromCaller;
    if (!is_whole) request.asks = kRequests;
  } else {
    Hold& hold = holds_[number];
    hold.is_held = true;
    hold.blocks = take_blocks(p_arenas_.back(), bounds_.blocks, number);
    for (const BlockId block : hold.blocks)
      p_arenas_.back()[index(block)].content.fill(static_cast<int>(number));
    source_->hold({handover, hold.blocks, tokens, "h"}, now_);
    if (!is_whole) return;
    expected.handover = handover;
    expected.host = "p";
    expected.port = 1;
    expected.engine_id = "p";
    expected.incarnation = identity(true).incarnation;
  }
  request.expected = true;
  target_->expect(std::move(expected), now_);
}

inline void World::land(uint32_t number) {
  Request& request = requests_[number];
  request.d_blocks = take_blocks(d_blocks_, bounds_.blocks, number);
  request.reserved = bounds_.layerwise;
  request.reserved_by = d_life_;
  target_->land(id_of<TransferId>(number), request.d_blocks, 0, now_);
}

// D's word has come to P, perhaps late, perhaps a second time under another name.
inline void World::ask(uint32_t number) {
  Request& request = requests_[number];
  const uint32_t hold = number + kRequests * request.asks++;
  holds_[hold] = {};
  source_->promise({.id = id_of<HandoverId>(hold),
                    .transfer = id_of<TransferId>(number),
                    .host = "d",
                    .port = 1,
                    .engine_id = "d",
                    .incarnation = id_of<Incarnation>(0x80 + request.reserved_by),
                    .tokens = bounds_.blocks * kBlockTokens,
                    .prompt_hash = "h",
                    .deadline = now_ + kDeadline},
                   now_);
}

// One layer of a pass. A pass computes one block, after an interruption all that is left.
inline void World::compute(uint32_t number) {
  Hold& hold = holds_.at(number);
  Blocks& arena = p_arenas_.back();
  if (hold.blocks.empty()) hold.blocks = take_blocks(arena, bounds_.blocks, number);
  for (uint8_t i = hold.computed; i < hold.pass_end; ++i)
    arena[index(hold.blocks[i])].content[hold.layer] = static_cast<int>(request_of(number));
  const auto id = id_of<HandoverId>(number);
  source_->on_layer(id, hold.blocks, hold.layer, hold.pass_end * kBlockTokens);
  if (++hold.layer < bounds_.layers) return;
  hold.layer = 0;
  hold.computed = hold.pass_end++;
  if (hold.computed < bounds_.blocks) return;
  hold.is_held = source_->finish(id, hold.blocks, {std::byte(request_of(number))}, now_);
  if (!hold.is_held) broken("P computes for a hold that has ended");
}

inline void World::lose_blocks(Hold& hold) {
  for (const BlockId id : hold.blocks) {
    Block& block = p_arenas_.back().at(index(id));
    block.owner = kNobody;
    ++block.epoch;
  }
  hold.blocks.clear();
  hold.computed = hold.layer = 0;
  hold.pass_end = static_cast<uint8_t>(bounds_.blocks);
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

inline void World::kill_p() {
  for (Connection& one : connections_) {
    if (one.open) end(one);
    one.to_p.clear();
    one.at_p = PeerId{};
  }
  source_.reset();
  p_stopped_ = false;
  pushes_.clear();
  stop_pushes_.clear();
  holds_.clear();
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

inline void World::settle_p() {
  for (const ReleasedHold& released : source_->take_released()) {
    const auto hold = holds_.find(number_of(released.handover));
    if (hold == holds_.end()) return broken("a hold of P ends twice");
    if (released.blocks != (hold->second.is_held ? hold->second.blocks : std::vector<BlockId>{}))
      broken("other blocks come back to P than were held");
    lose_blocks(hold->second);
    holds_.erase(hold);
  }
  for (const HandoverId id : source_->take_ready()) {
    if (const auto hold = holds_.find(number_of(id)); hold != holds_.end()) hold->second.ready = true;
  }
  for (Command& command : source_->take_commands()) run_p(command);
}

inline void World::settle_d() {
  for (const Outcome& outcome : target_->take_outcomes()) {
    const uint32_t number = number_of(outcome.transfer);
    Request& request = requests_.at(number);
    if (++request.outcomes > 1) broken("a request has two outcomes");
    if (!outcome.error && bounds_.layerwise && outcome.note != std::vector{std::byte(number)})
      broken("KV landed without what P's engine says");
    for (const BlockId id : std::exchange(request.d_blocks, {})) {
      Block& block = d_blocks_.at(index(id));
      for (uint32_t layer = 0; layer < bounds_.layers && !outcome.error; ++layer) {
        if (block.content[layer] != static_cast<int>(number))
          broken(fmt::format("what landed is KV of {}, expected {}", block.content[layer], number));
      }
      block.owner = kNobody;
      block.content.fill(kNobody);
      ++block.epoch;
    }
  }
  for (Command& command : target_->take_commands()) run_d(command);
}

}  // namespace baton::transfer::explorer
