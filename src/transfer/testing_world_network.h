// For tests: connections and movers of the world of testing_world.h. Its last lines include this.
#pragma once

#include "transfer/testing_world.h"

namespace baton::transfer::explorer {

// Both ends learn of it, each in its time; what is on its way is lost.
inline void World::end(Connection& connection) {
  connection.open = false;
  connection.to_p.assign(1, {.what = Parcel::What::kLost, .transfer = {}});
  connection.to_d.assign(1, {.what = Parcel::What::kLost, .transfer = {}});
}

// The called side is up first.
inline void World::connect(const Connect& command, bool p_calls) {
  Connection one;
  one.p_calls = p_calls;
  (p_calls ? one.at_p : one.at_d) = command.peer;
  (p_calls ? one.at_d : one.at_p) = PeerId{next_accepted_++};
  one.p_life = p_arenas_.size() - 1;
  one.open = p_calls || source_.has_value();
  const auto what = one.open ? Parcel::What::kUp : Parcel::What::kLost;
  (p_calls == one.open ? one.to_d : one.to_p).push_back({.what = what, .transfer = {}});
  connections_.push_back(std::move(one));
}

inline void World::to_p(size_t at) {
  Connection& one = connections_[at];
  const Parcel parcel = std::move(one.to_p.front());
  one.to_p.pop_front();
  if (parcel.what == Parcel::What::kUp) {
    one.up_at_p = true;
    if (!one.p_calls) one.to_d.push_back({.what = Parcel::What::kUp, .transfer = {}});
    const Flow flow = one.p_calls ? Flow::kFromCaller : Flow::kToCaller;
    source_->on_event(PeerUp{one.at_p, identity(false), Transport::kFake, true, flow}, now_);
  } else if (parcel.what == Parcel::What::kLost) {
    std::erase_if(pushes_, [&](const Push& push) { return push.peer == one.at_p; });
    if (one.up_at_p || one.p_calls) source_->on_event(PeerLost{one.at_p, {Code::kUnavailable, "lost"}}, now_);
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
    if (one.p_calls) one.to_p.push_back({.what = Parcel::What::kUp, .transfer = {}});
    tell_d(PeerUp{one.at_d, identity(true), Transport::kFake, true,
                  one.p_calls ? Flow::kFromCaller : Flow::kToCaller});
  } else if (parcel.what == Parcel::What::kLost) {
    std::erase_if(stores_, [&](const auto& entry) { return entry.second.peer == one.at_d; });
    if (one.up_at_d || !one.p_calls) tell_d(PeerLost{one.at_d, {Code::kUnavailable, "lost"}});
  } else if (parcel.what == Parcel::What::kKv || std::holds_alternative<Announce>(parcel.message)) {
    to_mover_of_d(one, parcel);
  } else {
    tell_d(Received{one.at_d, parcel.message});
  }
}

inline void World::to_mover_of_d(Connection& connection, const Parcel& parcel) {
  const auto* const announce = std::get_if<Announce>(&parcel.message);
  const TransferId transfer = announce != nullptr ? announce->transfer : parcel.transfer;
  const auto at = stores_.find(transfer);
  if (at == stores_.end() || at->second.peer != connection.at_d) return;
  const Range range =
      announce != nullptr ? range_of(*announce, announce->first, announce->end) : parcel.range;
  if (!in_order(at->second, range)) return finish_stores(transfer, false);
  if (announce != nullptr) {
    at->second.announced.emplace_back(range, *announce);
    return;
  }
  store(transfer, at->second, range, parcel.content);
  if (range.last) finish_stores(transfer, true);
}

// Announces go chunk by chunk, and within one layer by layer.
inline bool World::in_order(Stores& stores, const Range& range) const {
  const bool is_new = stores.layers == 0;
  if (range.first != stores.first || range.layer != stores.layers || range.end <= range.first) return false;
  if (!is_new && range.end != stores.end) return false;
  stores.end = range.end;
  stores.layers = static_cast<uint8_t>(range.layer + range.layers);
  if (stores.layers < bounds_.layers) return !range.last;
  stores.layers = 0;
  stores.first = range.end;
  return range.last == (range.end == bounds_.blocks);
}

// What the mover itself finds out waits for the machine; what came by the network has waited there.
inline void World::tell_d(const MoverEvent& event) {
  if (events_.empty()) return target_->on_event(event, now_);
  events_.push_back(event);
}

// `blocks` are those of the range.
inline Content World::content_of(const Blocks& arena, const Range& range,
                                 const std::vector<BlockId>& blocks) const {
  Content content{};
  for (size_t i = 0; i < blocks.size(); ++i) content[range.first + i] = arena[index(blocks[i])].content;
  return content;
}

inline void World::send_kv(size_t at) {
  const Push push = pushes_[at];
  pushes_.erase(pushes_.begin() + static_cast<ptrdiff_t>(at));
  const auto* const one = find(push.peer, &Connection::at_p);
  if (one == nullptr || !one->open) return;
  const Blocks& arena = p_arenas_.back();
  bool is_ours = true;
  for (size_t i = 0; i < push.source.size(); ++i)
    is_ours = is_ours && arena[index(push.source[i])].epoch == push.epochs[i];
  auto& way = find(push.peer, &Connection::at_p)->to_d;
  if (is_ours) {
    const Range range = range_of(push, push.move.first, push.move.end);
    way.push_back({.what = Parcel::What::kKv,
                   .transfer = push.transfer,
                   .range = range,
                   .content = content_of(arena, range, push.source)});
    return;
  }
  std::erase_if(pushes_, [&](const Push& other) { return other.transfer == push.transfer; });
  const Error error{Code::kUnavailable, "given away"};
  way.push_back(
      {.what = Parcel::What::kMessage, .message = AbortTransfer{push.transfer, error}, .transfer = {}});
  source_->on_event(MoveFailed{push.transfer, error}, now_);
}

inline void World::copy(TransferId transfer) {
  Stores& stores = stores_.at(transfer);
  const auto& [range, announce] = stores.announced.front();
  const Blocks& arena = p_arenas_.at(find(stores.peer, &Connection::at_d)->p_life);
  store(transfer, stores, range, content_of(arena, range, announce.source));
  stores.copied = true;
}

inline void World::compare_epochs(TransferId transfer) {
  Stores& stores = stores_.at(transfer);
  const auto& [range, announce] = stores.announced.front();
  const Blocks& arena = p_arenas_.at(find(stores.peer, &Connection::at_d)->p_life);
  for (size_t i = 0; i < announce.source.size(); ++i) {
    if (arena[index(announce.source[i])].epoch != announce.epochs[i]) return finish_stores(transfer, false);
  }
  if (range.last) return finish_stores(transfer, true);
  stores.announced.pop_front();
  stores.copied = false;
}

inline void World::store(TransferId transfer, const Stores& stores, const Range& range,
                         const Content& content) {
  const auto owner = static_cast<int>(number_of(transfer));
  for (size_t i = range.first; i < range.end; ++i) {
    Block& block = d_blocks_[index(stores.blocks.at(i))];
    if (block.owner != owner)
      broken(fmt::format("a store of request {} lands in a block of request {}", owner, block.owner));
    for (size_t layer = range.layer; layer < size_t{range.layer} + range.layers; ++layer)
      block.content[layer] = content[i][layer];
  }
}

inline void World::finish_stores(TransferId transfer, bool good) {
  stores_.erase(transfer);
  if (good) events_.emplace_back(Landed{transfer, 1});
  if (!good) events_.emplace_back(MoveFailed{transfer, {Code::kUnavailable, "given away"}});
}

inline void World::run_p(Command& command) {
  if (auto* const send = std::get_if<Send>(&command)) {
    auto* const one = find(send->peer, &Connection::at_p);
    if (one == nullptr || !one->open) return;
    one->to_d.push_back(
        {.what = Parcel::What::kMessage, .message = std::move(send->message), .transfer = {}});
  } else if (auto* const push = std::get_if<Push>(&command)) {
    auto* const one = find(push->peer, &Connection::at_p);
    if (one == nullptr || !one->open) return;
    if (!bounds_.local) return pushes_.push_back(std::move(*push));
    Announce announce{push->transfer, push->layers, push->move.first, push->move.end,
                      push->source,   push->epochs, push->last};
    one->to_d.push_back({.what = Parcel::What::kMessage, .message = std::move(announce), .transfer = {}});
  } else if (const auto* const stop = std::get_if<StopPush>(&command)) {
    if (!bounds_.local) stop_pushes_.push_back(stop->transfer);
  } else if (const auto* const call = std::get_if<Connect>(&command)) {
    connect(*call, true);
  } else if (const auto* const close = std::get_if<Close>(&command)) {
    if (auto* const one = find(close->peer, &Connection::at_p); one != nullptr && one->open) end(*one);
  }
}

inline void World::run_d(Command& command) {
  if (const auto* const call = std::get_if<Connect>(&command)) {
    connect(*call, false);
  } else if (const auto* const stop = std::get_if<StopStores>(&command)) {
    stop_stores_.push_back(stop->transfer);
  } else if (auto* const send = std::get_if<Send>(&command)) {
    Connection* const one = find(send->peer, &Connection::at_d);
    if (one == nullptr || !one->open) return;
    one->to_p.push_back(
        {.what = Parcel::What::kMessage, .message = std::move(send->message), .transfer = {}});
  } else if (auto* const allow = std::get_if<AllowStores>(&command)) {
    const Connection* const one = find(allow->peer, &Connection::at_d);
    if (one != nullptr && one->open) {
      const bool is_new =
          stores_
              .emplace(allow->transfer,
                       Stores{.peer = allow->peer, .blocks = std::move(allow->blocks), .announced = {}})
              .second;
      if (!is_new) broken("stores are allowed twice");
      return;
    }
    events_.emplace_back(MoveFailed{allow->transfer, {Code::kUnavailable, "gone"}});
  } else if (const auto* const close = std::get_if<Close>(&command)) {
    if (auto* const one = find(close->peer, &Connection::at_d); one != nullptr && one->open) end(*one);
  }
}

}  // namespace baton::transfer::explorer
