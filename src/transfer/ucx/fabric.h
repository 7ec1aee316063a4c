// KV bytes through UCX: RDMA where there is a device, else UCX's own shared memory or TCP. P writes
// one-sidedly from its arena straight into D's blocks; messages stay on the connection of tcp/socket_mover.h.
//
// Over UCX's TCP the bytes travel as active messages instead, which D's side checks against its arena and
// stores. UCX 1.13 acknowledges an emulated write with a send whose failure it does not expect: a P that dies
// in the middle of its writes would end D's process ("Fatal: unexpected error", ucp_request.inl). Messages
// are not acknowledged, so they say themselves when everything before them has come (say()).
//
// What makes an abort safe: each peer has a UCX worker of its own. When it is destroyed, its queue pairs,
// sockets and shared-memory queues are gone, so nothing that the peer still sends reaches memory (UCX's
// emulated writes and messages are stored by this side's worker while it is progressed; a device's writes by
// the queue pair).
// UCX reports no peer that was stopped: the heartbeat of the connection does.
//
// Used by the transfer thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "kv/arena.h"
#include "kv/pieces.h"
#include "transfer/messages.h"
#include "transfer/mover.h"

struct ucp_context;
struct ucp_ep;
struct ucp_mem;
struct ucp_rkey;
struct ucp_worker;

namespace baton::transfer::ucx {

struct Library;

inline constexpr size_t kPutBytesMax = size_t{4} << 20;  // of one write; larger emulated ones collapse
inline constexpr size_t kPutsMax = 32;                   // of a peer under way
inline constexpr size_t kMessageBytesMax = size_t{120}
                                           << 10;  // of KV; with its heads one segment of UCX's TCP

// An RDMA port of this host is up.
bool has_active_device(const std::filesystem::path& root = "/sys/class/infiniband");

// UCX_TLS: only RDMA where there is some, else what a host without it has.
std::string choose_transports(bool has_device);

// KV has to travel as messages if it may travel over this transport of UCX.
bool needs_messages(const std::string& transports);

// P: everything of one push, or of everything withdrawn, is in D's memory; where KV travels as messages, it
// has left P's.
struct FabricEnd {
  TransferId transfer;
  LayerRange layers;
  bool last = false;
  bool withdrawn = false;  // no push, but the end of all of them
  uint64_t bytes = 0;
  std::vector<BlockId> source;
  std::vector<uint32_t> epochs;  // [source], as announced
};

class FabricPeer;

// This process: UCX's context and the arena, registered once.
class Fabric {
 public:
  // `arena` outlives it. kUnavailable names UCX's error.
  static Result<std::unique_ptr<Fabric>> create(kv::KvArena& arena, const std::string& transports);
  ~Fabric();
  Fabric(const Fabric&) = delete;
  Fabric& operator=(const Fabric&) = delete;

  // A way for one peer; outlived by the Fabric.
  Result<std::unique_ptr<FabricPeer>> open_peer();

 private:
  friend class FabricPeer;
  Fabric(const Library& library, kv::KvArena& arena) : ucx_(library), arena_(arena) {}
  bool sends_messages() const { return sends_messages_; }
  size_t bytes() const { return arena_.blocks() * arena_.layout().block_bytes(); }

  const Library& ucx_;
  kv::KvArena& arena_;
  ucp_context* context_ = nullptr;
  ucp_mem* memory_ = nullptr;
  std::vector<std::byte> key_;
  bool sends_messages_ = false;
};

class FabricPeer {
 public:
  // After it nothing of this peer reads or writes here any more.
  ~FabricPeer();
  FabricPeer(const FabricPeer&) = delete;
  FabricPeer& operator=(const FabricPeer&) = delete;

  // What the peer needs: to reach this side, and if it `may_write`, this side's arena.
  FabricAddress address(bool may_write);

  // The address is an authenticated peer's: UCX reads it without suspicion. `theirs` is the peer's layout;
  // its arena is not this side's to write if the address has no key.
  Result<void> connect(const FabricAddress& address, const kv::KvLayout& theirs);

  // P: the peer's arena has these blocks.
  Result<void> check_blocks(std::span<const BlockId> blocks) const;
  // P: writes the push into blocks of the peer, [push.move.target_blocks()]. In order.
  void push(Push push, std::vector<BlockId> target);
  // P: writes nothing more of this transfer; what has begun goes on.
  void drop(TransferId transfer);
  // P: the same; the end is told when everything that has begun is over.
  void withdraw(TransferId transfer);

  // P: KV travels as messages. Then what is told D about it has to be said here, to come after the bytes that
  // were pushed before.
  bool sends_messages() const { return fabric_.sends_messages(); }
  void say(std::vector<std::byte> frame);
  // D: frames that P has said, in order.
  std::vector<std::vector<std::byte>> take_said();

  // P: if writes have ended since the last call, the transfers that are being written or wait for their turn,
  // and how much of each was given to UCX so far.
  struct Progress {
    TransferId transfer;
    uint64_t bytes = 0;
  };
  std::vector<Progress> take_progress();

  // Does what can be done without waiting. Fails when the peer cannot be reached any more.
  Result<std::vector<FabricEnd>> step();
  // False if step() has something to do at once; else event_fd() tells when.
  bool may_sleep();
  bool is_idle() const { return jobs_.empty() && ends_.empty() && in_flight_ == 0; }
  int event_fd() const { return event_fd_; }

 private:
  friend class Fabric;
  struct Job {
    Push push;
    std::vector<BlockId> target;
    kv::PieceCursor next;
    size_t offset = 0;  // within the layer range of the next piece
    uint64_t bytes = 0;
  };
  struct Flush {
    FabricPeer* peer = nullptr;
    FabricEnd end;
    bool done = false;
  };
  enum class Kind : uint64_t { kBytes, kFrame };
  struct MessageHead {
    Kind kind{};
    uint64_t at = 0;  // kBytes: where in D's arena; kFrame: KV bytes sent before it
  };
  // A message under way; addresses are UCX's until it is over.
  struct Sent {
    FabricPeer* peer = nullptr;
    MessageHead head;
    std::vector<std::byte> frame;
    std::list<Sent>::iterator self;
  };
  explicit FabricPeer(Fabric& fabric) : fabric_(fabric) {}
  Result<void> open();
  Result<void> open_messages();
  void progress();
  void put_next(Job& job);
  void put(size_t from, size_t to, size_t bytes);
  void send(MessageHead head, std::vector<std::byte> frame, const std::byte* bytes, size_t count);
  void receive(std::span<const std::byte> head, std::span<const std::byte> bytes);
  void flush(FabricEnd end);
  void note(int status, const char* what);

  Fabric& fabric_;
  kv::KvLayout theirs_;
  uint64_t their_base_ = 0;
  uint64_t their_bytes_ = 0;
  ucp_worker* worker_ = nullptr;
  ucp_ep* endpoint_ = nullptr;
  ucp_rkey* key_ = nullptr;
  int event_fd_ = -1;
  std::vector<std::byte> worker_address_;
  std::deque<Job> jobs_;
  std::list<Flush> ends_;  // in order; addresses are UCX's until done
  size_t in_flight_ = 0;
  bool is_written_ = false;  // the peer may write into this side's arena
  std::list<Sent> sent_;
  uint64_t bytes_sent_ = 0;      // as messages
  uint64_t bytes_received_ = 0;  // as messages
  std::vector<std::vector<std::byte>> said_;
  bool has_written_ = false;  // since take_progress()
  std::optional<Error> error_;
};

}  // namespace baton::transfer::ucx
