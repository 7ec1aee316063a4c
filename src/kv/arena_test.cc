#include "kv/arena.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace baton::kv {
namespace {

constexpr KvLayout kLayout{
    .layers = 2, .kv_heads = 2, .head_dim = 8, .block_tokens = 16, .dtype = DType::kBf16};
const Incarnation kOwner{{1, 2, 3}};

std::unique_ptr<KvArena> arena_of(uint32_t blocks) {
  auto arena = KvArena::create(kLayout, blocks, kOwner);
  EXPECT_TRUE(arena) << arena.error().message;
  return std::move(*arena);
}

TEST(KvArena, ABlockBeginsZeroedAndKeepsWhatItIsGiven) {
  const auto arena = arena_of(5);
  const auto bytes = arena->at(1, BlockId{4});
  EXPECT_EQ(bytes.size(), kLayout.layer_bytes());
  for (const std::byte byte : bytes) ASSERT_EQ(byte, std::byte{0});
  std::memset(bytes.data(), 7, bytes.size());
  EXPECT_EQ(arena->at(0, BlockId{4})[0], std::byte{0});
  EXPECT_EQ(std::as_const(*arena).at(1, BlockId{4})[0], std::byte{7});
  EXPECT_EQ(arena->data() + kLayout.offset(1, BlockId{4}), bytes.data());
}

TEST(KvArena, APeerSeesBytesAndEpochsOfTheOwner) {
  const auto arena = arena_of(3);
  auto peer = KvArena::map_peer(dup(arena->fd()), kLayout, kOwner);
  ASSERT_TRUE(peer) << peer.error().message;
  EXPECT_EQ((*peer)->blocks(), 3U);
  std::memset(arena->at(0, BlockId{2}).data(), 9, 4);
  arena->bump_epoch(BlockId{2});
  EXPECT_EQ(std::as_const(**peer).at(0, BlockId{2})[3], std::byte{9});
  EXPECT_EQ((*peer)->epoch(BlockId{2}), 1U);
  EXPECT_EQ((*peer)->epoch(BlockId{1}), 0U);
}

TEST(KvArena, ItsFileCannotBeCutUnderAReader) {
  const auto arena = arena_of(3);
  EXPECT_NE(ftruncate(arena->fd(), 4096), 0);
}

TEST(KvArena, APeerThatDiffersIsRefusedByTheNameOfTheField) {
  const auto arena = arena_of(3);
  struct Row {
    const char* expected;
    KvLayout layout;
    Incarnation owner;
  };
  KvLayout heads = kLayout;
  heads.kv_heads = 4;
  KvLayout dtype = kLayout;
  dtype.dtype = DType::kF32;
  for (const Row& row : {Row{"kv_heads is 2, expected 4", heads, kOwner}, Row{"dtype", dtype, kOwner},
                         Row{"owner is 010203", kLayout, Incarnation{{9}}}}) {
    const auto peer = KvArena::map_peer(dup(arena->fd()), row.layout, row.owner);
    ASSERT_FALSE(peer);
    EXPECT_EQ(peer.error().code, Code::kCorrupt);
    EXPECT_NE(peer.error().message.find(row.expected), std::string::npos) << peer.error().message;
  }
}

TEST(KvArena, AFileThatIsNotSealedOrTooShortIsRefused) {
  const int open_file = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(open_file, 1 << 20), 0);
  EXPECT_NE(KvArena::map_peer(open_file, kLayout, kOwner).error().message.find("seals"), std::string::npos);

  // A header that promises more blocks than the file holds.
  const auto arena = arena_of(3);
  std::array<std::byte, 4096> header;
  std::memcpy(header.data(), arena->data() - 4096, 4096);
  const int lying = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(write(lying, header.data(), header.size()), 4096);
  ASSERT_EQ(fcntl(lying, F_ADD_SEALS, F_SEAL_SHRINK), 0);
  const auto peer = KvArena::map_peer(lying, kLayout, kOwner);
  ASSERT_FALSE(peer);
  EXPECT_NE(peer.error().message.find("do not hold its 3 blocks"), std::string::npos) << peer.error().message;
}

TEST(KvArena, AnImpossibleSizeIsAnErrorThatNamesIt) {
  EXPECT_EQ(KvArena::create(kLayout, 0, kOwner).error().code, Code::kInvalid);
  KvLayout large = kLayout;
  large.layers = 4096;
  large.kv_heads = 4096;
  large.head_dim = 4096;
  EXPECT_EQ(KvArena::create(large, 1000, kOwner).error().code, Code::kExhausted);
  KvLayout odd = kLayout;
  odd.block_tokens = 17;
  EXPECT_NE(KvArena::create(odd, 1, kOwner).error().message.find("block_size is 17"), std::string::npos);
}

}  // namespace
}  // namespace baton::kv
