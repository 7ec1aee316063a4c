#include "transfer/source.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace baton::transfer {

Source::Source(HandoverConfig config, const kv::KvLayout& layout, const kv::BlockEpochs& epochs)
    : config_(config),
      layout_(layout),
      epochs_(epochs),
      called_(Flow::kFromCaller, PeerId{kCalledDecodePeers}, config.idle_close) {}

void Source::hold(Hold hold, Time now) {
  now_ = now;
  CHECK(!held_.contains(hold.id), "hand-over {} is held twice", hold.id.hex());
  CHECK(hold.tokens > 0 && hold.blocks.size() == layout_.blocks_for(hold.tokens), "{} blocks for {} tokens",
        hold.blocks.size(), hold.tokens);
  Held held;
  for (const BlockId block : hold.blocks) held.epochs.push_back(epochs_.epoch(block));
  held.since = now;
  held.lease_until = now + config_.lease;
  held_blocks_ += hold.blocks.size();
  const HandoverId id = hold.id;
  held.hold = std::move(hold);
  held_.emplace(id, std::move(held));
}

void Source::promise(Promise promise, Time now) {
  now_ = now;
  CHECK(!held_.contains(promise.id), "hand-over {} is held twice", promise.id.hex());
  CHECK(promise.tokens > 0 && promise.deadline != kNever, "hand-over {}", promise.id.hex());
  Held held;
  held.state = HeldState::kPromised;
  held.hold.id = promise.id;
  held.hold.tokens = promise.tokens;
  held.hold.prompt_hash = promise.prompt_hash;
  held.since = now;
  held.move_until = promise.deadline;
  held.peer = called_.use(promise.host, promise.port, now, commands_).id;
  const HandoverId id = promise.id;
  const Claim claim{promise.transfer, id};
  const PeerId peer = held.peer;
  const bool is_up = identity_of(peer) != nullptr;
  held.promise = std::move(promise);
  held_.emplace(id, std::move(held));
  send(peer, claim);
  if (is_up) check_promises(peer);
}

// A promise names the life of D that it was made to.
void Source::check_promises(PeerId peer) {
  const Identity& identity = *identity_of(peer);
  for (auto at = held_.begin(); at != held_.end();) {
    const auto next = std::next(at);
    const Promise& promise = at->second.promise;
    if (at->second.state == HeldState::kPromised && at->second.peer == peer) {
      if (promise.incarnation && promise.incarnation != identity.incarnation) {
        end(at, HoldEnd::kFailed,
            fmt::format("decode peer {}:{}: incarnation is {}, expected {}: it has restarted", promise.host,
                        promise.port, identity.incarnation.hex(), promise.incarnation.hex()));
      } else if (!promise.engine_id.empty() && promise.engine_id != identity.engine_id) {
        end(at, HoldEnd::kFailed,
            fmt::format("decode peer {}:{}: engine_id is {}, expected {}", promise.host, promise.port,
                        identity.engine_id, promise.engine_id));
      }
    }
    at = next;
  }
}

// A chunk keeps its end until all layers of it are announced, also if the pass that began it was interrupted
// and the next one covers other positions.
void Source::on_layer(HandoverId id, std::span<const BlockId> blocks, uint32_t layer, uint32_t end) {
  const auto at = held_.find(id);
  if (at == held_.end() || at->second.state != HeldState::kFilling) return;
  Held& held = at->second;
  if (held.landing.target.empty()) return;
  const kv::Move all = move_to(held.peer, held.landing);
  const uint32_t ready = end == held.hold.tokens ? all.end : end / all.target_tokens * all.target_tokens;
  const uint32_t layers = layout_.layers;
  if (ready <= held.chunk_first) return;
  if (held.layers_announced == 0) held.chunk_end = ready;
  if (ready < held.chunk_end || layer < held.layers_announced) return;
  announce(held, blocks, {held.layers_announced, layer + 1 - held.layers_announced}, held.chunk_end);
  if (layer + 1 == layers && ready > held.chunk_first) announce(held, blocks, {0, layers}, ready);
}

void Source::announce(Held& held, std::span<const BlockId> blocks, LayerRange layers, uint32_t end) {
  const kv::Move all = move_to(held.peer, held.landing);
  const kv::Move move{held.chunk_first, end, all.source_tokens, all.target_tokens};
  const size_t first = move.first / move.source_tokens;
  const std::span<const BlockId> source = blocks.subspan(first, move.source_blocks());
  // Of held blocks those of the moment when they were held.
  std::vector<uint32_t> epochs;
  for (size_t i = 0; i < source.size(); ++i)
    epochs.push_back(held.epochs.empty() ? epochs_.epoch(source[i]) : held.epochs[first + i]);
  held.layers_announced = layers.first + layers.count;
  const bool is_whole = held.layers_announced == layout_.layers;
  commands_.emplace_back(Push{.peer = held.peer,
                              .transfer = held.landing.transfer,
                              .layers = layers,
                              .source = {source.begin(), source.end()},
                              .epochs = std::move(epochs),
                              .move = move,
                              .last = is_whole && end == all.end});
  if (!is_whole) return;
  held.chunk_first = end;
  held.layers_announced = 0;
}

bool Source::finish(HandoverId id, std::vector<BlockId> blocks, std::vector<std::byte> note, Time now) {
  const auto at = held_.find(id);
  if (at == held_.end()) return false;
  Held& held = at->second;
  CHECK(held.state == HeldState::kFilling, "hand-over {} is {}", id.hex(), held_state_name(held.state));
  CHECK(held.landing.target.empty() || held.chunk_first == move_to(held.peer, held.landing).end,
        "hand-over {}: {} positions are announced", id.hex(), held.chunk_first);
  CHECK(blocks.size() == layout_.blocks_for(held.hold.tokens), "{} blocks", blocks.size());
  for (const BlockId block : blocks) held.epochs.push_back(epochs_.epoch(block));
  held_blocks_ += blocks.size();
  held.hold.blocks = std::move(blocks);
  held.state = HeldState::kMoving;
  held.since = now;
  held.lease_until = now + config_.lease;
  send(held.peer, PrefillDone{held.landing.transfer, std::move(note)});
  return true;
}

bool Source::release(HandoverId id, const std::string& reason) {
  const auto at = held_.find(id);
  if (at == held_.end()) return false;
  end(at, HoldEnd::kReleasedHere, reason);
  return true;
}

void Source::on_event(const MoverEvent& event, Time now) {
  now_ = now;
  if (const auto* up = std::get_if<PeerUp>(&event)) {
    on_peer_up(*up);
  } else if (const auto* lost = std::get_if<PeerLost>(&event)) {
    if (knows(lost->peer)) on_peer_lost(lost->peer, lost->error);
  } else if (const auto* received = std::get_if<Received>(&event)) {
    if (knows(received->peer)) on_message(received->peer, received->message, now);
  } else if (const auto* progress = std::get_if<PushProgress>(&event)) {
    const auto at = find_transfer(progress->transfer);
    const bool counts =
        at != held_.end() && at->second.peer == progress->peer && at->second.state == HeldState::kMoving;
    if (counts) at->second.lease_until = now + config_.lease;
  } else if (const auto* failed = std::get_if<MoveFailed>(&event)) {
    const auto at = find_transfer(failed->transfer);
    if (at != held_.end()) end(at, HoldEnd::kFailed, failed->error.message);
  }
}

void Source::on_peer_up(const PeerUp& up) {
  if (is_accepted(up.peer) && up.flow == Flow::kToCaller) callers_[up.peer] = up.identity;
  if (called_.on_up(up, commands_)) check_promises(up.peer);
}

bool Source::knows(PeerId peer) const { return callers_.contains(peer) || called_.find(peer) != nullptr; }

const Identity* Source::identity_of(PeerId id) const {
  if (const auto caller = callers_.find(id); caller != callers_.end()) return &caller->second;
  const CalledPeer* const peer = called_.find(id);
  return peer != nullptr && peer->identity ? &*peer->identity : nullptr;
}

void Source::on_message(PeerId peer, const Message& message, Time now) {
  if (const auto* renew = std::get_if<Renew>(&message)) {
    on_renew(peer, *renew, now);
  } else if (const auto* landing = std::get_if<Landing>(&message)) {
    on_landing(peer, *landing, now);
  } else if (const auto* taken = std::get_if<Taken>(&message)) {
    const auto at = held_.find(taken->handover);
    if (at == held_.end()) return;
    if (at->second.state != HeldState::kWaiting && at->second.peer != peer) return;
    end(at, HoldEnd::kTaken, "taken");
  } else if (const auto* release = std::get_if<ReleaseHandover>(&message)) {
    const auto at = held_.find(release->handover);
    if (at == held_.end()) return;
    if (at->second.state != HeldState::kWaiting && at->second.peer != peer) return;
    end(at, HoldEnd::kReleasedByPeer, release->reason);
  }
}

void Source::on_renew(PeerId peer, const Renew& renew, Time now) {
  const auto at = held_.find(renew.handover);
  if (at == held_.end()) {
    send(peer, HandoverEnded{renew.handover,
                             {Code::kNotFound, fmt::format("hand-over {}: not held here (any longer)",
                                                           renew.handover.hex())}});
    return;
  }
  Held& held = at->second;
  if (held.state != HeldState::kWaiting && held.peer != peer) {
    send(peer, HandoverEnded{renew.handover,
                             {Code::kDenied, fmt::format("hand-over {}: claimed by {}", renew.handover.hex(),
                                                         identity_of(held.peer)->engine_id)}});
    return;
  }
  if (held.state == HeldState::kWaiting) {
    held.state = HeldState::kClaimed;
    held.since = now;
    held.peer = peer;
  }
  held.lease_until = now + config_.lease;
  send(peer, Renewed{renew.handover, config_.lease});
}

Result<void> Source::check_landing(PeerId peer, const Landing& landing, const Held& held) const {
  const auto refuse = [&](Code code, std::string_view field, const auto& value, const auto& expected) {
    return fail(code, fmt::format("transfer {} of hand-over {}: {} is {}, expected {}",
                                  landing.transfer.hex(), landing.handover.hex(), field, value, expected));
  };
  const Identity& identity = *identity_of(peer);
  const uint32_t target_tokens = identity.layout.block_tokens;
  if (held.state != HeldState::kWaiting && held.peer != peer)
    return refuse(Code::kDenied, "peer", identity.engine_id, identity_of(held.peer)->engine_id);
  if (held.state == HeldState::kMoving || held.state == HeldState::kFilling)
    return refuse(Code::kExhausted, "transfer", landing.transfer.hex(), held.landing.transfer.hex());
  if (moving_.contains(landing.transfer)) return refuse(Code::kInvalid, "transfer", "in use", "a new one");
  const bool is_promised = held.state == HeldState::kPromised;
  if (is_promised && landing.transfer != held.promise.transfer)
    return refuse(Code::kInvalid, "transfer", landing.transfer.hex(), held.promise.transfer.hex());
  if (landing.target_incarnation != identity.incarnation) {
    return refuse(Code::kInvalid, "target incarnation", landing.target_incarnation.hex(),
                  identity.incarnation.hex());
  }
  if (landing.tokens_total != held.hold.tokens)
    return refuse(Code::kInvalid, "tokens_total", landing.tokens_total, held.hold.tokens);
  if (landing.prompt_hash != held.hold.prompt_hash)
    return refuse(Code::kInvalid, "prompt_hash", landing.prompt_hash, held.hold.prompt_hash);
  // Nothing to move: only the first tokens are wanted.
  const bool has_all = is_promised && landing.tokens_present == held.hold.tokens;
  if (!has_all &&
      (landing.tokens_present >= held.hold.tokens || landing.tokens_present % target_tokens != 0)) {
    return refuse(Code::kInvalid, "tokens_present", landing.tokens_present,
                  fmt::format("a multiple of {} below {}", target_tokens, held.hold.tokens));
  }
  const size_t blocks = has_all ? 0 : move_to(peer, landing).target_blocks();
  if (landing.target.size() != blocks)
    return refuse(Code::kInvalid, "target blocks", landing.target.size(), blocks);
  if (landing.deadline <= Duration(0))
    return refuse(Code::kTimeout, "deadline", landing.deadline.count(), "a positive duration");
  return {};
}

kv::Move Source::move_to(PeerId peer, const Landing& landing) const {
  return kv::move_of(landing.tokens_present, landing.tokens_total, layout_.block_tokens,
                     identity_of(peer)->layout.block_tokens);
}

void Source::on_landing(PeerId peer, const Landing& landing, Time now) {
  const auto at = held_.find(landing.handover);
  if (at == held_.end()) {
    send(peer, AbortTransfer{landing.transfer,
                             {Code::kNotFound, fmt::format("hand-over {}: not held here (any longer)",
                                                           landing.handover.hex())}});
    return;
  }
  Held& held = at->second;
  if (moving_.contains(landing.transfer) && held.peer == peer && held.landing == landing) return;
  if (auto checked = check_landing(peer, landing, held); !checked) {
    if (held.state == HeldState::kPromised) return end(at, HoldEnd::kFailed, checked.error().message);
    send(peer, AbortTransfer{landing.transfer, checked.error()});
    return;
  }
  const bool is_promised = held.state == HeldState::kPromised;
  held.state = is_promised ? HeldState::kFilling : HeldState::kMoving;
  held.since = now;
  held.peer = peer;
  held.landing = landing;
  held.move_until = now + landing.deadline;
  moving_.emplace(landing.transfer, landing.handover);
  held.chunk_first = landing.tokens_present;
  if (is_promised) {
    ready_.push_back(landing.handover);
    return;
  }
  held.lease_until = now + config_.lease;
  announce(held, held.hold.blocks, {0, layout_.layers}, move_to(peer, landing).end);
}

void Source::on_peer_lost(PeerId peer, const Error& error) {
  for (auto at = held_.begin(); at != held_.end();) {
    const auto next = std::next(at);
    if (at->second.state != HeldState::kWaiting && at->second.peer == peer)
      end(at, HoldEnd::kPeerLost, error.message);
    at = next;
  }
  callers_.erase(peer);
  called_.on_lost(peer);
}

void Source::on_time(Time now) {
  now_ = now;
  for (auto at = held_.begin(); at != held_.end();) {
    const auto next = std::next(at);
    if (now >= at->second.lease_until) {
      end(at, HoldEnd::kExpired, fmt::format("lease of {} s passed", seconds(config_.lease)));
    } else if (now >= at->second.move_until) {
      end(at, HoldEnd::kExpired,
          at->second.state == HeldState::kPromised ? "no Landing of the decode peer came in time"
                                                   : "the deadline of the landing passed");
    }
    at = next;
  }
  called_.on_time(now, commands_);
}

Time Source::next_deadline() const {
  Time next = called_.next_deadline();
  for (const auto& [id, held] : held_) next = std::min({next, held.lease_until, held.move_until});
  return next;
}

// The one way out of held_: blocks leave here and nowhere else.
void Source::end(HeldMap::iterator at, HoldEnd end, const std::string& reason) {
  Held& held = at->second;
  const bool peer_must_know =
      end != HoldEnd::kTaken && end != HoldEnd::kReleasedByPeer && end != HoldEnd::kPeerLost;
  const Code code = end == HoldEnd::kExpired ? Code::kTimeout : Code::kCancelled;
  if (held.state == HeldState::kMoving || held.state == HeldState::kFilling) {
    commands_.emplace_back(StopPush{held.landing.transfer});
    moving_.erase(held.landing.transfer);
    if (peer_must_know) send(held.peer, AbortTransfer{held.landing.transfer, {code, reason}});
  } else if (held.state == HeldState::kPromised) {
    if (peer_must_know) send(held.peer, AbortTransfer{held.promise.transfer, {code, reason}});
  } else if (held.state == HeldState::kClaimed && peer_must_know) {
    send(held.peer,
         HandoverEnded{at->first, {code, fmt::format("hand-over {}: {}", at->first.hex(), reason)}});
  }
  called_.end_use(held.peer, now_);
  held_blocks_ -= held.hold.blocks.size();
  released_.push_back({at->first, std::move(held.hold.blocks), end, reason});
  held_.erase(at);
}

Source::HeldMap::iterator Source::find_transfer(TransferId transfer) {
  const auto at = moving_.find(transfer);
  return at == moving_.end() ? held_.end() : held_.find(at->second);
}

void Source::send(PeerId peer, Message message) {
  if (callers_.contains(peer)) {
    commands_.emplace_back(Send{peer, std::move(message)});
  } else {
    called_.tell(peer, std::move(message), commands_);
  }
}

std::vector<Command> Source::take_commands() { return std::exchange(commands_, {}); }
std::vector<ReleasedHold> Source::take_released() { return std::exchange(released_, {}); }

std::vector<HeldSnapshot> Source::snapshot() const {
  std::vector<HeldSnapshot> all;
  for (const auto& [id, held] : held_) {
    const Identity* const peer = identity_of(held.peer);
    all.push_back({.handover = id,
                   .state = held.state,
                   .peer = peer == nullptr ? "" : peer->engine_id,
                   .blocks = static_cast<uint32_t>(held.hold.blocks.size()),
                   .tokens = held.hold.tokens,
                   .since = held.since,
                   .expires_at = std::min(held.lease_until, held.move_until)});
  }
  return all;
}

void Source::write_state(Writer& to, Time now) const {
  for (const auto& [id, held] : held_) {
    to.raw(id.bytes);
    to.number(static_cast<uint8_t>(held.state));
    to.number(value(held.peer));
    for (size_t i = 0; i < held.epochs.size(); ++i) {
      to.number(index(held.hold.blocks[i]));
      to.number(held.epochs[i]);
    }
    to.number(held.hold.tokens);
    to.text(held.hold.prompt_hash, kTextBytesMax);
    for (const std::byte byte : encode(Message(held.landing))) to.number(static_cast<uint8_t>(byte));
    to.raw(held.promise.transfer.bytes);
    for (const uint32_t number : {held.chunk_first, held.chunk_end, held.layers_announced}) to.number(number);
    for (const Time time : {held.lease_until, held.move_until})
      to.number(time == kNever ? time.since_start.count() : (time - now).count());
  }
  for (const auto& [id, identity] : callers_) {
    to.number(value(id));
    to.raw(identity.incarnation.bytes);
  }
  called_.write_state(to, now);
}

}  // namespace baton::transfer
