#include "transfer/target.h"

#include <algorithm>

#include "base/check.h"

namespace baton::transfer {

Target::Target(HandoverConfig config, const kv::KvLayout& layout, const kv::BlockEpochs& epochs)
    : config_(config),
      layout_(layout),
      epochs_(epochs),
      called_(Flow::kToCaller, PeerId{1}, config.idle_close) {}

void Target::expect(Expected expected, Time now) {
  CHECK(!transfers_.contains(expected.transfer), "transfer {} is expected twice", expected.transfer.hex());
  CHECK(expected.deadline != kNever && expected.tokens > 0, "transfer {}", expected.transfer.hex());
  Transfer transfer;
  transfer.since = now;
  transfer.lease = config_.lease;
  const bool calls = expected.flow == Flow::kToCaller;
  if (calls) transfer.peer = called_.use(expected.host, expected.port, now, commands_).id;
  const TransferId id = expected.transfer;
  transfer.expected = std::move(expected);
  const auto at = transfers_.emplace(id, std::move(transfer)).first;
  if (calls && identity_of(at->second.peer) != nullptr) begin(at, now);
}

void Target::begin(TransferMap::iterator at, Time now) {
  Transfer& transfer = at->second;
  const Identity& identity = *identity_of(transfer.peer);
  const Expected& expected = transfer.expected;
  if (expected.incarnation && expected.incarnation != identity.incarnation) {
    return fail_transfer(
        at,
        {Code::kUnavailable,
         fmt::format("{}: incarnation is {}, expected {}: it has restarted", describe(transfer),
                     identity.incarnation.hex(), expected.incarnation.hex())},
        now);
  }
  if (!expected.engine_id.empty() && expected.engine_id != identity.engine_id) {
    return fail_transfer(
        at,
        {Code::kUnavailable, fmt::format("{}: engine_id is {}, expected {}", describe(transfer),
                                         identity.engine_id, expected.engine_id)},
        now);
  }
  transfer.state = TransferState::kWaiting;
  transfer.since = now;
  tell(transfer.peer, Renew{expected.handover});
  transfer.renew_at = now + transfer.lease / 3;
  if (transfer.landing) start_moving(at, now);
}

void Target::land(TransferId id, std::vector<BlockId> blocks, uint32_t tokens_present, Time now) {
  const auto at = transfers_.find(id);
  if (at == transfers_.end() || at->second.state == TransferState::kStopping) return;
  Transfer& transfer = at->second;
  CHECK(!transfer.landing, "transfer {} has blocks already", id.hex());
  if (blocks.empty()) {
    CHECK(tokens_present == transfer.expected.tokens, "no blocks, {} of {} tokens", tokens_present,
          transfer.expected.tokens);
    if (transfer.expected.flow == Flow::kToCaller) {
      tell(transfer.peer, Taken{transfer.expected.handover, id});
      return finish(at, std::nullopt, 0, now);
    }
  } else {
    CHECK(
        tokens_present % layout_.block_tokens == 0 && blocks.size() + tokens_present / layout_.block_tokens ==
                                                          layout_.blocks_for(transfer.expected.tokens),
        "{} blocks after {} of {} tokens", blocks.size(), tokens_present, transfer.expected.tokens);
  }
  transfer.landing.emplace(std::move(blocks), tokens_present);
  if (transfer.state == TransferState::kWaiting) start_moving(at, now);
}

void Target::start_moving(TransferMap::iterator at, Time now) {
  Transfer& transfer = at->second;
  const auto& [blocks, tokens_present] = *transfer.landing;
  const Expected& expected = transfer.expected;
  std::vector<uint32_t> epochs;
  for (const BlockId block : blocks) epochs.push_back(epochs_.epoch(block));
  transfer.state = TransferState::kMoving;
  transfer.since = now;
  if (blocks.empty()) {
    transfer.landed_bytes = 0;
  } else {
    const kv::Move move = kv::move_of(tokens_present, expected.tokens,
                                      identity_of(transfer.peer)->layout.block_tokens, layout_.block_tokens);
    commands_.emplace_back(AllowStores{transfer.peer, expected.transfer, blocks, std::move(epochs), move});
  }
  tell(transfer.peer, Landing{.transfer = expected.transfer,
                              .handover = expected.handover,
                              .target_incarnation = config_.incarnation,
                              .target = blocks,
                              .tokens_present = tokens_present,
                              .tokens_total = expected.tokens,
                              .prompt_hash = expected.prompt_hash,
                              .deadline = std::max(expected.deadline - now, Duration(1))});
}

void Target::abort(TransferId id, const std::string& reason, Time now) {
  const auto at = transfers_.find(id);
  if (at == transfers_.end()) return;
  fail_transfer(at, {Code::kCancelled, fmt::format("{}: {}", describe(at->second), reason)}, now);
}

void Target::refuse(TransferId id, const Error& error, Time now) {
  const auto at = transfers_.find(id);
  const bool waits = at != transfers_.end() && at->second.expected.flow == Flow::kFromCaller &&
                     at->second.state == TransferState::kConnecting;
  if (waits) fail_transfer(at, error, now);
}

void Target::fail_transfer(TransferMap::iterator at, Error error, Time now) {
  Transfer& transfer = at->second;
  if (transfer.state == TransferState::kStopping) return;
  tell(transfer.peer, ReleaseHandover{transfer.expected.handover, error.message});
  if (transfer.state != TransferState::kMoving) return finish(at, std::move(error), 0, now);
  commands_.emplace_back(StopStores{at->first});
  transfer.state = TransferState::kStopping;
  transfer.since = now;
  transfer.error = std::move(error);
  transfer.stop_again_at = now + config_.stop_retry;
}

// The one way out of transfers_: each leaves with its outcome.
void Target::finish(TransferMap::iterator at, std::optional<Error> error, uint64_t bytes, Time now) {
  Transfer& transfer = at->second;
  Outcome outcome{.transfer = at->first,
                  .error = std::move(error),
                  .bytes = bytes,
                  .peer = describe(transfer),
                  .note = std::move(transfer.note).value_or(std::vector<std::byte>{})};
  if (const CalledPeer* const peer = called_.find(transfer.peer)) outcome.transport = peer->transport;
  if (const auto caller = callers_.find(transfer.peer); caller != callers_.end())
    outcome.transport = caller->second.transport;
  called_.end_use(transfer.peer, now);
  outcomes_.push_back(std::move(outcome));
  transfers_.erase(at);
}

void Target::on_event(const MoverEvent& event, Time now) {
  if (const auto* up = std::get_if<PeerUp>(&event)) {
    on_peer_up(*up, now);
  } else if (const auto* lost = std::get_if<PeerLost>(&event)) {
    on_peer_lost(*lost, now);
  } else if (const auto* received = std::get_if<Received>(&event)) {
    if (knows(received->peer)) on_message(received->peer, received->message, now);
  } else if (const auto* landed = std::get_if<Landed>(&event)) {
    const auto at = transfers_.find(landed->transfer);
    if (at == transfers_.end() || at->second.state != TransferState::kMoving) return;
    at->second.landed_bytes = landed->bytes;
    finish_if_whole(at, now);
  } else if (const auto* failed = std::get_if<MoveFailed>(&event)) {
    const auto at = transfers_.find(failed->transfer);
    if (at == transfers_.end() || at->second.state != TransferState::kMoving) return;
    const Error error{failed->error.code, fmt::format("{}: {}", describe(at->second), failed->error.message)};
    tell(at->second.peer, ReleaseHandover{at->second.expected.handover, error.message});
    finish(at, error, 0, now);
  } else if (const auto* stopped = std::get_if<StoresStopped>(&event)) {
    const auto at = transfers_.find(stopped->transfer);
    if (at == transfers_.end() || at->second.state != TransferState::kStopping) return;
    finish(at, std::move(at->second.error), 0, now);
  }
}

void Target::finish_if_whole(TransferMap::iterator at, Time now) {
  Transfer& transfer = at->second;
  if (!transfer.landed_bytes) return;
  if (transfer.expected.flow == Flow::kFromCaller && !transfer.note) return;
  tell(transfer.peer, Taken{transfer.expected.handover, at->first});
  finish(at, std::nullopt, *transfer.landed_bytes, now);
}

void Target::on_peer_up(const PeerUp& up, Time now) {
  if (is_accepted(up.peer) && up.flow == Flow::kFromCaller) callers_[up.peer] = up;
  if (!called_.on_up(up, commands_)) return;
  for (auto at = transfers_.begin(); at != transfers_.end();) {
    const auto next = std::next(at);
    if (at->second.peer == up.peer && at->second.state == TransferState::kConnecting) begin(at, now);
    at = next;
  }
}

void Target::on_peer_lost(const PeerLost& lost, Time now) {
  if (!knows(lost.peer)) return;
  for (auto at = transfers_.begin(); at != transfers_.end();) {
    const auto next = std::next(at);
    if (at->second.peer == lost.peer) {
      fail_transfer(at, {lost.error.code, fmt::format("{}: {}", describe(at->second), lost.error.message)},
                    now);
    }
    at = next;
  }
  called_.on_lost(lost.peer);
  callers_.erase(lost.peer);
}

bool Target::knows(PeerId peer) const { return called_.find(peer) != nullptr || callers_.contains(peer); }

const Identity* Target::identity_of(PeerId id) const {
  if (const auto caller = callers_.find(id); caller != callers_.end()) return &caller->second.identity;
  const CalledPeer* const peer = called_.find(id);
  return peer != nullptr && peer->identity ? &*peer->identity : nullptr;
}

// Who claims first is the one; the id is no secret of ours alone, but no other peer has been told it.
void Target::on_claim(PeerId peer, const Claim& claim, Time now) {
  const auto at = transfers_.find(claim.transfer);
  const bool is_free = at != transfers_.end() && at->second.expected.flow == Flow::kFromCaller &&
                       at->second.state == TransferState::kConnecting;
  if (!is_free) {
    const bool is_repeated =
        at != transfers_.end() && at->second.peer == peer && at->second.expected.handover == claim.handover;
    if (is_repeated) return;
    return tell(peer,
                ReleaseHandover{claim.handover, fmt::format("transfer {}: not expected here (any longer)",
                                                            claim.transfer.hex())});
  }
  Transfer& transfer = at->second;
  transfer.peer = peer;
  transfer.expected.handover = claim.handover;
  transfer.state = TransferState::kWaiting;
  transfer.since = now;
  if (transfer.landing) start_moving(at, now);
}

void Target::on_message(PeerId peer, const Message& message, Time now) {
  if (const auto* claim = std::get_if<Claim>(&message); claim != nullptr && callers_.contains(peer))
    return on_claim(peer, *claim, now);
  if (const auto* done = std::get_if<PrefillDone>(&message)) {
    const auto at = transfers_.find(done->transfer);
    if (at == transfers_.end() || at->second.peer != peer || at->second.state != TransferState::kMoving)
      return;
    at->second.note = done->note;
    return finish_if_whole(at, now);
  }
  if (const auto* aborted = std::get_if<AbortTransfer>(&message)) {
    const auto at = transfers_.find(aborted->transfer);
    if (at == transfers_.end() || at->second.peer != peer) return;
    fail_transfer(
        at, {aborted->error.code, fmt::format("{}: {}", describe(at->second), aborted->error.message)}, now);
    return;
  }
  const auto* ended = std::get_if<HandoverEnded>(&message);
  const auto* renewed = std::get_if<Renewed>(&message);
  for (auto at = transfers_.begin(); at != transfers_.end();) {
    const auto next = std::next(at);
    Transfer& transfer = at->second;
    if (transfer.peer == peer && ended != nullptr && transfer.expected.handover == ended->handover) {
      fail_transfer(at, {ended->error.code, fmt::format("{}: {}", describe(transfer), ended->error.message)},
                    now);
    } else if (transfer.peer == peer && renewed != nullptr &&
               transfer.expected.handover == renewed->handover) {
      transfer.lease = std::max(renewed->lease, Duration(std::chrono::milliseconds(3)));
      if (transfer.renew_at != kNever)
        transfer.renew_at = std::min(transfer.renew_at, now + transfer.lease / 3);
    }
    at = next;
  }
}

void Target::on_time(Time now) {
  for (auto at = transfers_.begin(); at != transfers_.end();) {
    const auto next = std::next(at);
    Transfer& transfer = at->second;
    if (transfer.state == TransferState::kStopping) {
      if (now >= transfer.stop_again_at) {
        commands_.emplace_back(StopStores{at->first});
        transfer.stop_again_at = now + config_.stop_retry;
      }
    } else if (now >= transfer.expected.deadline) {
      fail_transfer(at,
                    {Code::kTimeout, fmt::format("{}: the deadline passed while {}", describe(transfer),
                                                 transfer_state_name(transfer.state))},
                    now);
    } else if (now >= transfer.renew_at) {
      tell(transfer.peer, Renew{transfer.expected.handover});
      transfer.renew_at = now + transfer.lease / 3;
    }
    at = next;
  }
  called_.on_time(now, commands_);
}

Time Target::next_deadline() const {
  Time next = called_.next_deadline();
  for (const auto& [id, transfer] : transfers_) {
    if (transfer.state == TransferState::kStopping) {
      next = std::min(next, transfer.stop_again_at);
    } else {
      next = std::min({next, transfer.expected.deadline, transfer.renew_at});
    }
  }
  return next;
}

void Target::tell(PeerId id, Message message) {
  if (callers_.contains(id)) {
    commands_.emplace_back(Send{id, std::move(message)});
  } else {
    called_.tell(id, std::move(message), commands_);
  }
}

std::string Target::describe(const Transfer& transfer) const {
  const Identity* const identity = identity_of(transfer.peer);
  if (transfer.expected.flow == Flow::kFromCaller)
    return identity == nullptr ? "no prefill peer" : fmt::format("prefill peer ({})", identity->engine_id);
  const std::string where = fmt::format("prefill peer {}:{}", transfer.expected.host, transfer.expected.port);
  return identity == nullptr ? where : fmt::format("{} ({})", where, identity->engine_id);
}

std::vector<Command> Target::take_commands() { return std::exchange(commands_, {}); }
std::vector<Outcome> Target::take_outcomes() { return std::exchange(outcomes_, {}); }

std::vector<TransferSnapshot> Target::snapshot() const {
  std::vector<TransferSnapshot> all;
  for (const auto& [id, transfer] : transfers_) {
    all.push_back({.transfer = id,
                   .handover = transfer.expected.handover,
                   .state = transfer.state,
                   .peer = transfer.expected.flow == Flow::kToCaller
                               ? fmt::format("{}:{}", transfer.expected.host, transfer.expected.port)
                               : describe(transfer),
                   .blocks = static_cast<uint32_t>(transfer.landing ? transfer.landing->first.size() : 0),
                   .since = transfer.since,
                   .until = transfer.expected.deadline});
  }
  return all;
}

void Target::write_state(Writer& to, Time now) const {
  for (const auto& [id, transfer] : transfers_) {
    to.raw(id.bytes);
    to.raw(transfer.expected.handover.bytes);
    to.raw(transfer.expected.incarnation.bytes);
    to.number(static_cast<uint8_t>(transfer.state));
    to.number(value(transfer.peer));
    for (const BlockId block : transfer.landing ? transfer.landing->first : std::vector<BlockId>{})
      to.number(index(block));
    to.number(transfer.landing ? transfer.landing->second : UINT32_MAX);
    to.number(transfer.lease.count());
    to.number(static_cast<uint8_t>(transfer.error ? transfer.error->code : Code::kInvalid));
    to.number(static_cast<uint8_t>((transfer.landed_bytes ? 1 : 0) + (transfer.note ? 2 : 0)));
    for (const Time time : {transfer.expected.deadline, transfer.renew_at, transfer.stop_again_at})
      to.number(time == kNever ? time.since_start.count() : (time - now).count());
  }
  called_.write_state(to, now);
  for (const auto& [id, up] : callers_) {
    to.number(value(id));
    to.raw(up.identity.incarnation.bytes);
  }
}

}  // namespace baton::transfer
