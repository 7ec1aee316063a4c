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

constexpr std::string_view kListener = "baton hand-over 2 listener";
constexpr std::string_view kCaller = "baton hand-over 2 caller";
constexpr uint64_t kKeyLocalListener = (uint64_t{1} << 62) + 2;
constexpr uint64_t kKeyVisitors = (uint64_t{1} << 62) + 4;
constexpr uint64_t kKeyArena = uint64_t{1} << 61;
constexpr size_t kVisitorsMax = 2 * kConnectionsMax;
// What the listener says on its Unix socket.
constexpr std::byte kMapped{1};
constexpr std::byte kNotMapped{0};

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

void SocketMover::begin_tls(Connection& connection, net::TlsRole role) {
  connection.tls.emplace(config_.tls, connection.fd.get(), role);
  connection.phase = Phase::kTls;
}

// What can be done of the TLS handshake now. After it a caller says Hello, and a listener waits for it.
Result<void> SocketMover::serve_tls(Connection& connection) {
  if (is_accepted(connection.id) && !connection.tls->has_begun()) {
    const Error error{Code::kDenied, "TLS: the peer does not speak it, expected --kv-tls-certfile there too"};
    if (refuse_plainly(connection, error)) return Failure(error);
  }
  TRY(const bool is_done, connection.tls->shake_hands());
  const bool wants_write = !is_done && connection.tls->wants_write();
  if (wants_write != connection.wants_write) {
    watch(connection.fd.get(), value(connection.id), wants_write, false);
    connection.wants_write = wants_write;
  }
  if (!is_done) return {};
  connection.last_received = now_;
  if (is_accepted(connection.id)) {
    connection.phase = Phase::kHello;
  } else {
    say_hello(connection);
  }
  return {};
}

// A caller whose first bytes are not those of TLS is told so in the only language that it understands.
bool SocketMover::refuse_plainly(Connection& connection, const Error& error) {
  std::array<std::byte, 1024> first{};
  const ssize_t got = recv(connection.fd.get(), first.data(), first.size(), MSG_PEEK);
  if (got <= 0 || net::looks_like_tls(std::span(first).first(static_cast<size_t>(got)))) return false;
  // What is unread at the close would have the refusal thrown away on its way.
  static_cast<void>(recv(connection.fd.get(), first.data(), first.size(), 0));
  const std::vector<std::byte> refusal = encode(Refused{error});
  static_cast<void>(
      send(connection.fd.get(), refusal.data(), refusal.size(), MSG_NOSIGNAL));  // lost either way
  return true;
}

void SocketMover::say_hello(Connection& connection) {
  connection.hello = {.authenticates = config_.secret.has_value(),
                      .flow = connection.flow,
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
          config_.secret->prove(kCaller, handshake_transcript(connection.hello, connection.challenge));
      if (!net::equal_secrets(mac, proof->mac))
        return fail(Code::kDenied, "cluster secret: the peer's proof is wrong, expected the same secret");
    }
    connection.local_token = net::random_nonce();
    const bool may_be_local = local_listener_ && connection.peer.boot_id == config_.identity.boot_id;
    connection.phase = Phase::kReady;
    TRY(const FabricAddress fabric, offer_fabric(connection));
    post(connection, Welcome{may_be_local ? local_name_ : "", connection.local_token, fabric});
    return {};
  }
  if (auto* const welcome = std::get_if<Welcome>(&message);
      welcome != nullptr && connection.phase == Phase::kWelcome)
    return take_welcome(connection, *welcome);
  if (auto* const ready = std::get_if<Ready>(&message);
      ready != nullptr && connection.phase == Phase::kReady) {
    return take_ready(connection, *ready);
  }
  return fail(Code::kCorrupt, fmt::format("handshake: {} comes out of turn", message_name(message)));
}

Result<void> SocketMover::take_ready(Connection& connection, const Ready& ready) {
  if (!ready.local && config_.choice == TransportChoice::kLocal)
    return fail(Code::kUnavailable, "--kv-transport local: P's arena cannot be mapped by D");
  if (ready.local && connection.flow == Flow::kFromCaller && !connection.arena)
    return fail(Code::kCorrupt, "Ready: local is true, expected P's arena over the Unix socket first");
  connection.local = ready.local;
  if (!ready.fabric.worker.empty()) {
    if (!connection.fabric || ready.local)
      return fail(Code::kCorrupt, "Ready: fabric is given, expected none: it was not offered");
    TRY_DO(connect_fabric(connection, ready.fabric));
  } else {
    connection.fabric.reset();
    if (config_.choice == TransportChoice::kUcx)
      return fail(Code::kInvalid, "--kv-transport ucx: the peer takes no part in it");
  }
  be_up(connection);
  return {};
}

Result<void> SocketMover::take_hello(Connection& connection, Hello& hello) {
  TRY_DO(check_mode(config_.secret.has_value(), hello.authenticates));
  TRY_DO(check_identity(config_.identity, hello.identity));
  connection.hello = std::move(hello);
  connection.peer = connection.hello.identity;
  connection.flow = connection.hello.flow;
  connection.challenge = {.authenticates = config_.secret.has_value(),
                          .nonce = net::random_nonce(),
                          .identity = config_.identity,
                          .mac = {}};
  if (config_.secret) {
    connection.challenge.mac =
        config_.secret->prove(kListener, handshake_transcript(connection.hello, connection.challenge));
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
    if (!net::equal_secrets(config_.secret->prove(kListener, transcript), challenge.mac))
      return fail(Code::kDenied, "cluster secret: the peer's proof is wrong, expected the same secret");
    proof.mac = config_.secret->prove(kCaller, transcript);
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
  connection.their_fabric = welcome.fabric;
  const bool may_be_local =
      config_.choice == TransportChoice::kAuto || config_.choice == TransportChoice::kLocal;
  if (!may_be_local || !one_host || welcome.local_name.empty()) {
    if (config_.choice == TransportChoice::kLocal) {
      return fail(Code::kUnavailable,
                  fmt::format("--kv-transport local: {}",
                              one_host ? "the peer offers no Unix socket" : "the peer is on another host"));
    }
    return be_ready(connection, false);
  }
  if (!knock_locally(connection, welcome)) {
    if (config_.choice == TransportChoice::kLocal)
      return fail(Code::kUnavailable, "--kv-transport local: the peer's Unix socket does not connect");
    return be_ready(connection, false);
  }
  connection.phase = Phase::kArena;
  watch(connection.local_fd.get(), value(connection.id) | kKeyArena, false, true);
  return {};
}

// Shows the token; a calling P hands its arena over with it. False if there is no way.
bool SocketMover::knock_locally(Connection& connection, const Welcome& welcome) {
  auto opened = net::connect_unix(welcome.local_name);
  if (!opened) return false;
  const auto token = std::as_bytes(std::span(welcome.local_token));
  if (connection.flow == Flow::kFromCaller) {
    if (!net::send_with_fd(opened->get(), token, arena_.fd())) return false;
  } else if (send(opened->get(), token.data(), token.size(), MSG_NOSIGNAL) !=
             static_cast<ssize_t>(token.size())) {
    return false;
  }
  connection.local_fd = *std::move(opened);
  return true;
}

// The listener's Unix socket can be read: P's arena comes, or the word that D has mapped it, or the end.
void SocketMover::take_arena(Connection& connection) {
  if (connection.phase == Phase::kUp) {
    std::byte byte{};
    const ssize_t got = recv(connection.local_fd.get(), &byte, 1, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    return lose(connection.id, {Code::kUnavailable, "the peer's process has ended"});
  }
  std::byte byte{};
  auto fd = net::receive_with_fd(connection.local_fd.get(), std::span(&byte, 1));
  if (connection.flow == Flow::kFromCaller) {
    if (fd && byte == kMapped) {
      static_cast<void>(be_ready(connection, true));  // cannot fail
      return;
    }
  } else if (fd && *fd) {
    auto arena = kv::KvArena::map_peer(fd->release(), connection.peer.layout, connection.peer.incarnation);
    if (arena) {
      connection.arena = *std::move(arena);
      static_cast<void>(be_ready(connection, true));  // cannot fail
      return;
    }
    log_warning("transfer", fmt::format("{}: {}", connection.name, arena.error().message));
  }
  connection.local_fd.reset();
  if (config_.choice == TransportChoice::kLocal)
    return lose(connection.id, {Code::kUnavailable, "--kv-transport local: P's arena cannot be mapped by D"});
  if (auto ready = be_ready(connection, false); !ready) lose(connection.id, ready.error());
}

// Fails only if there is nothing but a fabric to be had and it is not.
Result<void> SocketMover::be_ready(Connection& connection, bool local) {
  connection.local = local;
  FabricAddress own;
  if (!local && fabric_ && !connection.their_fabric.worker.empty()) {
    auto offered = offer_fabric(connection);
    Result<void> connected = offered ? connect_fabric(connection, connection.their_fabric)
                                     : Result<void>(Failure(offered.error()));
    if (connected) own = *std::move(offered);
    if (!connected) {
      connection.fabric.reset();
      if (config_.choice == TransportChoice::kUcx) return connected;
      log_warning("transfer",
                  fmt::format("{}: {}; KV travels by tcp", connection.name, connected.error().message));
    }
  }
  if (config_.choice == TransportChoice::kUcx && own.worker.empty())
    return fail(Code::kUnavailable, "--kv-transport ucx: the peer offers no fabric");
  post(connection, Ready{local, own});
  be_up(connection);
  return {};
}

void SocketMover::be_up(Connection& connection) {
  connection.phase = Phase::kUp;
  connection.last_received = now_;
  const Transport transport = connection.local    ? Transport::kLocal
                              : connection.fabric ? Transport::kUcx
                                                  : Transport::kTcp;
  log_info("transfer", fmt::format("{}: {} is up, KV travels by {}, {}", connection.name,
                                   connection.peer.engine_id, transport_name(transport),
                                   connection.tls   ? "encrypted"
                                   : config_.secret ? "authenticated"
                                                    : "NOT authenticated (no cluster secret)"));
  events_.emplace_back(PeerUp{.peer = connection.id,
                              .identity = connection.peer,
                              .transport = transport,
                              .authenticated = config_.secret.has_value() || connection.tls.has_value(),
                              .flow = connection.flow});
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

// Who shows the token of a live connection gets the arena, or gives its own; everybody else is closed.
void SocketMover::serve_local(uint64_t id) {
  const auto at = visitors_.find(id);
  if (at == visitors_.end()) return;
  LocalVisitor& visitor = at->second;
  if (visitor.served) {
    uint8_t surplus = 0;
    const ssize_t got = recv(visitor.fd.get(), &surplus, 1, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    visitors_.erase(at);
    return;
  }
  auto got = net::receive_some_with_fd(
      visitor.fd.get(), std::as_writable_bytes(std::span(visitor.token)).subspan(visitor.filled));
  if (got && got->bytes == 0) return;
  if (!got) {
    visitors_.erase(at);
    return;
  }
  if (got->fd) visitor.arena = std::move(got->fd);
  visitor.filled += got->bytes;
  if (visitor.filled < visitor.token.size()) return;
  visitor.served = exchange_arena(visitor);
  if (!visitor.served) visitors_.erase(at);
}

bool SocketMover::exchange_arena(LocalVisitor& visitor) {
  const auto known = std::ranges::find_if(connections_, [&](const auto& entry) {
    return entry.second->phase == Phase::kReady &&
           net::equal_secrets(entry.second->local_token, visitor.token);
  });
  if (known == connections_.end()) return false;
  Connection& connection = *known->second;
  if (connection.flow == Flow::kToCaller)
    return net::send_with_fd(visitor.fd.get(), std::span(&kMapped, 1), arena_.fd()).has_value();
  if (!visitor.arena) return false;
  auto arena =
      kv::KvArena::map_peer(visitor.arena.release(), connection.peer.layout, connection.peer.incarnation);
  if (!arena) log_warning("transfer", fmt::format("{}: {}", connection.name, arena.error().message));
  if (arena) connection.arena = *std::move(arena);
  const std::byte answer = connection.arena ? kMapped : kNotMapped;
  return send(visitor.fd.get(), &answer, 1, MSG_NOSIGNAL) == 1;
}

}  // namespace baton::transfer::tcp
