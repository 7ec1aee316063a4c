// The fake keeps the law of language_model.h, and no byte of the cache can change unnoticed.
#include "model/testing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace baton::model {
namespace {

struct FakeRun {
  FakeModel model;
  std::unique_ptr<kv::KvArena> arena;

  explicit FakeRun(const FakeModelOptions& options = {})
      : model(options), arena(*kv::KvArena::create(options.layout, 64, Incarnation{})) {}

  // Logits of the last of `rows` rows of `ids` from `first` on.
  std::vector<float> run(std::span<const TokenId> ids, uint32_t first, std::span<const BlockId> blocks) {
    const uint32_t rows = static_cast<uint32_t>(ids.size()) - first;
    const SequenceRows sequence{rows, first, blocks};
    const uint32_t last = rows - 1;
    EXPECT_TRUE(model.forward({ids.subspan(first), {&sequence, 1}, {&last, 1}}, *arena, {}));
    const auto logits = model.logits(0, 1);
    return {logits.begin(), logits.end()};
  }
};

std::vector<TokenId> some_tokens(size_t count) {
  std::vector<TokenId> ids(count);
  for (size_t i = 0; i < count; ++i) ids[i] = static_cast<TokenId>(i * 7 % 60);
  return ids;
}

const std::vector<BlockId> kForward = {BlockId{3}, BlockId{1}, BlockId{2}};
const std::vector<BlockId> kElsewhere = {BlockId{10}, BlockId{30}, BlockId{20}};

TEST(FakeModel, GivesTheSameLogitsHoweverTheSequenceIsCut) {
  FakeRun fake;
  const std::vector<TokenId> ids = some_tokens(41);
  const std::vector<float> whole = fake.run(ids, 0, kForward);
  for (uint32_t cut = 1; cut < ids.size(); ++cut) {
    fake.run(std::span(ids).first(cut), 0, kElsewhere);
    EXPECT_EQ(fake.run(ids, cut, kElsewhere), whole) << cut;
  }
}

TEST(FakeModel, NoticesEveryByteOfTheHistory) {
  FakeRun fake(
      {.layout = {.layers = 2, .kv_heads = 2, .head_dim = 16, .block_tokens = 16, .dtype = DType::kBf16}});
  const std::vector<TokenId> ids = some_tokens(33);
  const std::vector<BlockId> blocks(kForward.begin(), kForward.end());
  const std::vector<float> expected = fake.run(ids, 0, blocks);
  for (const BlockId block : {blocks[0], blocks[1]}) {  // full blocks; the third holds the last token
    for (size_t i = 0; i < fake.arena->layout().block_bytes(); i += 5) {
      std::byte& byte = fake.arena->data()[fake.arena->layout().offset(0, block) + i];
      byte ^= std::byte{0x10};
      EXPECT_NE(fake.run(ids, 32, blocks), expected) << index(block) << ' ' << i;
      byte ^= std::byte{0x10};
    }
  }
  const std::vector<BlockId> exchanged = {blocks[1], blocks[0], blocks[2]};
  EXPECT_NE(fake.run(ids, 32, exchanged), expected);
  EXPECT_EQ(fake.run(ids, 32, blocks), expected);
}

TEST(FakeModel, NeverReadsBehindTheRow) {
  FakeRun fake;
  const std::vector<TokenId> ids = some_tokens(20);
  const std::vector<float> expected = fake.run(ids, 0, kForward);
  std::fill_n(fake.arena->data(), fake.arena->layout().block_bytes() * 8, std::byte{0xFF});
  EXPECT_EQ(fake.run(ids, 0, kForward), expected);
}

TEST(FakeModel, NanTokenAndHookAndFingerprint) {
  FakeRun fake({.nan_token = 5});
  const std::vector<TokenId> ids = {1, 5};
  EXPECT_TRUE(std::ranges::all_of(fake.run(ids, 0, kForward), [](float x) { return x != x; }));
  const SequenceRows sequence{2, 0, kForward};
  EXPECT_FALSE(fake.model.forward({ids, {&sequence, 1}, {}}, *fake.arena, [](uint32_t) { return false; }));
  EXPECT_EQ(fake.model.rows_computed(), 4U);
  EXPECT_NE(FakeModel({.weights = 2}).info().fingerprint, fake.model.info().fingerprint);
}

}  // namespace
}  // namespace baton::model
