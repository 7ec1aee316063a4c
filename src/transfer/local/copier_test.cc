#include "transfer/local/copier.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace baton::transfer::local {
namespace {

// One block is larger than a slice, so that a copy takes several steps.
constexpr kv::KvLayout kLayout{
    .layers = 4, .kv_heads = 8, .head_dim = 1024, .block_tokens = 64, .dtype = DType::kF32};
constexpr kv::Move kMove{.first = 0, .end = 64, .source_tokens = 64, .target_tokens = 64};
static_assert(kLayout.layers * 2UL * 8 * 1024 * 64 * 4 > kSliceBytes);

class CopierTest : public testing::Test {
 protected:
  CopierTest()
      : source_(*kv::KvArena::create(kLayout, 3, random_id<Incarnation>())),
        target_(*kv::KvArena::create(kLayout, 3, random_id<Incarnation>())),
        copier_(*target_) {
    for (uint32_t layer = 0; layer < kLayout.layers; ++layer) {
      std::ranges::fill(source_->at(layer, BlockId{1}), std::byte{7});
    }
    const TransferId id = random_id<TransferId>();
    Announce announce{.transfer = id,
                      .layers = {0, kLayout.layers},
                      .first = kMove.first,
                      .end = kMove.end,
                      .source = {BlockId{1}},
                      .epochs = {source_->epoch(BlockId{1})},
                      .last = true};
    grants_[id] = Grant::of({.peer = PeerId{1},
                             .transfer = id,
                             .blocks = {BlockId{2}},
                             .epochs = {target_->epoch(BlockId{2})},
                             .move = kMove});
    add_announce(grants_[id], announce, kLayout);
    copier_.add(
        {.peer = PeerId{1}, .source = source_.get(), .announce = announce, .next = kv::PieceCursor(kMove)});
  }

  CopyEnd run() {
    while (true) {
      if (auto end = copier_.step(grants_)) return *end;
    }
  }

  std::unique_ptr<kv::KvArena> source_;
  std::unique_ptr<kv::KvArena> target_;
  Copier copier_;
  Grants grants_;
};

TEST_F(CopierTest, EveryByteOfTheBlockArrives) {
  const CopyEnd end = run();
  EXPECT_FALSE(end.error) << end.error->message;
  EXPECT_EQ(end.bytes, kLayout.block_bytes());
  for (uint32_t layer = 0; layer < kLayout.layers; ++layer) {
    EXPECT_TRUE(std::ranges::equal(source_->at(layer, BlockId{1}), target_->at(layer, BlockId{2})));
  }
  EXPECT_TRUE(copier_.is_idle());
}

TEST_F(CopierTest, ABlockThatIsGivenAwayDuringTheCopyIsNoticed) {
  ASSERT_FALSE(copier_.step(grants_)) << "the copy must take more than one step";
  source_->bump_epoch(BlockId{1});
  const CopyEnd end = run();
  ASSERT_TRUE(end.error);
  EXPECT_NE(end.error->message.find("P has given it away"), std::string::npos) << end.error->message;
}

TEST_F(CopierTest, ATargetThatHasAnotherOwnerIsNotWritten) {
  target_->bump_epoch(BlockId{2});
  EXPECT_TRUE(run().error);
  EXPECT_EQ(target_->at(0, BlockId{2})[0], std::byte{0});
}

}  // namespace
}  // namespace baton::transfer::local
