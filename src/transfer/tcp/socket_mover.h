// The mover of real processes. One TCP connection per peer and direction of KV carries handshake, messages
// and, unless both are on one host, the KV bytes as acknowledged frames that D's side checks before it counts
// them (transfer tcp). Between processes of one host (equal boot id *and* the listener's Unix socket
// connects) P hands its arena's memfd over and D copies out of it (transport local, local/copier.h).
// Non-blocking sockets, one epoll.
//
// KV bytes of a frame are received straight into the granted block and checked there, unless the piece is
// only a part of it (the block sizes differ): then they are checked first and scattered into it. Both are
// safe: a grant is looked up again for every read, so nothing is stored after StopStores; and a block whose
// transfer did not end in Landed holds bytes that nobody reads (the engine computes them anew).
//
// With a TLS context every byte of the connection goes through TLS, and so does KV that travels by tcp; local
// stays (nothing leaves the host), a fabric does not exist then. Both sides have one, or they refuse each
// other.
//
// A slow or hostile peer costs only its own connection: handshakes have a deadline, connections, frames and
// waiting bytes a bound, silence an end.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "kv/arena.h"
#include "net/address.h"
#include "net/fd.h"
#include "net/peer_auth.h"
#include "net/resolver.h"
#include "net/socket.h"
#include "net/tls.h"
#include "transfer/grant.h"
#include "transfer/local/copier.h"
#include "transfer/mover.h"
#include "transfer/ucx/fabric.h"

namespace baton::transfer::tcp {

inline constexpr size_t kConnectionsMax = 256;  // accepted; further ones are closed at once
inline constexpr Duration kRest = std::chrono::milliseconds(100);  // of a listener without free descriptors
inline constexpr size_t kWindowBytes = size_t{8} << 20;            // KV bytes of a transfer on their way
inline constexpr size_t kAckEveryBytes = size_t{1} << 20;
inline constexpr size_t kOutgoingBytesMax = size_t{16} << 20;  // messages that wait for a peer
inline constexpr size_t kTurnBytes = size_t{1} << 20;          // read or written for one connection at a time
inline constexpr size_t kLandingsMax = 4096;                   // P: of a peer that writes by a fabric
inline constexpr Duration kFabricTick =
    std::chrono::milliseconds(10);            // UCX misses the end of a write at times
inline constexpr size_t kStoppedKept = 1024;  // transfers whose late frames are expected

struct SocketMoverConfig {
  std::optional<net::Address> listen;  // P in the pull order, D in the layer-wise one; port 0: any
  Identity identity;
  std::optional<net::ClusterSecret> secret;
  std::shared_ptr<const net::TlsContext> tls;  // nullptr: what travels is neither encrypted nor signed
  TransportChoice choice = TransportChoice::kAuto;
  std::string ucx_transports;  // UCX_TLS; empty: ucx::choose_transports
  Duration heartbeat = std::chrono::milliseconds(250);
  Duration silence_max = std::chrono::seconds(1);    // without a byte a peer is dead
  Duration handshake_max = std::chrono::seconds(2);  // resolving and connecting included
  size_t accepted_max = kConnectionsMax;
  net::Resolver::Lookup lookup = net::resolve;
};

// This host's boot id; empty where the kernel does not tell: then nothing is local.
std::string boot_id();

class SocketMover final : public KvMover {
 public:
  // `arena` outlives the mover; its layout is config.identity's. A port that is taken: kUnavailable names it.
  static Result<std::unique_ptr<SocketMover>> create(SocketMoverConfig config, kv::KvArena& arena);
  ~SocketMover() override;

  void execute(Command command) override;
  std::vector<MoverEvent> poll(Duration timeout) override;
  void wake() override;

  uint16_t port() const { return listener_ ? listener_->local.port() : 0; }

 private:
  // In the order of the handshake.
  enum class Phase : uint8_t {
    kResolving,
    kConnecting,
    kTls,
    kHello,
    kChallenge,
    kProof,
    kWelcome,
    kArena,
    kReady,
    kUp
  };
  enum class Reading : uint8_t { kHead, kBody, kKvHead, kKvBytes };

  // P: the pushes of one transfer, of which the first is being sent. Stays until its last one.
  struct Outflow {
    TransferId transfer;
    std::deque<Push> pushes;
    kv::PieceCursor next;  // of the first
    size_t offset = 0;     // within the layer range of the next piece
    uint64_t sent = 0;     // of the transfer
    uint64_t acked = 0;
    void begin_first() {
      next = kv::PieceCursor(pushes.front().move);
      offset = 0;
    }
  };
  // The frame being written: head, then bytes of the arena.
  struct OutFrame {
    std::array<std::byte, kFrameHeadBytes + kKvHeadBytes> head{};
    const std::byte* bytes = nullptr;  // of the arena, or `staged`
    KvFrame frame;
    BlockId source{};
    size_t done = 0;  // of head and bytes together
  };
  // The blocks of a transfer that failed or was stopped. Over when P has said Withdrawn or the connection,
  // and with it the fabric's way to P, is gone; P has as long as a heartbeat may be missing.
  struct Quarantine {
    Time since;
    size_t stops = 0;            // StopStores to be answered
    std::optional<Error> error;  // MoveFailed to be told
  };
  struct Connection {
    PeerId id{};
    net::Fd fd;
    net::Fd local_fd;  // caller: to the listener's Unix socket, kept so that its end is seen
    std::optional<net::TlsSession> tls;
    std::string name;  // "host:port"
    std::string host;  // D: as it was asked for
    uint16_t port = 0;
    std::deque<net::Endpoint> endpoints;  // D: of that host, not tried yet
    Phase phase = Phase::kHello;
    Flow flow = Flow::kToCaller;
    Time began;
    Time last_received;
    Time last_sent;
    bool wants_write = false;
    Hello hello;
    Challenge challenge;
    Identity peer;
    Nonce local_token{};
    std::unique_ptr<kv::KvArena> arena;  // D: P's, mapped
    bool local = false;
    // ucx: this side's end, and on P what D lets it write
    std::unique_ptr<ucx::FabricPeer> fabric;
    FabricAddress their_fabric;
    std::map<TransferId, Landing> landings;
    Time progress_told;
    // D, ucx: transfers that did not land and whose blocks P may still write
    std::map<TransferId, Quarantine> quarantine;
    // reading
    Reading reading = Reading::kHead;
    std::array<std::byte, kKvHeadBytes> head_bytes{};
    FrameHead head;
    KvFrame frame;
    bool frame_discarded = false;
    std::vector<std::byte> body;
    size_t filled = 0;
    // writing
    std::deque<std::vector<std::byte>> outgoing;
    size_t outgoing_done = 0;  // of the first
    size_t outgoing_bytes = 0;
    std::optional<OutFrame> out_frame;
    std::deque<Outflow> outflows;  // round-robin
    std::deque<TransferId> stopped;
    // The KV bytes of one frame whose piece is not a whole block here: P gathers them, D scatters them.
    std::vector<std::byte> staged;
  };
  using ConnectionMap = std::map<PeerId, std::unique_ptr<Connection>>;
  struct LocalVisitor {
    net::Fd fd;
    Nonce token{};
    size_t filled = 0;
    net::Fd arena;  // a calling P's
    Time began;
    bool served = false;  // stays open, so that the peer sees the end of this process
  };

  SocketMover(SocketMoverConfig config, kv::KvArena& arena)
      : config_(std::move(config)), arena_(arena), copier_(arena) {}

  // socket_mover.cc: connections and time
  void run(Connect& command);
  void run(Send& command);
  void run(AllowStores& command);
  void run(StopStores& command);
  void run(Push& command);
  void run(StopPush& command);
  void run(Close& command);
  void take_names();
  Result<void> open_next(Connection& connection);
  Result<void> open_connection(Connection& connection, const net::Endpoint& endpoint);
  void serve_connecting(Connection& connection, uint32_t events);
  void accept_peers();
  void rest(int listener, uint64_t key);
  void serve(uint64_t key, uint32_t events);
  void check_times();
  void flush();
  void lose(PeerId peer, Error error);
  void copy_local();
  void copy_next(const Grant& grant);
  void watch(int fd, uint64_t key, bool write, bool add);
  Connection* find(PeerId peer);

  // handshake.cc
  void begin_tls(Connection& connection, net::TlsRole role);
  Result<void> serve_tls(Connection& connection);
  static bool refuse_plainly(Connection& connection, const Error& error);
  void say_hello(Connection& connection);
  Result<void> take_handshake(Connection& connection, Message& message);
  Result<void> take_hello(Connection& connection, Hello& hello);
  Result<void> take_challenge(Connection& connection, Challenge& challenge);
  Result<void> take_welcome(Connection& connection, const Welcome& welcome);
  bool knock_locally(Connection& connection, const Welcome& welcome);
  void take_arena(Connection& connection);
  Result<void> be_ready(Connection& connection, bool local);
  Result<void> take_ready(Connection& connection, const Ready& ready);
  void be_up(Connection& connection);
  void accept_local();
  void serve_local(uint64_t visitor);
  bool exchange_arena(LocalVisitor& visitor);

  // fabric.cc
  Result<void> create_fabric();
  static bool takes_kv(const Connection& connection);
  Result<FabricAddress> offer_fabric(Connection& connection);
  Result<void> connect_fabric(Connection& connection, const FabricAddress& theirs);
  Result<void> remember_landing(Connection& connection, const Landing& landing);
  void push_to_fabric(Connection& connection, Push push);
  void post_after_kv(Connection& connection, const Message& message);
  Result<void> take_said(Connection& connection);
  void serve_fabrics();
  bool fabrics_may_sleep();
  void take_fabric_end(Connection& connection, const ucx::FabricEnd& end);
  Quarantine& quarantine(Connection& connection, TransferId transfer);
  void end_quarantine(Connection& connection, TransferId transfer);
  void check_quarantine(const Connection& connection, std::vector<std::pair<PeerId, Error>>& dead) const;

  // receive.cc
  Result<void> read(Connection& connection);
  static Result<std::optional<size_t>> receive(Connection& connection, std::span<std::byte> space);
  Result<void> finish_part(Connection& connection);
  Result<void> take_message(Connection& connection, Message& message);
  Result<void> take_announce(Connection& connection, Announce& announce);
  void take_pushed(Connection& connection, const Pushed& pushed);
  Result<void> begin_frame(Connection& connection);
  void end_frame(Connection& connection);
  std::span<std::byte> missing(Connection& connection);
  void fail_move(TransferId transfer, Error error);
  bool was_stopped(const Connection& connection, TransferId transfer) const;

  // send.cc
  void post(Connection& connection, const Message& message);
  Result<bool> send_some(Connection& connection, std::span<const std::byte> head,
                         std::span<const std::byte> bytes, size_t& done);
  Result<void> write(Connection& connection);
  Result<bool> write_messages(Connection& connection);
  Result<bool> write_frame(Connection& connection);
  bool next_frame(Connection& connection);
  const std::byte* find_bytes(Connection& connection, const kv::BlockPart& part, const KvFrame& frame);
  void end_out_frame(Connection& connection);

  SocketMoverConfig config_;
  kv::KvArena& arena_;
  local::Copier copier_;
  SteadyClock clock_;
  Time now_;
  Time last_poll_ = kNever;
  net::Fd epoll_;
  net::Fd wake_;
  std::optional<net::Resolver> resolver_;
  std::optional<net::Listener> listener_;
  net::Fd local_listener_;
  std::string local_name_;
  struct Resting {
    int listener = -1;
    uint64_t key = 0;
    Time until;
  };
  std::vector<Resting> resting_;
  std::map<uint64_t, LocalVisitor> visitors_;
  uint64_t next_visitor_ = 0;
  uint64_t next_accepted_ = kAcceptedPeers;
  std::unique_ptr<ucx::Fabric> fabric_;  // outlives the connections
  ConnectionMap connections_;
  Grants grants_;
  std::vector<std::byte> scratch_;
  std::vector<MoverEvent> events_;
};

}  // namespace baton::transfer::tcp
