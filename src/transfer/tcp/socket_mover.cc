#include "transfer/tcp/socket_mover.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/check.h"
#include "base/log.h"
#include "net/unix_socket.h"

namespace baton::transfer::tcp {
namespace {

// Keys of the epoll set. Peers have their own ids, whose top bit says "accepted"; the next one is free.
constexpr uint64_t kKeyOther = uint64_t{1} << 62;
constexpr uint64_t kKeyWake = kKeyOther;
constexpr uint64_t kKeyListener = kKeyOther + 1;
constexpr uint64_t kKeyLocalListener = kKeyOther + 2;
constexpr uint64_t kKeyFabric = kKeyOther + 3;  // of all peers: they are all looked after in each turn
constexpr uint64_t kKeyVisitors = kKeyOther + 4;
constexpr uint64_t kKeyArena = uint64_t{1} << 61;  // set beside the id of a peer this side connected to
constexpr int kEventsAtOnce = 64;
constexpr size_t kAcceptsAtOnce = 16;

}  // namespace

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

Result<std::unique_ptr<SocketMover>> SocketMover::create(SocketMoverConfig config, kv::KvArena& arena) {
  CHECK(config.identity.layout == arena.layout(), "identity and arena disagree about the layout");
  std::unique_ptr<SocketMover> mover(new SocketMover(std::move(config), arena));
  mover->scratch_.resize(kKvBytesMax);
  mover->epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  mover->wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!mover->epoll_ || !mover->wake_)
    return fail(Code::kIo, fmt::format("transfer: epoll: {}", std::strerror(errno)));
  mover->watch(mover->wake_.get(), kKeyWake, false, true);
  mover->resolver_.emplace(net::Fd(fcntl(mover->wake_.get(), F_DUPFD_CLOEXEC, 0)), mover->config_.lookup);
  mover->now_ = mover->clock_.now();
  const SocketMoverConfig& settings = mover->config_;
  TRY_DO(mover->create_fabric());
  if (!settings.listen) return mover;
  TRY(mover->listener_, net::listen(*settings.listen));
  mover->watch(mover->listener_->fd.get(), kKeyListener, false, true);
  const bool may_be_local =
      settings.choice == TransportChoice::kAuto || settings.choice == TransportChoice::kLocal;
  if (!may_be_local || settings.identity.boot_id.empty()) return mover;
  mover->local_name_ = "@baton-" + random_id<Incarnation>().hex();
  TRY(mover->local_listener_, net::listen_unix(mover->local_name_));
  mover->watch(mover->local_listener_.get(), kKeyLocalListener, false, true);
  return mover;
}

SocketMover::~SocketMover() = default;

void SocketMover::watch(int fd, uint64_t key, bool write, bool add) {
  epoll_event event{};
  event.events = EPOLLIN | (write ? EPOLLOUT : 0U);
  event.data.u64 = key;
  CHECK(epoll_ctl(epoll_.get(), add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event) == 0, "epoll_ctl: {}",
        std::strerror(errno));
}

SocketMover::Connection* SocketMover::find(PeerId peer) {
  const auto at = connections_.find(peer);
  return at == connections_.end() ? nullptr : at->second.get();
}

void SocketMover::execute(Command command) {
  std::visit([this](auto& one) { run(one); }, command);
}

void SocketMover::run(Connect& command) {
  CHECK(value(command.peer) < kKeyArena && !connections_.contains(command.peer), "peer {}",
        value(command.peer));
  auto connection = std::make_unique<Connection>();
  connection->id = command.peer;
  connection->name = net::to_string(net::Address{command.host, command.port});
  connection->host = command.host;
  connection->port = command.port;
  connection->phase = Phase::kResolving;
  connection->flow = command.flow;
  now_ = clock_.now();
  connection->began = connection->last_received = connection->last_sent = now_;
  Connection& kept = *connections_.emplace(command.peer, std::move(connection)).first->second;
  if (const auto literal = net::literal_endpoint(command.host, command.port)) {
    kept.endpoints.push_back(*literal);
    if (auto opened = open_next(kept); !opened) lose(command.peer, opened.error());
  } else if (auto asked = resolver_->ask(command.host); !asked) {
    lose(command.peer, asked.error());
  }
}

void SocketMover::take_names() {
  for (const net::Resolver::Answer& answer : resolver_->take_answers()) {
    std::vector<std::pair<PeerId, Error>> dead;
    for (auto& [id, connection] : connections_) {
      if (connection->phase != Phase::kResolving || connection->host != answer.host) continue;
      if (!answer.endpoints) {
        dead.emplace_back(id, answer.endpoints.error());
        continue;
      }
      for (net::Endpoint endpoint : *answer.endpoints) {
        endpoint.set_port(connection->port);
        connection->endpoints.push_back(endpoint);
      }
      if (auto opened = open_next(*connection); !opened) dead.emplace_back(id, opened.error());
    }
    for (auto& [id, error] : dead) lose(id, std::move(error));
  }
}

// The next address of the host at which a connection can at least begin.
Result<void> SocketMover::open_next(Connection& connection) {
  Result<void> opened = fail(Code::kUnavailable, "no address");
  while (!opened && !connection.endpoints.empty()) {
    const net::Endpoint endpoint = connection.endpoints.front();
    connection.endpoints.pop_front();
    opened = open_connection(connection, endpoint);
  }
  return opened;
}

Result<void> SocketMover::open_connection(Connection& connection, const net::Endpoint& endpoint) {
  connection.phase = Phase::kConnecting;
  connection.fd.reset(socket(endpoint.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!connection.fd) return fail(Code::kIo, fmt::format("socket: {}", std::strerror(errno)));
  net::set_no_delay(connection.fd.get());
  const int done = connect(connection.fd.get(), endpoint.data(), endpoint.size);
  if (done != 0 && errno != EINPROGRESS)
    return fail(Code::kUnavailable, fmt::format("connect: {}", std::strerror(errno)));
  watch(connection.fd.get(), value(connection.id), true, true);
  connection.wants_write = true;
  return {};
}

void SocketMover::serve_connecting(Connection& connection, uint32_t events) {
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(connection.fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) {
    if (open_next(connection)) return;
    return lose(connection.id, {Code::kUnavailable, fmt::format("connect: {}", std::strerror(error))});
  }
  if ((events & EPOLLOUT) == 0) return;
  connection.wants_write = false;
  watch(connection.fd.get(), value(connection.id), false, false);
  if (!config_.tls) return say_hello(connection);
  begin_tls(connection, net::TlsRole::kConnects);
  if (auto shaken = serve_tls(connection); !shaken) lose(connection.id, shaken.error());
}

void SocketMover::run(Send& command) {
  Connection* const connection = find(command.peer);
  if (connection != nullptr && connection->phase == Phase::kUp) post(*connection, command.message);
}

void SocketMover::run(AllowStores& command) {
  CHECK(!command.blocks.empty() && command.blocks.size() == command.epochs.size());
  CHECK(!grants_.contains(command.transfer), "transfer {} is granted twice", command.transfer.hex());
  CHECK(command.blocks.size() == command.move.target_blocks(), "{} blocks", command.blocks.size());
  for (const BlockId block : command.blocks) CHECK(index(block) < arena_.blocks(), "block {}", index(block));
  const Connection* const connection = find(command.peer);
  if (connection == nullptr || connection->phase != Phase::kUp) {
    events_.emplace_back(MoveFailed{command.transfer, {Code::kUnavailable, "the connection is gone"}});
    return;
  }
  const TransferId transfer = command.transfer;
  grants_.emplace(transfer, Grant::of(std::move(command)));
}

void SocketMover::run(StopStores& command) {
  for (auto& [id, connection] : connections_) {
    const auto at = connection->quarantine.find(command.transfer);
    if (at == connection->quarantine.end()) continue;
    ++at->second.stops;
    return;
  }
  if (const auto at = grants_.find(command.transfer); at != grants_.end()) {
    if (Connection* const connection = find(at->second.peer)) {
      if (connection->fabric) {
        ++quarantine(*connection, command.transfer).stops;
        return;
      }
      connection->stopped.push_back(command.transfer);
      if (connection->stopped.size() > kStoppedKept) connection->stopped.pop_front();
    }
    copier_.drop_transfer(command.transfer);
    grants_.erase(at);
  }
  events_.emplace_back(StoresStopped{command.transfer});
}

void SocketMover::run(Push& command) {
  CHECK(command.source.size() == command.move.source_blocks(), "{} blocks", command.source.size());
  Connection* const connection = find(command.peer);
  if (connection == nullptr || connection->phase != Phase::kUp) return;  // its PeerLost is on the way
  post_after_kv(*connection, Announce{.transfer = command.transfer,
                                      .layers = command.layers,
                                      .first = command.move.first,
                                      .end = command.move.end,
                                      .source = command.source,
                                      .epochs = command.epochs,
                                      .last = command.last});
  if (connection->local) return;
  if (connection->fabric) return push_to_fabric(*connection, std::move(command));
  auto flow = std::ranges::find(connection->outflows, command.transfer, &Outflow::transfer);
  if (flow == connection->outflows.end()) {
    Outflow& fresh = connection->outflows.emplace_back();
    fresh.transfer = command.transfer;
    flow = std::prev(connection->outflows.end());
  }
  flow->pushes.push_back(std::move(command));
  if (flow->pushes.size() == 1) flow->begin_first();
}

void SocketMover::run(StopPush& command) {
  for (auto& [id, connection] : connections_) {
    if (connection->fabric && connection->landings.erase(command.transfer) > 0)
      connection->fabric->drop(command.transfer);
    std::erase_if(connection->outflows,
                  [&](const Outflow& flow) { return flow.transfer == command.transfer; });
  }
}

void SocketMover::run(Close& command) {
  if (find(command.peer) != nullptr)
    lose(command.peer, {Code::kCancelled, fmt::format("closed: {}", command.reason)});
}

// The one end of a connection. Its grants are gone with it; what D's side still waits for is told by
// StopStores.
void SocketMover::lose(PeerId peer, Error error) {
  const auto at = connections_.find(peer);
  if (at == connections_.end()) return;
  Connection& connection = *at->second;
  log_info("transfer", fmt::format("{}: connection ends: {}", connection.name, error.message));
  copier_.drop_peer(peer);
  for (auto grant = grants_.begin(); grant != grants_.end();) {
    grant = grant->second.peer == peer ? grants_.erase(grant) : std::next(grant);
  }
  // Before it was up, an accepted peer was nobody.
  if (connection.phase == Phase::kUp || !is_accepted(peer)) {
    error.message = fmt::format("{}: {}", connection.name, error.message);
    events_.emplace_back(PeerLost{peer, std::move(error)});
  }
  const std::map<TransferId, Quarantine> freed = std::move(connection.quarantine);
  connections_.erase(at);
  for (const auto& [transfer, one] : freed) {
    for (size_t i = 0; i < one.stops; ++i) events_.emplace_back(StoresStopped{transfer});
  }
}

void SocketMover::accept_peers() {
  for (size_t i = 0; i < kAcceptsAtOnce; ++i) {
    net::Fd fd(accept4(listener_->fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd && (errno == EMFILE || errno == ENFILE)) return rest(listener_->fd.get(), kKeyListener);
    if (!fd) return;
    const auto accepted = std::distance(connections_.lower_bound(PeerId{kAcceptedPeers}), connections_.end());
    if (static_cast<size_t>(accepted) >= config_.accepted_max) {
      log_warning("transfer", fmt::format("{} connections, expected at most that many: one more is refused",
                                          config_.accepted_max));
      continue;
    }
    net::set_no_delay(fd.get());
    auto connection = std::make_unique<Connection>();
    connection->id = PeerId{next_accepted_++};
    connection->name = net::to_string(net::peer_endpoint(fd.get()));
    connection->began = connection->last_received = connection->last_sent = now_;
    connection->fd = std::move(fd);
    watch(connection->fd.get(), value(connection->id), false, true);
    if (config_.tls) begin_tls(*connection, net::TlsRole::kAccepts);
    connections_.emplace(connection->id, std::move(connection));
  }
}

// Without a free descriptor who waits at a listener cannot be accepted, and the listener stays ready: not to
// be asked again and again, it is not watched for a while.
void SocketMover::rest(int listener, uint64_t key) {
  log_warning("transfer", "no free file descriptor for one more connection: it has to wait");
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener, nullptr);
  resting_.push_back({listener, key, now_ + kRest});
}

std::vector<MoverEvent> SocketMover::poll(Duration timeout) {
  now_ = clock_.now();
  // A thread that was not run for a while has not heard its peers either: that is not their silence.
  if (last_poll_ != kNever && now_ - last_poll_ > config_.heartbeat) {
    for (auto& [id, connection] : connections_) {
      connection->last_received = connection->last_received + (now_ - last_poll_);
      connection->began = connection->began + (now_ - last_poll_);
    }
  }
  flush();
  const bool busy = !events_.empty() || !copier_.is_idle() || !fabrics_may_sleep();
  const Duration tick = fabric_ && !connections_.empty() ? kFabricTick : config_.heartbeat / 4;
  const Duration wait = busy ? Duration(0) : std::min(timeout, connections_.empty() ? timeout : tick);
  std::array<epoll_event, kEventsAtOnce> ready{};
  const auto wait_ms = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
  const int count = epoll_wait(epoll_.get(), ready.data(), kEventsAtOnce, static_cast<int>(wait_ms));
  now_ = clock_.now();
  for (int i = 0; i < count; ++i)
    serve(ready[static_cast<size_t>(i)].data.u64, ready[static_cast<size_t>(i)].events);
  take_names();
  copy_local();
  serve_fabrics();
  check_times();
  flush();
  last_poll_ = clock_.now();
  return std::exchange(events_, {});
}

void SocketMover::serve(uint64_t key, uint32_t events) {
  if (key == kKeyWake) {
    uint64_t count = 0;
    while (::read(wake_.get(), &count, sizeof(count)) > 0) continue;
    return;
  }
  if (key == kKeyFabric) return;
  if (key == kKeyListener) return accept_peers();
  if (key == kKeyLocalListener) return accept_local();
  if (!is_accepted(PeerId{key}) && key >= kKeyVisitors) return serve_local(key - kKeyVisitors);
  const bool is_arena = !is_accepted(PeerId{key}) && (key & kKeyArena) != 0;
  const PeerId peer{is_arena ? key & ~kKeyArena : key};
  Connection* const connection = find(peer);
  if (connection == nullptr) return;
  if (is_arena) return take_arena(*connection);
  if (connection->phase == Phase::kConnecting) return serve_connecting(*connection, events);
  if (connection->phase == Phase::kTls) {
    auto shaken = serve_tls(*connection);
    if (!shaken) return lose(peer, shaken.error());
    if (connection->phase == Phase::kTls) return;
  }
  if ((events & EPOLLOUT) != 0) {
    if (auto written = write(*connection); !written) return lose(peer, written.error());
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    if (auto got = read(*connection); !got) {
      const bool is_peers_fault = got.error().code == Code::kCorrupt || got.error().code == Code::kDenied ||
                                  got.error().code == Code::kInvalid;
      if (is_peers_fault) {
        post(*connection, Refused{got.error()});
        static_cast<void>(write(*connection));  // it is lost either way
      }
      return lose(peer, got.error());
    }
  }
}

void SocketMover::check_times() {
  std::vector<std::pair<PeerId, Error>> dead;
  for (auto& [id, connection] : connections_) {
    if (connection->phase != Phase::kUp) {
      if (now_ - connection->began > config_.handshake_max) {
        const bool is_resolving = connection->phase == Phase::kResolving;
        dead.emplace_back(
            id, Error{Code::kTimeout, fmt::format("no {} within {} s", is_resolving ? "address" : "handshake",
                                                  seconds(config_.handshake_max))});
      }
      continue;
    }
    if (now_ - connection->last_received > config_.silence_max) {
      dead.emplace_back(
          id, Error{Code::kTimeout, fmt::format("silent for more than {} s", seconds(config_.silence_max))});
    } else if (connection->outgoing_bytes > kOutgoingBytesMax) {
      dead.emplace_back(
          id, Error{Code::kExhausted, fmt::format("reads too slowly: {} bytes wait, expected at most {}",
                                                  connection->outgoing_bytes, kOutgoingBytesMax)});
    } else if (now_ - connection->last_sent >= config_.heartbeat && connection->outgoing.empty()) {
      post(*connection, Ping{});
      connection->last_sent = now_;
    }
    check_quarantine(*connection, dead);
  }
  for (auto& [id, error] : dead) lose(id, std::move(error));
  std::erase_if(resting_, [&](const Resting& one) {
    if (now_ < one.until) return false;
    watch(one.listener, one.key, false, true);
    return true;
  });
  std::erase_if(visitors_, [&](const auto& entry) {
    return !entry.second.served && now_ - entry.second.began > config_.handshake_max;
  });
}

// Writes what can be written without waiting. Who found its socket full waits for EPOLLOUT.
void SocketMover::flush() {
  std::vector<std::pair<PeerId, Error>> dead;
  for (auto& [id, connection] : connections_) {
    if (connection->wants_write) continue;
    if (connection->outgoing.empty() && connection->outflows.empty() && !connection->out_frame) continue;
    if (auto written = write(*connection); !written) dead.emplace_back(id, written.error());
  }
  for (auto& [id, error] : dead) lose(id, std::move(error));
}

void SocketMover::copy_local() {
  const std::optional<local::CopyEnd> end = copier_.step(grants_);
  if (!end) return;
  Grant& grant = grants_.at(end->transfer);
  if (end->error) return fail_move(end->transfer, *end->error);
  grant.bytes += end->bytes;
  if (!end_announce(grant)) return copy_next(grant);
  events_.emplace_back(Landed{end->transfer, grant.bytes});
  grants_.erase(end->transfer);
}

// The first announce of a grant whose peer is on this host; nothing if none is left.
void SocketMover::copy_next(const Grant& grant) {
  const Connection* const connection = find(grant.peer);
  if (connection == nullptr || grant.announces.empty()) return;
  copier_.add({.peer = grant.peer,
               .source = connection->arena.get(),
               .announce = grant.announces.front(),
               .next = grant.next});
}

void SocketMover::wake() {
  const uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof(one));
}

}  // namespace baton::transfer::tcp
