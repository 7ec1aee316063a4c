// What every kernel runs on: an instruction set, a team of threads and memory for intermediate values.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "kernels/isa.h"
#include "kernels/thread_team.h"

namespace baton::kernels {

struct Ops;  // cpu/ops.h: the table of functions of one instruction set

// Owned by the engine thread: kernels are called from one thread at a time. Two Cpus share nothing.
class Cpu {
 public:
  // `isa` must be available (CHECKed); `threads` as for ThreadTeam.
  Cpu(Isa isa, unsigned threads);
  ~Cpu();

  Isa isa() const { return isa_; }
  ThreadTeam& team() const { return team_; }
  const Ops& ops() const { return ops_; }

  // At least `bytes`, aligned to 64, content undefined; grows and is kept. Valid until the next call: only
  // kernels use it, within one call.
  std::byte* scratch(size_t bytes) const;

 private:
  struct Buffer;
  const Isa isa_;
  const Ops& ops_;
  mutable ThreadTeam team_;
  std::unique_ptr<Buffer> buffer_;
};

}  // namespace baton::kernels
