// For tests: two sides of a hand-over with real movers on loopback, stepped in turn by one thread, and a peer
// that speaks bytes.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "net/testing_certificates.h"
#include "transfer/source.h"
#include "transfer/target.h"
#include "transfer/tcp/socket_mover.h"

namespace baton::transfer::tcp {

inline constexpr kv::KvLayout kLayout{.layers = 3, .kv_heads = 2, .head_dim = 16, .block_tokens = 16};
inline constexpr uint32_t kBlocks = 64;
inline constexpr Duration kPatience = std::chrono::seconds(20);

// One side: an arena, its mover, and the state machine that is the engine's part.
struct Side {
  Incarnation incarnation = random_id<Incarnation>();
  std::unique_ptr<kv::KvArena> arena;
  std::unique_ptr<SocketMover> mover;
  std::unique_ptr<Source> source;
  std::unique_ptr<Target> target;
  std::vector<Outcome> outcomes;
  std::vector<ReleasedHold> released;
  std::vector<HandoverId> ready;
  std::vector<MoverEvent> events;
  SteadyClock clock;

  void step() {
    for (MoverEvent& event : mover->poll(std::chrono::milliseconds(1))) {
      source->on_event(event, clock.now());
      target->on_event(event, clock.now());
      events.push_back(std::move(event));
    }
    source->on_time(clock.now());
    target->on_time(clock.now());
    for (Command& command : source->take_commands()) mover->execute(std::move(command));
    for (Command& command : target->take_commands()) mover->execute(std::move(command));
    for (const HandoverId id : source->take_ready()) ready.push_back(id);
    for (Outcome& outcome : target->take_outcomes()) outcomes.push_back(std::move(outcome));
    for (ReleasedHold& hold : source->take_released()) {
      for (const BlockId block : hold.blocks) arena->bump_epoch(block);
      released.push_back(std::move(hold));
    }
  }
};

// What tests of every mover run over.
struct Way {
  const char* name;
  TransportChoice choice;
  Transport transport;
  std::string ucx_transports = {};
  bool encrypted = false;
};
inline const Way kWays[] = {{"local", TransportChoice::kLocal, Transport::kLocal},
                            {"tcp", TransportChoice::kTcp, Transport::kTcp},
                            {"tcp_tls", TransportChoice::kTcp, Transport::kTcp, "", true},
                            {"ucx_shared_memory", TransportChoice::kUcx, Transport::kUcx, "posix"},
                            {"ucx_tcp", TransportChoice::kUcx, Transport::kUcx, "tcp"}};

struct Options {
  TransportChoice choice = TransportChoice::kAuto;
  std::string ucx_transports = {};
  bool encrypted = false;
  kv::KvLayout layout = kLayout;
  uint32_t blocks = kBlocks;
  std::string secret = {};
  std::string fingerprint = "f00d";
  bool listens = false;
  std::function<void(SocketMoverConfig&)> adjust = {};
};

inline Options options_of(const Way& way, Options options = {}) {
  options.choice = way.choice;
  options.ucx_transports = way.ucx_transports;
  options.encrypted = way.encrypted;
  return options;
}

// A member of the one cluster of these tests.
inline std::shared_ptr<const net::TlsContext> test_tls() {
  static const net::TestAuthority authority("transfer");
  static const std::shared_ptr<const net::TlsContext> context =
      *net::TlsContext::create(authority.sign("instance"));
  return context;
}

inline std::unique_ptr<Side> make_side(const Options& options) {
  auto side = std::make_unique<Side>();
  side->arena = *kv::KvArena::create(options.layout, options.blocks, side->incarnation);
  SocketMoverConfig config;
  if (options.listens) config.listen = net::Address{"127.0.0.1", 0};
  config.identity.engine_id = options.listens ? "p-engine" : "d-engine";
  config.identity.incarnation = side->incarnation;
  config.identity.fingerprint = options.fingerprint;
  config.identity.layout = options.layout;
  config.identity.boot_id = boot_id();
  config.choice = options.choice;
  config.ucx_transports = options.ucx_transports;
  if (!options.secret.empty()) config.secret = *net::ClusterSecret::from_bytes(options.secret);
  if (options.encrypted) config.tls = test_tls();
  if (options.adjust) options.adjust(config);
  auto mover = SocketMover::create(std::move(config), *side->arena);
  EXPECT_TRUE(mover) << mover.error().message;
  side->mover = *std::move(mover);
  HandoverConfig handover;
  handover.incarnation = side->incarnation;
  side->source = std::make_unique<Source>(handover, *side->arena);
  side->target = std::make_unique<Target>(handover, *side->arena);
  return side;
}

inline void fill(kv::KvArena& arena, uint64_t seed) {
  std::mt19937_64 random(seed);
  const size_t bytes = arena.blocks() * arena.layout().block_bytes();
  for (size_t at = 0; at + 8 <= bytes; at += 8) {
    const uint64_t word = random();
    std::memcpy(arena.data() + at, &word, 8);
  }
}

// P and D on loopback, stepped in turn by the test's thread.
struct Pair {
  std::unique_ptr<Side> p;
  std::unique_ptr<Side> d;

  Pair(Options source, Options target) {
    source.listens = true;
    p = make_side(source);
    d = make_side(target);
    fill(*p->arena, 1);
  }
  void run_until(const std::function<bool()>& done) const {
    const Time end = p->clock.now() + kPatience;
    while (!done() && p->clock.now() < end) {
      p->step();
      d->step();
    }
    EXPECT_TRUE(done());
  }
  Expected expect(HandoverId handover, uint32_t tokens) const {
    return {.transfer = random_id<TransferId>(),
            .handover = handover,
            .host = "127.0.0.1",
            .port = p->mover->port(),
            .engine_id = "p-engine",
            .incarnation = p->incarnation,
            .tokens = tokens,
            .prompt_hash = "hash",
            .deadline = d->clock.now() + kPatience};
  }
};

inline std::vector<BlockId> shuffled_blocks(uint32_t count, uint64_t seed, uint32_t blocks = kBlocks) {
  std::vector<BlockId> all;
  for (uint32_t i = 0; i < blocks; ++i) all.push_back(BlockId{i});
  std::shuffle(all.begin(), all.end(), std::mt19937_64(seed));
  all.resize(count);
  return all;
}

// A peer that speaks bytes, without a mover. Plays P towards a D under test, or connects to a P as D.
class RawPeer {
 public:
  RawPeer() : listener_(*net::listen({"127.0.0.1", 0})) {}
  explicit RawPeer(uint16_t port) {
    fd_ = *net::connect(net::Address{"127.0.0.1", port}, kPatience);
    fcntl(fd_.get(), F_SETFL, O_NONBLOCK);
  }
  uint16_t port() const { return listener_.local.port(); }
  bool accept() {
    fd_.reset(accept4(listener_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    return static_cast<bool>(fd_);
  }
  // So that the other side soon cannot send any more.
  void shrink_receive_buffer() const {
    const int bytes = 4096;
    setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
  }
  // The other side has ended the connection.
  bool is_closed() const {
    std::byte byte{};
    const ssize_t got = recv(fd_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN);
  }
  void send(const Message& message) { send_bytes(encode(message)); }
  void send_bytes(std::span<const std::byte> bytes) {
    EXPECT_GT(::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), 0);
  }
  void send_frame(KvFrame frame, std::span<const std::byte> bytes) {
    send_bytes(encode(frame));
    send_bytes(bytes);
  }
  // The next message, if one has come.
  std::optional<Message> receive() {
    std::array<std::byte, 4096> buffer{};
    const ssize_t got = recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (got > 0) bytes_.insert(bytes_.end(), buffer.begin(), buffer.begin() + got);
    if (bytes_.size() < kFrameHeadBytes) return std::nullopt;
    const FrameHead head = *parse_head(std::span(bytes_).first<kFrameHeadBytes>());
    if (bytes_.size() < kFrameHeadBytes + head.body_bytes) return std::nullopt;
    Message message = *parse_body(head.kind, std::span(bytes_).subspan(kFrameHeadBytes, head.body_bytes));
    bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<ptrdiff_t>(kFrameHeadBytes + head.body_bytes));
    return message;
  }

 private:
  net::Listener listener_;
  net::Fd fd_;
  std::vector<std::byte> bytes_;
};

}  // namespace baton::transfer::tcp
