// Copies KV out of a peer's arena, which is mapped read-only, into blocks that this process owns. Works in
// slices, so that its thread stays responsive, and round-robin among transfers. Owned by a mover.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "kv/arena.h"
#include "transfer/grant.h"
#include "transfer/messages.h"

namespace baton::transfer::local {

inline constexpr size_t kSliceBytes = size_t{4} << 20;  // of one step(): about half a millisecond

// One Announce being copied, the first of its grant. `source` outlives the job: the connection owns the
// mapping and stops its jobs.
struct CopyJob {
  PeerId peer{};
  const kv::KvArena* source = nullptr;
  Announce announce;
  kv::PieceCursor next;  // next piece
  size_t offset = 0;     // next byte of it, within the layer range
};

// How one job ended.
struct CopyEnd {
  PeerId peer{};
  TransferId transfer;
  bool last = false;
  size_t bytes = 0;
  std::optional<Error> error;
};

class Copier {
 public:
  explicit Copier(kv::KvArena& target) : target_(target) {}

  // `announce` fits the grant and both arenas (checked by the caller: check_announce).
  void add(CopyJob job) { jobs_.push_back(std::move(job)); }
  void drop_transfer(TransferId transfer);
  void drop_peer(PeerId peer);
  bool is_idle() const { return jobs_.empty(); }

  // Copies at most one slice of the job whose turn it is, into the blocks of `grants`. Nothing unless the job
  // ended with it.
  std::optional<CopyEnd> step(const Grants& grants);

 private:
  std::optional<Error> find_foreign(const CopyJob& job, const Grant& grant) const;
  void copy_slice(CopyJob& job, const Grant& grant);
  size_t count_neighbours(const CopyJob& job, const Grant& grant, size_t blocks_max) const;

  kv::KvArena& target_;
  std::deque<CopyJob> jobs_;
};

}  // namespace baton::transfer::local
