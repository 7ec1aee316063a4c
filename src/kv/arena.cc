#include "kv/arena.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>

#include "base/check.h"

namespace baton::kv {
namespace {

constexpr size_t kPage = 4096;
constexpr uint64_t kMagic = 0x414E45524156'4B42;  // "BKVARENA", read as a little-endian word
constexpr uint32_t kVersion = 2;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr size_t kArenaBytesMax = size_t{1} << 46;

// First bytes of the mapping; the epochs follow. Foreign when read by map_peer.
struct Header {
  uint64_t magic;
  uint32_t version;
  uint32_t blocks;
  uint32_t layers;
  uint32_t kind;
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t block_tokens;
  uint32_t dtype;
  uint32_t spare;
  uint32_t data_page;  // where the blocks begin, in pages
  std::array<uint8_t, 16> owner;
};
static_assert(sizeof(Header) == 64);
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(std::atomic<uint32_t>) == 4);

size_t data_offset(uint32_t blocks) {
  const size_t bytes = sizeof(Header) + size_t{blocks} * sizeof(uint32_t);
  return (bytes + kPage - 1) / kPage * kPage;
}

Header header_of(const KvLayout& layout, uint32_t blocks, Incarnation owner) {
  return {.magic = kMagic,
          .version = kVersion,
          .blocks = blocks,
          .layers = layout.layers,
          .kind = static_cast<uint32_t>(layout.kind),
          .kv_heads = layout.kv_heads,
          .head_dim = layout.head_dim,
          .block_tokens = layout.block_tokens,
          .dtype = static_cast<uint32_t>(layout.dtype),
          .spare = 0,
          .data_page = static_cast<uint32_t>(data_offset(blocks) / kPage),
          .owner = owner.bytes};
}

Failure os_failure(const char* what, size_t bytes) {
  const Code code = errno == ENOMEM || errno == ENOSPC || errno == EMFILE ? Code::kExhausted : Code::kIo;
  return fail(code, fmt::format("KV arena of {} bytes: {}: {}", bytes, what, strerrordesc_np(errno)));
}

size_t available_bytes() {
  const long pages = sysconf(_SC_AVPHYS_PAGES);
  return pages > 0 ? static_cast<size_t>(pages) * kPage : 0;
}

// Names the first field in which a peer's header differs from what its handshake promised.
Result<void> compare(const Header& found, const Header& expected) {
  struct Row {
    const char* name;
    uint64_t found;
    uint64_t expected;
  };
  for (const Row row :
       {Row{"magic", found.magic, expected.magic}, Row{"version", found.version, expected.version},
        Row{"layers", found.layers, expected.layers}, Row{"kind", found.kind, expected.kind},
        Row{"kv_heads", found.kv_heads, expected.kv_heads},
        Row{"head_dim", found.head_dim, expected.head_dim},
        Row{"block_size", found.block_tokens, expected.block_tokens},
        Row{"dtype", found.dtype, expected.dtype}, Row{"data_page", found.data_page, expected.data_page}}) {
    if (row.found != row.expected) {
      return fail(Code::kCorrupt,
                  fmt::format("peer KV arena: {} is {}, expected {}", row.name, row.found, row.expected));
    }
  }
  if (found.owner != expected.owner) {
    return fail(Code::kCorrupt,
                fmt::format("peer KV arena: owner is {}, expected {}", Incarnation{found.owner}.hex(),
                            Incarnation{expected.owner}.hex()));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<KvArena>> KvArena::create(const KvLayout& layout, uint32_t blocks, Incarnation owner) {
  TRY_DO(validate(layout));
  if (blocks == 0) return fail(Code::kInvalid, "KV arena: blocks is 0, expected at least 1");
  if (blocks > kArenaBytesMax / layout.block_bytes()) {
    return fail(Code::kExhausted, fmt::format("KV arena: {} blocks of {} bytes wanted, {} bytes available",
                                              blocks, layout.block_bytes(), available_bytes()));
  }
  const size_t bytes = data_offset(blocks) + blocks * layout.block_bytes();
  std::unique_ptr<KvArena> arena(new KvArena);
  arena->layout_ = layout;
  arena->blocks_ = blocks;
  arena->writable_ = true;
  arena->fd_ = memfd_create("baton-kv", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (arena->fd_ < 0) return os_failure("memfd_create", bytes);
  if (ftruncate(arena->fd_, static_cast<off_t>(bytes)) != 0) return os_failure("ftruncate", bytes);
  if (fcntl(arena->fd_, F_ADD_SEALS, kSeals) != 0) return os_failure("sealing", bytes);
  void* mapping = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, arena->fd_, 0);
  if (mapping == MAP_FAILED) {
    return fail(Code::kExhausted, fmt::format("KV arena: {} bytes wanted, {} available: {}", bytes,
                                              available_bytes(), strerrordesc_np(errno)));
  }
  arena->mapping_ = static_cast<std::byte*>(mapping);
  arena->mapping_bytes_ = bytes;
  arena->data_ = arena->mapping_ + data_offset(blocks);
  const Header header = header_of(layout, blocks, owner);
  std::memcpy(arena->mapping_, &header, sizeof(header));
  arena->epochs_ = reinterpret_cast<std::atomic<uint32_t>*>(arena->mapping_ + sizeof(Header));
  for (uint32_t i = 0; i < blocks; ++i) new (&arena->epochs_[i]) std::atomic<uint32_t>(0);
  return arena;
}

Result<std::unique_ptr<KvArena>> KvArena::map_peer(int fd, const KvLayout& layout, Incarnation owner) {
  std::unique_ptr<KvArena> arena(new KvArena);
  arena->fd_ = fd;
  TRY_DO(validate(layout));
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return fail(Code::kCorrupt, fmt::format("peer KV arena: seals are {}, expected F_SEAL_SHRINK", seals));
  }
  struct stat status{};
  if (fstat(fd, &status) != 0) return os_failure("fstat of a peer's", 0);
  const size_t bytes = static_cast<size_t>(status.st_size);
  if (bytes < sizeof(Header)) {
    return fail(Code::kCorrupt, fmt::format("peer KV arena: {} bytes, expected a header", bytes));
  }
  void* mapping = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (mapping == MAP_FAILED) return os_failure("mmap of a peer's", bytes);
  arena->mapping_ = static_cast<std::byte*>(mapping);
  arena->mapping_bytes_ = bytes;
  Header header;
  std::memcpy(&header, arena->mapping_, sizeof(header));
  TRY_DO(compare(header, header_of(layout, header.blocks, owner)));
  const size_t data = data_offset(header.blocks);
  if (header.blocks == 0 || bytes < data || (bytes - data) / layout.block_bytes() < header.blocks) {
    return fail(Code::kCorrupt, fmt::format("peer KV arena: {} bytes do not hold its {} blocks of {}", bytes,
                                            header.blocks, layout.block_bytes()));
  }
  arena->layout_ = layout;
  arena->blocks_ = header.blocks;
  arena->data_ = arena->mapping_ + data;
  arena->epochs_ = reinterpret_cast<std::atomic<uint32_t>*>(arena->mapping_ + sizeof(Header));
  return arena;
}

KvArena::~KvArena() {
  if (mapping_ != nullptr) munmap(mapping_, mapping_bytes_);
  if (fd_ >= 0) close(fd_);
}

std::span<std::byte> KvArena::at(uint32_t layer, BlockId block) {
  CHECK(writable_, "a peer's arena is read-only");
  CHECK(layer < layout_.layers && index(block) < blocks_, "layer {}, block {}", layer, index(block));
  return {data_ + layout_.offset(layer, block), layout_.layer_bytes()};
}

std::span<const std::byte> KvArena::at(uint32_t layer, BlockId block) const {
  CHECK(layer < layout_.layers && index(block) < blocks_, "layer {}, block {}", layer, index(block));
  return {data_ + layout_.offset(layer, block), layout_.layer_bytes()};
}

uint32_t KvArena::epoch(BlockId block) const {
  CHECK(index(block) < blocks_, "block {} of {}", index(block), blocks_);
  return epochs_[index(block)].load(std::memory_order_acquire);
}

void KvArena::bump_epoch(BlockId block) {
  CHECK(writable_ && index(block) < blocks_, "block {} of {}", index(block), blocks_);
  epochs_[index(block)].fetch_add(1, std::memory_order_acq_rel);
  // Later stores into the block must not be seen before the new epoch (Boehm 2012, "Can seqlocks get along
  // with programming language memory models?", section 4): the writer's half of the fence pair.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void KvArena::touch_all() {
  CHECK(writable_, "a peer's arena is read-only");
  for (size_t at = 0; at < mapping_bytes_; at += kPage) {
    volatile std::byte* const byte = mapping_ + at;
    *byte = *byte;
  }
}

}  // namespace baton::kv
