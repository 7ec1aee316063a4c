// A network in memory with a simulated clock: movers of one process that carry real KV between real arenas,
// with the checks of the real ones, while connections are slow, end, or cannot be made, by seed. Messages of
// one connection keep their order, as on TCP; different connections overtake each other. Single-threaded.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kv/arena.h"
#include "transfer/grant.h"
#include "transfer/mover.h"

namespace baton::transfer::fake {

struct FakeNetworkConfig {
  uint64_t seed = 0;
  Duration delay_max = std::chrono::milliseconds(5);  // of one message, on top of those before it
  uint32_t repeat_percent = 0;   // Renew, Claim, Landing, PrefillDone, Taken, ReleaseHandover come twice
  uint32_t blocks_per_poll = 4;  // P sends at most this many pieces at a time
};

class FakeMover;

class FakeNetwork {
 public:
  explicit FakeNetwork(FakeNetworkConfig config) : config_(config), random_(config.seed) {}

  // A process that can be reached at host:port. Ends with its mover: its peers then lose it at once.
  // `arena` outlives the mover.
  std::unique_ptr<FakeMover> join(std::string host, uint16_t port, Identity identity, kv::KvArena& arena);

  // Never goes back.
  void set_now(Time now) { now_ = now; }
  Time now() const { return now_; }
  // When the next delivery is due, kNever if none is on its way. Pushes go on at every poll.
  Time next_due() const;

  // Ends a connection that is open, chosen by the seed. False if there is none.
  bool cut_any();
  // As when a process is stopped (SIGSTOP): it takes nothing until it thaws, and finds then what has reached
  // it before its peers lost it, which they do after a second of silence.
  void freeze(FakeMover& mover, bool frozen);
  // Nothing passes between what listens on these ports, now and in later lives; after a second both lose each
  // other.
  void part(uint16_t one, uint16_t other, bool parted);

 private:
  friend class FakeMover;
  struct KvBytes {
    KvFrame frame;
    std::vector<std::byte> bytes;
  };
  struct Up {
    Identity peer;
  };
  struct Lost {
    Error error;
  };
  using Parcel = std::variant<Up, Lost, Message, KvBytes>;
  struct Delivery {
    Time due;
    Parcel parcel;
  };
  // One end of a connection.
  struct End {
    FakeMover* mover = nullptr;
    uint16_t port = 0;
    PeerId id{};
    std::deque<Delivery> arriving;
    Time last_due;
    bool up = false;
  };
  struct Connection {
    std::array<End, 2> ends;  // who connected, who listened
    Flow flow = Flow::kToCaller;
    bool open = false;
    Time silent_since = kNever;
  };

  void connect(FakeMover& from, const Connect& command);
  void send(Connection& connection, size_t to, Parcel parcel);
  void end(Connection& connection, const std::string& reason);
  void leave(FakeMover& mover);
  bool is_parted(const Connection& connection) const;
  void note_silence();
  void end_silent();
  Duration delay();

  FakeNetworkConfig config_;
  std::mt19937_64 random_;
  Time now_;
  std::vector<FakeMover*> movers_;
  std::set<std::pair<uint16_t, uint16_t>> parted_;  // ports, the lower first
  std::vector<std::unique_ptr<Connection>> connections_;
  uint64_t next_accepted_ = kAcceptedPeers;
};

class FakeMover final : public KvMover {
 public:
  ~FakeMover() override;

  void execute(Command command) override;
  // Never waits.
  std::vector<MoverEvent> poll(Duration timeout) override;
  void wake() override {}
  // Whether poll() goes on with pushes.
  bool is_sending() const { return !outflows_.empty() || !events_.empty(); }

 private:
  friend class FakeNetwork;
  // The pushes of one transfer, of which the first is being sent.
  struct Outflow {
    std::deque<Push> pushes;
    kv::PieceCursor next;
  };

  FakeMover(FakeNetwork& network, std::string host, uint16_t port, Identity identity, kv::KvArena& arena)
      : network_(network),
        host_(std::move(host)),
        port_(port),
        identity_(std::move(identity)),
        arena_(arena) {}

  std::pair<FakeNetwork::Connection*, size_t> find(PeerId peer);
  void take(FakeNetwork::Connection& connection, size_t at, FakeNetwork::Parcel& parcel);
  void take_message(PeerId peer, Message& message);
  void take_bytes(const FakeNetwork::KvBytes& bytes);
  void fail_move(TransferId transfer, Error error);
  void send_blocks();
  bool send_piece(Outflow& flow);

  FakeNetwork& network_;
  std::string host_;
  uint16_t port_;
  Identity identity_;
  kv::KvArena& arena_;
  bool frozen_ = false;
  Grants grants_;
  std::deque<Outflow> outflows_;
  std::vector<MoverEvent> events_;
};

}  // namespace baton::transfer::fake
