#include "transfer/source.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace baton::transfer {

Source::Source(HandoverConfig config, const kv::KvLayout& layout, const kv::BlockEpochs& epochs)
    : config_(config), layout_(layout), epochs_(epochs) {}

void Source::hold(Hold hold, Time now) {
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

bool Source::release(HandoverId id, const std::string& reason) {
  const auto at = held_.find(id);
  if (at == held_.end()) return false;
  end(at, HoldEnd::kReleasedHere, reason);
  return true;
}

void Source::on_event(const MoverEvent& event, Time now) {
  if (const auto* up = std::get_if<PeerUp>(&event); up != nullptr && is_accepted(up->peer)) {
    peers_[up->peer] = up->identity;
  } else if (const auto* lost = std::get_if<PeerLost>(&event); lost != nullptr && is_accepted(lost->peer)) {
    on_peer_lost(lost->peer, lost->error);
  } else if (const auto* received = std::get_if<Received>(&event);
             received != nullptr && is_accepted(received->peer)) {
    on_message(received->peer, received->message, now);
  } else if (const auto* progress = std::get_if<PushProgress>(&event)) {
    const auto at = find_transfer(progress->transfer);
    if (at != held_.end() && at->second.peer == progress->peer) at->second.lease_until = now + config_.lease;
  } else if (const auto* failed = std::get_if<MoveFailed>(&event)) {
    const auto at = find_transfer(failed->transfer);
    if (at != held_.end()) end(at, HoldEnd::kFailed, failed->error.message);
  }
}

void Source::on_message(PeerId peer, const Message& message, Time now) {
  if (!peers_.contains(peer)) return;
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
                                                         peers_[held.peer].engine_id)}});
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
  const Identity& identity = peers_.at(peer);
  const uint32_t target_tokens = identity.layout.block_tokens;
  if (held.state != HeldState::kWaiting && held.peer != peer)
    return refuse(Code::kDenied, "peer", identity.engine_id, peers_.at(held.peer).engine_id);
  if (held.state == HeldState::kMoving)
    return refuse(Code::kExhausted, "transfer", landing.transfer.hex(), held.landing.transfer.hex());
  if (moving_.contains(landing.transfer)) return refuse(Code::kInvalid, "transfer", "in use", "a new one");
  if (landing.target_incarnation != identity.incarnation) {
    return refuse(Code::kInvalid, "target incarnation", landing.target_incarnation.hex(),
                  identity.incarnation.hex());
  }
  if (landing.tokens_total != held.hold.tokens)
    return refuse(Code::kInvalid, "tokens_total", landing.tokens_total, held.hold.tokens);
  if (landing.prompt_hash != held.hold.prompt_hash)
    return refuse(Code::kInvalid, "prompt_hash", landing.prompt_hash, held.hold.prompt_hash);
  if (landing.tokens_present >= held.hold.tokens || landing.tokens_present % target_tokens != 0) {
    return refuse(Code::kInvalid, "tokens_present", landing.tokens_present,
                  fmt::format("a multiple of {} below {}", target_tokens, held.hold.tokens));
  }
  const size_t blocks = move_to(peer, landing).target_blocks();
  if (landing.target.size() != blocks)
    return refuse(Code::kInvalid, "target blocks", landing.target.size(), blocks);
  if (landing.deadline <= Duration(0))
    return refuse(Code::kTimeout, "deadline", landing.deadline.count(), "a positive duration");
  return {};
}

kv::Move Source::move_to(PeerId peer, const Landing& landing) const {
  return kv::move_of(landing.tokens_present, landing.tokens_total, layout_.block_tokens,
                     peers_.at(peer).layout.block_tokens);
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
  if (held.state == HeldState::kMoving && held.peer == peer && held.landing == landing) return;
  if (auto checked = check_landing(peer, landing, held); !checked) {
    send(peer, AbortTransfer{landing.transfer, checked.error()});
    return;
  }
  held.state = HeldState::kMoving;
  held.since = now;
  held.peer = peer;
  held.landing = landing;
  held.lease_until = now + config_.lease;
  held.move_until = now + landing.deadline;
  moving_.emplace(landing.transfer, landing.handover);
  const auto first = static_cast<ptrdiff_t>(landing.tokens_present / layout_.block_tokens);
  commands_.emplace_back(Push{.peer = peer,
                              .transfer = landing.transfer,
                              .layers = {0, layout_.layers},
                              .source = {held.hold.blocks.begin() + first, held.hold.blocks.end()},
                              .epochs = {held.epochs.begin() + first, held.epochs.end()},
                              .move = move_to(peer, landing),
                              .last = true});
}

void Source::on_peer_lost(PeerId peer, const Error& error) {
  for (auto at = held_.begin(); at != held_.end();) {
    const auto next = std::next(at);
    if (at->second.state != HeldState::kWaiting && at->second.peer == peer)
      end(at, HoldEnd::kPeerLost, error.message);
    at = next;
  }
  peers_.erase(peer);
}

void Source::on_time(Time now) {
  for (auto at = held_.begin(); at != held_.end();) {
    const auto next = std::next(at);
    if (now >= at->second.lease_until) {
      end(at, HoldEnd::kExpired, fmt::format("lease of {} s passed", seconds(config_.lease)));
    } else if (now >= at->second.move_until) {
      end(at, HoldEnd::kExpired, "the deadline of the landing passed");
    }
    at = next;
  }
}

Time Source::next_deadline() const {
  Time next = kNever;
  for (const auto& [id, held] : held_) next = std::min({next, held.lease_until, held.move_until});
  return next;
}

// The one way out of held_: blocks leave here and nowhere else.
void Source::end(HeldMap::iterator at, HoldEnd end, const std::string& reason) {
  Held& held = at->second;
  const bool peer_must_know =
      end != HoldEnd::kTaken && end != HoldEnd::kReleasedByPeer && end != HoldEnd::kPeerLost;
  const Code code = end == HoldEnd::kExpired ? Code::kTimeout : Code::kCancelled;
  if (held.state == HeldState::kMoving) {
    commands_.emplace_back(StopPush{held.landing.transfer});
    moving_.erase(held.landing.transfer);
    if (peer_must_know) send(held.peer, AbortTransfer{held.landing.transfer, {code, reason}});
  } else if (held.state == HeldState::kClaimed && peer_must_know) {
    send(held.peer,
         HandoverEnded{at->first, {code, fmt::format("hand-over {}: {}", at->first.hex(), reason)}});
  }
  held_blocks_ -= held.hold.blocks.size();
  released_.push_back({at->first, std::move(held.hold.blocks), end, reason});
  held_.erase(at);
}

Source::HeldMap::iterator Source::find_transfer(TransferId transfer) {
  const auto at = moving_.find(transfer);
  return at == moving_.end() ? held_.end() : held_.find(at->second);
}

void Source::send(PeerId peer, Message message) { commands_.emplace_back(Send{peer, std::move(message)}); }

std::vector<Command> Source::take_commands() { return std::exchange(commands_, {}); }
std::vector<ReleasedHold> Source::take_released() { return std::exchange(released_, {}); }

std::vector<HeldSnapshot> Source::snapshot() const {
  std::vector<HeldSnapshot> all;
  for (const auto& [id, held] : held_) {
    const auto peer = peers_.find(held.peer);
    all.push_back({.handover = id,
                   .state = held.state,
                   .peer = peer == peers_.end() ? "" : peer->second.engine_id,
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
    for (const Time time : {held.lease_until, held.move_until})
      to.number(time == kNever ? time.since_start.count() : (time - now).count());
  }
  for (const auto& [id, identity] : peers_) {
    to.number(value(id));
    to.raw(identity.incarnation.bytes);
  }
}

}  // namespace baton::transfer
