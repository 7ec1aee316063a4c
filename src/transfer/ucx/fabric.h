// KV bytes by one-sided writes through UCX: RDMA where there is a device, else UCX's own shared memory or
// TCP. P writes from its arena straight into D's blocks; messages stay on the connection of
// tcp/socket_mover.h.
//
// What makes an abort safe: each peer has a UCX worker of its own. When it is destroyed, its queue pairs,
// sockets and shared-memory queues are gone, so nothing that the peer still sends reaches memory (UCX's
// emulated writes are made by this side's worker while it is progressed; a device's by the queue pair).
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

// An RDMA port of this host is up.
bool has_active_device(const std::filesystem::path& root = "/sys/class/infiniband");

// UCX_TLS: only RDMA where there is some, else what a host without it has.
std::string choose_transports(bool has_device);

// P: everything of one push, or of everything withdrawn, is in D's memory.
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
  size_t bytes() const { return arena_.blocks() * arena_.layout().block_bytes(); }

  const Library& ucx_;
  kv::KvArena& arena_;
  ucp_context* context_ = nullptr;
  ucp_mem* memory_ = nullptr;
  std::vector<std::byte> key_;
};

class FabricPeer {
 public:
  // After it nothing of this peer reads or writes here any more.
  ~FabricPeer();
  FabricPeer(const FabricPeer&) = delete;
  FabricPeer& operator=(const FabricPeer&) = delete;

  // What the peer needs: to reach this side, and if it `may_write`, this side's arena.
  FabricAddress address(bool may_write) const;

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
  explicit FabricPeer(Fabric& fabric) : fabric_(fabric) {}
  Result<void> open();
  void progress();
  void put_next(Job& job);
  void put(size_t from, size_t to, size_t bytes);
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
  std::optional<Error> error_;
};

}  // namespace baton::transfer::ucx
