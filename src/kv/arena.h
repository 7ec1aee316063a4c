// The bytes of all KV blocks of one rank, in a sealed memfd so that another process of this host may map it
// read-only. The arena knows no owners: at any moment a block's bytes belong to whoever the engine's block
// state names. Each block has an epoch beside the bytes, in the same mapping: it grows whenever the block
// changes its owner, so that a reader in another process who finds the epoch unchanged after copying knows
// that what it copied was never anybody else's (a seqlock whose writer is the owner).
//
// Mapping: one header page run (magic, incarnation, block count, layout, epochs), then the blocks at a
// page-aligned offset in the order of KvLayout.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/ids.h"
#include "base/result.h"
#include "kv/layout.h"

namespace baton::kv {

// Of each block of an arena: whose bytes they are, in the sense that a change tells of another owner.
class BlockEpochs {
 public:
  virtual ~BlockEpochs() = default;
  virtual uint32_t epoch(BlockId block) const = 0;
};

class KvArena final : public BlockEpochs {
 public:
  // Reserves `blocks` zeroed blocks (pages are faulted in on first touch). kExhausted names bytes wanted and
  // available; kInvalid names the layout field.
  static Result<std::unique_ptr<KvArena>> create(const KvLayout& layout, uint32_t blocks, Incarnation owner);

  // Maps another process's arena read-only. `fd` is taken. kCorrupt unless the header matches `layout` and
  // `owner` and the file is sealed against shrinking (F_SEAL_SHRINK), so that no read can ever SIGBUS.
  static Result<std::unique_ptr<KvArena>> map_peer(int fd, const KvLayout& layout, Incarnation owner);

  ~KvArena() override;
  KvArena(const KvArena&) = delete;
  KvArena& operator=(const KvArena&) = delete;

  const KvLayout& layout() const { return layout_; }
  uint32_t blocks() const { return blocks_; }

  // First byte of all blocks; the offset of (layer, block) is layout().offset(layer, block).
  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::span<std::byte> at(uint32_t layer, BlockId block);
  std::span<const std::byte> at(uint32_t layer, BlockId block) const;

  // The epoch of a block. bump_epoch is the owner's: called before the block's bytes may change hands.
  uint32_t epoch(BlockId block) const override;
  void bump_epoch(BlockId block);

  // Faults every page in, so that no step pays for it (--warmup).
  void touch_all();

  // For handing to a peer of this host by SCM_RIGHTS; stays owned by the arena.
  int fd() const { return fd_; }

 private:
  KvArena() = default;

  KvLayout layout_;
  uint32_t blocks_ = 0;
  int fd_ = -1;
  bool writable_ = false;
  std::byte* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  std::byte* data_ = nullptr;
  std::atomic<uint32_t>* epochs_ = nullptr;  // [blocks], inside the mapping
};

}  // namespace baton::kv
