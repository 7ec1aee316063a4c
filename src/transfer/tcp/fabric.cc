// KV bytes through UCX (ucx/fabric.h) instead of frames. P writes, flushes, and then says Pushed.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "base/check.h"
#include "base/log.h"
#include "transfer/tcp/socket_mover.h"

namespace baton::transfer::tcp {
namespace {

constexpr uint64_t kKeyFabric = (uint64_t{1} << 62) + 3;

}  // namespace

Result<void> SocketMover::create_fabric() {
  const bool has_device = ucx::has_active_device();
  const bool is_wanted = config_.choice == TransportChoice::kUcx;
  if (config_.tls && is_wanted)
    return fail(Code::kInvalid, "--kv-transport ucx: UCX does not encrypt, expected no TLS beside it");
  if (config_.tls) return {};
  if (!is_wanted && (config_.choice != TransportChoice::kAuto || !has_device || !config_.secret)) return {};
  auto fabric = ucx::Fabric::create(
      arena_, config_.ucx_transports.empty() ? ucx::choose_transports(has_device) : config_.ucx_transports);
  if (!fabric && is_wanted) return Failure(fabric.error());
  if (!fabric) {
    log_warning("transfer", fmt::format("{}; KV travels by tcp", fabric.error().message));
    return {};
  }
  if (!has_device) {
    log_warning(
        "transfer",
        "--kv-transport ucx without an RDMA port that is up: whoever reaches UCX's TCP ports can write into "
        "this process; tcp and local have no such ports");
  }
  if (!config_.secret)
    log_warning("transfer",
                "--kv-transport ucx without a cluster secret: whoever connects can write this KV");
  fabric_ = *std::move(fabric);
  return {};
}

// This side is D.
bool SocketMover::takes_kv(const Connection& connection) {
  return (connection.flow == Flow::kToCaller) == !is_accepted(connection.id);
}

// What this side tells the peer; empty if it has no fabric.
Result<FabricAddress> SocketMover::offer_fabric(Connection& connection) {
  if (!fabric_) return FabricAddress{};
  TRY(connection.fabric, fabric_->open_peer());
  return connection.fabric->address(takes_kv(connection));
}

Result<void> SocketMover::connect_fabric(Connection& connection, const FabricAddress& theirs) {
  if (theirs.key.empty() != takes_kv(connection))
    return fail(Code::kCorrupt, fmt::format("fabric: {} key, expected {}", theirs.key.empty() ? "no" : "a",
                                            takes_kv(connection) ? "none from P" : "one from D"));
  TRY_DO(connection.fabric->connect(theirs, connection.peer.layout));
  watch(connection.fabric->event_fd(), kKeyFabric, false, true);
  return {};
}

// P: where D wants the KV of a transfer.
Result<void> SocketMover::remember_landing(Connection& connection, const Landing& landing) {
  if (takes_kv(connection)) return fail(Code::kCorrupt, "Landing comes from the side that has the KV");
  TRY_DO(connection.fabric->check_blocks(landing.target));
  if (connection.landings.size() >= kLandingsMax)
    return fail(Code::kExhausted, fmt::format("{} landings, expected at most that many", kLandingsMax));
  connection.landings.emplace(landing.transfer, landing);
  return {};
}

void SocketMover::push_to_fabric(Connection& connection, Push push) {
  const auto at = connection.landings.find(push.transfer);
  if (at == connection.landings.end()) return;  // withdrawn
  const Landing& landing = at->second;
  const size_t first = (push.move.first - landing.tokens_present) / push.move.target_tokens;
  const size_t count = push.move.target_blocks();
  CHECK(push.move.first >= landing.tokens_present && first + count <= landing.target.size(),
        "blocks {} to {} of {}", first, first + count, landing.target.size());
  std::vector<BlockId> target(landing.target.begin() + static_cast<ptrdiff_t>(first),
                              landing.target.begin() + static_cast<ptrdiff_t>(first + count));
  if (push.last) connection.landings.erase(at);
  connection.fabric->push(std::move(push), std::move(target));
}

// What must not overtake the KV that was pushed before it. A write is in D's memory when it is flushed; a
// message may still be on its way then, and is followed by this one.
void SocketMover::post_after_kv(Connection& connection, const Message& message) {
  if (connection.fabric && connection.fabric->sends_messages())
    return connection.fabric->say(encode(message));
  post(connection, message);
}

Result<void> SocketMover::take_said(Connection& connection) {
  for (const std::vector<std::byte>& frame : connection.fabric->take_said()) {
    if (frame.size() < kFrameHeadBytes) return fail(Code::kCorrupt, "fabric: a frame without a head");
    const auto bytes = std::span(frame);
    TRY(const FrameHead head, parse_head(bytes.first<kFrameHeadBytes>()));
    if (bytes.size() != kFrameHeadBytes + head.body_bytes)
      return fail(Code::kCorrupt, fmt::format("fabric: a frame of {} bytes, expected {}", bytes.size(),
                                              kFrameHeadBytes + head.body_bytes));
    TRY(Message message, parse_body(head.kind, bytes.subspan(kFrameHeadBytes)));
    const bool follows_kv = std::holds_alternative<Announce>(message) ||
                            std::holds_alternative<Pushed>(message) ||
                            std::holds_alternative<Withdrawn>(message);
    if (!follows_kv || !takes_kv(connection))
      return fail(Code::kCorrupt, fmt::format("fabric: {} comes beside the KV", message_name(message)));
    TRY_DO(take_message(connection, message));
  }
  return {};
}

void SocketMover::serve_fabrics() {
  if (!fabric_) return;
  std::vector<std::pair<PeerId, Error>> dead;
  for (auto& [id, connection] : connections_) {
    if (!connection->fabric || connection->phase != Phase::kUp) continue;
    auto ends = connection->fabric->step();
    if (!ends) {
      dead.emplace_back(id, ends.error());
      continue;
    }
    for (const ucx::FabricEnd& end : *ends) take_fabric_end(*connection, end);
    if (auto taken = take_said(*connection); !taken) {
      dead.emplace_back(id, taken.error());
      continue;
    }
    if (now_ - connection->progress_told < config_.heartbeat) continue;
    // A push may take longer than the lease of what is pushed: that D takes the bytes is D's word for it.
    for (const auto& [transfer, bytes] : connection->fabric->take_progress()) {
      connection->progress_told = now_;
      events_.emplace_back(PushProgress{id, transfer, bytes});
    }
  }
  for (auto& [id, error] : dead) lose(id, std::move(error));
}

bool SocketMover::fabrics_may_sleep() {
  return !fabric_ || std::ranges::all_of(connections_, [](const auto& entry) {
    return !entry.second->fabric || entry.second->phase != Phase::kUp || entry.second->fabric->may_sleep();
  });
}

// P: written and flushed. If a block was given away meanwhile, D must not count on any of it.
void SocketMover::take_fabric_end(Connection& connection, const ucx::FabricEnd& end) {
  if (end.withdrawn) return post_after_kv(connection, Withdrawn{end.transfer});
  std::atomic_thread_fence(std::memory_order_seq_cst);
  for (size_t i = 0; i < end.source.size(); ++i) {
    const uint32_t epoch = arena_.epoch(end.source[i]);
    if (epoch == end.epochs[i]) continue;
    events_.emplace_back(
        MoveFailed{end.transfer,
                   {Code::kUnavailable, fmt::format("source block {}: epoch is {}, expected {}",
                                                    index(end.source[i]), epoch, end.epochs[i])}});
    post(connection, AbortTransfer{end.transfer, {Code::kUnavailable, "P has given the blocks away"}});
    connection.landings.erase(end.transfer);
    connection.fabric->drop(end.transfer);
    return;
  }
  post_after_kv(connection, Pushed{end.transfer, end.layers, end.last});
  events_.emplace_back(PushProgress{connection.id, end.transfer, end.bytes});
}

// D: the grant is over, its blocks are not free: P is asked to leave them alone.
SocketMover::Quarantine& SocketMover::quarantine(Connection& connection, TransferId transfer) {
  grants_.erase(transfer);
  connection.stopped.push_back(transfer);
  if (connection.stopped.size() > kStoppedKept) connection.stopped.pop_front();
  post(connection, Withdraw{transfer});
  Quarantine& fresh = connection.quarantine[transfer];
  fresh.since = now_;
  return fresh;
}

void SocketMover::end_quarantine(Connection& connection, TransferId transfer) {
  const auto at = connection.quarantine.find(transfer);
  if (at == connection.quarantine.end()) return;
  if (at->second.error) events_.emplace_back(MoveFailed{transfer, *std::move(at->second.error)});
  for (size_t i = 0; i < at->second.stops; ++i) events_.emplace_back(StoresStopped{transfer});
  connection.quarantine.erase(at);
}

// A peer that does not say Withdrawn in time loses its way to this memory: the connection ends.
void SocketMover::check_quarantine(const Connection& connection,
                                   std::vector<std::pair<PeerId, Error>>& dead) const {
  for (const auto& [transfer, one] : connection.quarantine) {
    if (now_ - one.since <= config_.silence_max) continue;
    dead.emplace_back(connection.id,
                      Error{Code::kTimeout, fmt::format("transfer {}: no Withdrawn within {} s",
                                                        transfer.hex(), seconds(config_.silence_max))});
    return;
  }
}

}  // namespace baton::transfer::tcp
