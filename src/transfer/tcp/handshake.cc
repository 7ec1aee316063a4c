// How two processes learn who the other is, and how KV travels between them.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "net/unix_socket.h"
#include "transfer/tcp/socket_mover.h"

namespace baton::transfer::tcp {
namespace {

constexpr std::string_view kRoleP = "baton hand-over 1 P";
constexpr std::string_view kRoleD = "baton hand-over 1 D";
constexpr uint64_t kKeyLocalListener = (uint64_t{1} << 62) + 2;
constexpr uint64_t kKeyVisitors = (uint64_t{1} << 62) + 3;
constexpr uint64_t kKeyArena = uint64_t{1} << 61;
constexpr size_t kVisitorsMax = 2 * kConnectionsMax;

Result<void> check_identity(const Identity& own, const Identity& theirs) {
  const std::string mismatch = find_mismatch(own, theirs);
  if (!mismatch.empty())
    return fail(Code::kInvalid, fmt::format("identity of {}: {}", theirs.engine_id, mismatch));
  return {};
}

Result<void> check_mode(bool own, bool theirs) {
  if (own == theirs) return {};
  return fail(Code::kDenied, fmt::format("cluster secret: the peer has {}, expected {}",
                                         theirs ? "one" : "none", own ? "one" : "none"));
}

}  // namespace

void SocketMover::say_hello(Connection& connection) {
  connection.hello = {.authenticates = config_.secret.has_value(),
                      .nonce = net::random_nonce(),
                      .identity = config_.identity};
  connection.phase = Phase::kChallenge;
  post(connection, connection.hello);
}

Result<void> SocketMover::take_handshake(Connection& connection, Message& message) {
  if (auto* const refused = std::get_if<Refused>(&message)) {
    return fail(Code::kUnavailable, fmt::format("the peer refuses: {}", refused->error.message));
  }
  if (auto* const hello = std::get_if<Hello>(&message); hello != nullptr && connection.phase == Phase::kHello)
    return take_hello(connection, *hello);
  if (auto* const challenge = std::get_if<Challenge>(&message);
      challenge != nullptr && connection.phase == Phase::kChallenge)
    return take_challenge(connection, *challenge);
  if (auto* const proof = std::get_if<Proof>(&message);
      proof != nullptr && connection.phase == Phase::kProof) {
    if (config_.secret) {
      const Mac mac =
          config_.secret->prove(kRoleD, handshake_transcript(connection.hello, connection.challenge));
      if (!net::equal_secrets(mac, proof->mac))
        return fail(Code::kDenied, "cluster secret: the peer's proof is wrong, expected the same secret");
    }
    connection.local_token = net::random_nonce();
    const bool may_be_local = local_listener_ && connection.peer.boot_id == config_.identity.boot_id;
    connection.phase = Phase::kReady;
    post(connection, Welcome{may_be_local ? local_name_ : "", connection.local_token});
    return {};
  }
  if (auto* const welcome = std::get_if<Welcome>(&message);
      welcome != nullptr && connection.phase == Phase::kWelcome)
    return take_welcome(connection, *welcome);
  if (auto* const ready = std::get_if<Ready>(&message);
      ready != nullptr && connection.phase == Phase::kReady) {
    if (!ready->local && config_.choice == TransportChoice::kLocal)
      return fail(Code::kUnavailable, "--kv-transport local: the peer cannot map this instance's arena");
    connection.local = ready->local;
    be_up(connection);
    return {};
  }
  return fail(Code::kCorrupt, fmt::format("handshake: {} comes out of turn", message_name(message)));
}

Result<void> SocketMover::take_hello(Connection& connection, Hello& hello) {
  TRY_DO(check_mode(config_.secret.has_value(), hello.authenticates));
  TRY_DO(check_identity(config_.identity, hello.identity));
  connection.hello = std::move(hello);
  connection.peer = connection.hello.identity;
  connection.challenge = {.authenticates = config_.secret.has_value(),
                          .nonce = net::random_nonce(),
                          .identity = config_.identity,
                          .mac = {}};
  if (config_.secret) {
    connection.challenge.mac =
        config_.secret->prove(kRoleP, handshake_transcript(connection.hello, connection.challenge));
  }
  connection.phase = Phase::kProof;
  post(connection, connection.challenge);
  return {};
}

Result<void> SocketMover::take_challenge(Connection& connection, Challenge& challenge) {
  TRY_DO(check_mode(config_.secret.has_value(), challenge.authenticates));
  const std::vector<std::byte> transcript = handshake_transcript(connection.hello, challenge);
  Proof proof;
  if (config_.secret) {
    if (!net::equal_secrets(config_.secret->prove(kRoleP, transcript), challenge.mac))
      return fail(Code::kDenied, "cluster secret: the peer's proof is wrong, expected the same secret");
    proof.mac = config_.secret->prove(kRoleD, transcript);
  }
  TRY_DO(check_identity(config_.identity, challenge.identity));
  connection.peer = std::move(challenge.identity);
  connection.phase = Phase::kWelcome;
  post(connection, proof);
  return {};
}

Result<void> SocketMover::take_welcome(Connection& connection, const Welcome& welcome) {
  const bool one_host =
      !config_.identity.boot_id.empty() && connection.peer.boot_id == config_.identity.boot_id;
  if (config_.choice == TransportChoice::kTcp || !one_host || welcome.local_name.empty()) {
    if (config_.choice == TransportChoice::kLocal) {
      return fail(Code::kUnavailable,
                  fmt::format("--kv-transport local: {}",
                              one_host ? "the peer offers no Unix socket" : "the peer is on another host"));
    }
    be_ready(connection, false);
    return {};
  }
  auto opened = net::connect_unix(welcome.local_name);
  const auto sent =
      opened ? send(opened->get(), welcome.local_token.data(), welcome.local_token.size(), MSG_NOSIGNAL) : 0;
  if (sent != static_cast<ssize_t>(welcome.local_token.size())) {
    if (config_.choice == TransportChoice::kLocal)
      return fail(Code::kUnavailable, "--kv-transport local: the peer's Unix socket does not connect");
    be_ready(connection, false);
    return {};
  }
  connection.local_fd = *std::move(opened);
  connection.phase = Phase::kArena;
  watch(connection.local_fd.get(), value(connection.id) | kKeyArena, false, true);
  return {};
}

// P's Unix socket can be read: its arena comes, or its end.
void SocketMover::take_arena(Connection& connection) {
  if (connection.phase == Phase::kUp) {
    std::byte byte{};
    const ssize_t got = recv(connection.local_fd.get(), &byte, 1, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    return lose(connection.id, {Code::kUnavailable, "the peer's process has ended"});
  }
  std::byte byte{};
  auto fd = net::receive_with_fd(connection.local_fd.get(), std::span(&byte, 1));
  if (fd && *fd) {
    auto arena = kv::KvArena::map_peer(fd->release(), connection.peer.layout, connection.peer.incarnation);
    if (arena) {
      connection.arena = *std::move(arena);
      return be_ready(connection, true);
    }
    log_warning("transfer", fmt::format("{}: {}", connection.name, arena.error().message));
  }
  connection.local_fd.reset();
  if (config_.choice == TransportChoice::kLocal)
    return lose(connection.id,
                {Code::kUnavailable, "--kv-transport local: the peer's arena cannot be mapped"});
  be_ready(connection, false);
}

void SocketMover::be_ready(Connection& connection, bool local) {
  connection.local = local;
  post(connection, Ready{local});
  be_up(connection);
}

void SocketMover::be_up(Connection& connection) {
  connection.phase = Phase::kUp;
  connection.last_received = now_;
  const Transport transport = connection.local ? Transport::kLocal : Transport::kTcp;
  log_info("transfer",
           fmt::format("{}: {} is up, KV travels by {}, {}", connection.name, connection.peer.engine_id,
                       transport_name(transport),
                       config_.secret ? "authenticated" : "NOT authenticated (no cluster secret)"));
  events_.emplace_back(PeerUp{connection.id, connection.peer, transport, config_.secret.has_value()});
}

void SocketMover::accept_local() {
  auto fd = net::accept_unix(local_listener_.get());
  if (!fd && fd.error().code == Code::kExhausted) return rest(local_listener_.get(), kKeyLocalListener);
  if (!fd || visitors_.size() >= kVisitorsMax) return;
  fcntl(fd->get(), F_SETFL, O_NONBLOCK);
  const uint64_t id = next_visitor_++;
  watch(fd->get(), kKeyVisitors + id, false, true);
  LocalVisitor visitor;
  visitor.fd = *std::move(fd);
  visitor.began = now_;
  visitors_.emplace(id, std::move(visitor));
}

// Who shows the token of a live connection gets the arena; everybody else is closed.
void SocketMover::serve_local(uint64_t id) {
  const auto at = visitors_.find(id);
  if (at == visitors_.end()) return;
  LocalVisitor& visitor = at->second;
  const size_t left = visitor.token.size() - visitor.filled;
  uint8_t surplus = 0;
  const ssize_t got = visitor.served ? recv(visitor.fd.get(), &surplus, 1, 0)
                                     : recv(visitor.fd.get(), visitor.token.data() + visitor.filled, left, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0 || visitor.served) {
    visitors_.erase(at);
    return;
  }
  visitor.filled += static_cast<size_t>(got);
  if (visitor.filled < visitor.token.size()) return;
  const bool is_known = std::ranges::any_of(connections_, [&](const auto& entry) {
    return entry.second->phase == Phase::kReady &&
           net::equal_secrets(entry.second->local_token, visitor.token);
  });
  const std::byte byte{1};
  if (!is_known || !net::send_with_fd(visitor.fd.get(), std::span(&byte, 1), arena_.fd())) {
    visitors_.erase(at);
    return;
  }
  visitor.served = true;
}

}  // namespace baton::transfer::tcp
