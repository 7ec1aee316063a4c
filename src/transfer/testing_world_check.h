// For tests: what must hold in the world of testing_world.h, and the world as bytes. Its last lines include
// this.
#pragma once

#include <xxhash.h>

#include "transfer/testing_world.h"

namespace baton::transfer::explorer {

// What must hold at every moment.
inline void World::check() {
  for (const auto& [transfer, stores] : stores_) {
    for (const BlockId block : stores.blocks) {
      if (d_blocks_[index(block)].owner != static_cast<int>(number_of(transfer)))
        broken(fmt::format("stores of request {} are allowed into a block that it has lost",
                           number_of(transfer)));
    }
  }
  if (source_) {
    size_t held = 0;
    for (const auto& [number, hold] : holds_) held += hold.is_held ? hold.blocks.size() : 0;
    if (source_->held_blocks() != held) broken("P's blocks and holds do not agree");
    if (source_->size() != holds_.size()) broken("P's machine and engine do not agree on what is held");
    if (source_->size() > 0 && source_->next_deadline() == kNever) broken("P waits without a deadline");
    for (const HeldSnapshot& one : source_->snapshot()) {
      const bool has_called = one.state != HeldState::kWaiting && one.state != HeldState::kPromised;
      if (has_called && one.peer.empty()) broken("P holds blocks for a peer that is gone");
    }
  }
  if (target_->size() > 0 && target_->next_deadline() == kNever) broken("D waits without a deadline");
}

inline void World::drain() {
  constexpr int kStepsMax = 1000;
  faults_ = 0;
  bounds_.requests = kRequests;
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
  if (free_blocks(p_arenas_.back()) != kBlocks || free_blocks(d_blocks_) != kBlocks)
    broken("a block has not come back");
  for (const Request& request : requests_) {
    if (request.expected && request.outcomes != 1) broken("a request has no outcome");
  }
}

inline void write_message(Writer& to, const Message& message) {
  for (const std::byte byte : encode(message)) to.number(static_cast<uint8_t>(byte));
}
inline void write_range(Writer& to, const Range& range) {
  for (const uint8_t part : {range.first, range.end, range.layer, range.layers}) to.number(part);
}
inline void write_blocks(Writer& to, const std::vector<BlockId>& blocks) {
  to.number(static_cast<uint8_t>(blocks.size()));
  for (const BlockId block : blocks) to.number(static_cast<uint8_t>(index(block)));
}
inline void write_arena(Writer& to, const Blocks& all) {
  for (const Block& one : all) {
    to.number(one.epoch);
    to.number(static_cast<uint8_t>(one.owner));
    for (const int content : one.content) to.number(static_cast<uint8_t>(content));
  }
}

inline void World::write_connections(Writer& to) const {
  const auto parcels = [&](const std::deque<Parcel>& all) {
    to.number(static_cast<uint8_t>(all.size()));
    for (const Parcel& one : all) {
      to.number(static_cast<uint8_t>(one.what));
      if (one.what == Parcel::What::kMessage) write_message(to, one.message);
      if (one.what != Parcel::What::kKv) continue;
      to.raw(one.transfer.bytes);
      write_range(to, one.range);
      for (const auto& block : one.content)
        for (const int content : block) to.number(static_cast<uint8_t>(content));
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
}

inline void World::write_movers(Writer& to) const {
  for (const Push& one : pushes_) {
    to.raw(one.transfer.bytes);
    to.number(value(one.peer));
    write_range(to, range_of(one, one.move.first, one.move.end));
    write_blocks(to, one.source);
    for (const uint32_t epoch : one.epochs) to.number(epoch);
  }
  to.number(uint8_t{0xA0});
  for (const TransferId one : stop_pushes_) to.raw(one.bytes);
  to.number(uint8_t{0xA1});
  for (const auto& [transfer, one] : stores_) {
    to.raw(transfer.bytes);
    to.number(value(one.peer));
    write_blocks(to, one.blocks);
    for (const uint8_t part : {one.first, one.end, one.layers}) to.number(part);
    for (const auto& [range, announce] : one.announced) write_message(to, announce);
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
      write_message(to, one->message);
    }
  }
}

inline uint64_t World::key() const {
  Writer to;
  to.number(static_cast<uint8_t>(faults_));
  to.number(static_cast<uint8_t>(ticks_));
  to.number(static_cast<uint8_t>((source_ ? 1 : 0) + (p_stopped_ ? 2 : 0) + (d_stopped_ ? 4 : 0)));
  if (source_) source_->write_state(to, now_);
  target_->write_state(to, now_);
  for (const Blocks& arena : p_arenas_) write_arena(to, arena);
  write_arena(to, d_blocks_);
  to.number(d_life_);
  write_connections(to);
  write_movers(to);
  for (const Request& one : requests_) {
    to.number(static_cast<uint8_t>((one.arrived ? 1 : 0) + (one.expected ? 2 : 0) + (one.left ? 4 : 0) +
                                   (one.reserved ? 8 : 0)));
    to.number(one.reserved_by);
    to.number(one.asks);
    write_blocks(to, one.d_blocks);
    to.number(static_cast<uint8_t>(one.outcomes));
  }
  for (const auto& [number, one] : holds_) {
    to.number(number);
    to.number(static_cast<uint8_t>((one.ready ? 1 : 0) + (one.is_held ? 2 : 0)));
    write_blocks(to, one.blocks);
    for (const uint8_t part : {one.computed, one.pass_end, one.layer}) to.number(part);
  }
  const std::vector<std::byte> bytes = to.take();
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace baton::transfer::explorer
