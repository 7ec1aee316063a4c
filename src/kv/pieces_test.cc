#include "kv/pieces.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

namespace baton::kv {
namespace {

constexpr std::array<uint32_t, 6> kSizes = {16, 32, 48, 64, 80, 1024};

// Every (source size, target size, first, total) up to a few blocks of the larger one.
template <class Visit>
void for_each_move(const Visit& visit) {
  for (const uint32_t source : kSizes) {
    for (const uint32_t target : kSizes) {
      for (uint32_t total = 1; total <= 2 * std::max(source, target) + 17;
           total += source * target > 9000 ? 61 : 7) {
        for (uint32_t first = 0; first < total; first += target)
          visit(move_of(first, total, source, target), total);
      }
    }
  }
}

TEST(Pieces, TileTheMoveWithoutAGapAndNeverCrossABorderOfEitherSide) {
  for_each_move([](const Move& move, uint32_t total) {
    SCOPED_TRACE(testing::Message() << move.source_tokens << " to " << move.target_tokens << ", ["
                                    << move.first << ", " << total << ")");
    uint32_t at = move.first;
    uint32_t number = 0;
    PieceCursor cursor(move);
    for (; !cursor.is_done(); cursor.next(), ++number) {
      const Piece& piece = *cursor;
      ASSERT_EQ(piece.first, at);
      ASSERT_EQ(piece.number, number);
      ASSERT_GT(piece.tokens, 0U);
      ASSERT_EQ(piece.tokens % kBlockTokensMultiple, 0U);
      ASSERT_EQ(piece.source, at / move.source_tokens - move.first / move.source_tokens);
      ASSERT_EQ(piece.source_token, at % move.source_tokens);
      ASSERT_LE(piece.source_token + piece.tokens, move.source_tokens);
      ASSERT_EQ(piece.target, at / move.target_tokens - move.first / move.target_tokens);
      ASSERT_EQ(piece.target_token, at % move.target_tokens);
      ASSERT_LE(piece.target_token + piece.tokens, move.target_tokens);
      ASSERT_LT(piece.source, move.source_blocks());
      ASSERT_LT(piece.target, move.target_blocks());
      at += piece.tokens;
      // As large as it can be.
      ASSERT_TRUE(at == move.end || at % move.source_tokens == 0 || at % move.target_tokens == 0);
    }
    ASSERT_EQ(at, move.end);
    ASSERT_EQ(cursor.positions_done(), move.end - move.first);
    ASSERT_GE(at, total);
    ASSERT_LT(at - total, std::min(move.source_tokens, move.target_tokens));
    // As many blocks as each side needs for the whole prompt, but for those before `first`.
    ASSERT_EQ(move.source_blocks(),
              (total + move.source_tokens - 1) / move.source_tokens - move.first / move.source_tokens);
    ASSERT_EQ(move.target_blocks(),
              (total + move.target_tokens - 1) / move.target_tokens - move.first / move.target_tokens);
  });
}

TEST(Pieces, AreWholeBlocksWhenTheSizesAreEqual) {
  for_each_move([](const Move& move, uint32_t) {
    if (move.source_tokens != move.target_tokens) return;
    for (PieceCursor cursor(move); !cursor.is_done(); cursor.next()) {
      ASSERT_EQ(cursor->tokens, move.source_tokens);
      ASSERT_EQ(cursor->source, cursor->target);
      ASSERT_EQ(cursor->source, cursor->number);
    }
  });
}

TEST(Pieces, OfNothingAreNone) { EXPECT_TRUE(PieceCursor().is_done()); }

constexpr uint32_t kLayers = 2;
constexpr uint32_t kHeads = 3;
constexpr uint32_t kDim = 8;

KvLayout layout_of(uint32_t block_tokens, KvKind kind) {
  return {.kind = kind,
          .layers = kLayers,
          .kv_heads = kind == KvKind::kLatent ? 1 : kHeads,
          .head_dim = kDim,
          .block_tokens = block_tokens,
          .dtype = DType::kBf16};
}

std::unique_ptr<KvArena> arena_of(uint32_t block_tokens, KvKind kind, int seed) {
  auto arena = *KvArena::create(layout_of(block_tokens, kind), 2, Incarnation{});
  const size_t bytes = 2 * arena->layout().block_bytes();
  for (size_t i = 0; i < bytes; ++i)
    arena->data()[i] = static_cast<std::byte>((i * 37 + i / 251) ^ static_cast<size_t>(seed));
  return arena;
}

// The bytes of a part in piece order, one by one as the layout defines them.
std::vector<std::byte> slowly(const KvArena& arena, const BlockPart& part) {
  std::vector<std::byte> bytes;
  const KvLayout& layout = arena.layout();
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    for (uint32_t half = 0; half < layout.parts(); ++half) {
      for (uint32_t head = 0; head < layout.kv_heads; ++head) {
        for (uint32_t token = part.first; token < part.first + part.tokens; ++token) {
          for (size_t byte = 0; byte < kDim * 2; ++byte) {
            bytes.push_back(
                arena.at(layer, part.block)[half * layout.part_bytes() +
                                            (head * layout.block_tokens + token) * kDim * 2 + byte]);
          }
        }
      }
    }
  }
  return bytes;
}

struct PartRow {
  const char* name;
  uint32_t source_tokens;
  uint32_t source_first;
  uint32_t target_tokens;
  uint32_t target_first;
  uint32_t tokens;
};

class EachPart : public testing::TestWithParam<std::pair<PartRow, KvKind>> {};

TEST_P(EachPart, ArrivesByteForByteHoweverItIsCutAndTouchesNothingElse) {
  const auto& [row, kind] = GetParam();
  const auto source = arena_of(row.source_tokens, kind, 1);
  const BlockPart from{BlockId{1}, row.source_first, row.tokens};
  const BlockPart to{BlockId{0}, row.target_first, row.tokens};
  const std::vector<std::byte> expected = slowly(*source, from);
  for (const size_t cut : {size_t{1}, size_t{5}, size_t{256}, expected.size()}) {
    const auto copied = arena_of(row.target_tokens, kind, 2);
    const auto scattered = arena_of(row.target_tokens, kind, 2);
    for (size_t at = 0; at < expected.size(); at += cut) {
      const size_t bytes = std::min(cut, expected.size() - at);
      std::vector<std::byte> gathered(bytes);
      gather(*source, from, at, gathered);
      ASSERT_EQ(0, std::memcmp(gathered.data(), expected.data() + at, bytes)) << at;
      scatter(*scattered, to, at, gathered);
      copy_part(*copied, to, *source, from, at, bytes);
      const auto whole = find_whole(std::as_const(*source), from, at, bytes);
      ASSERT_EQ(whole.empty(), row.tokens != row.source_tokens);
      if (!whole.empty()) ASSERT_EQ(0, std::memcmp(whole.data(), expected.data() + at, bytes));
    }
    EXPECT_EQ(slowly(*copied, to), expected);
    EXPECT_EQ(slowly(*scattered, to), expected);
    for (const BlockPart& rest :
         {BlockPart{BlockId{1}, 0, row.target_tokens}, BlockPart{BlockId{0}, 0, row.target_first},
          BlockPart{BlockId{0}, row.target_first + row.tokens,
                    row.target_tokens - row.target_first - row.tokens}}) {
      const auto before = arena_of(row.target_tokens, kind, 2);
      EXPECT_EQ(slowly(*copied, rest), slowly(*before, rest));
      EXPECT_EQ(slowly(*scattered, rest), slowly(*before, rest));
    }
  }
}

std::vector<std::pair<PartRow, KvKind>> parts_of_both_kinds() {
  std::vector<std::pair<PartRow, KvKind>> all;
  for (const KvKind kind : {KvKind::kKeysAndValues, KvKind::kLatent}) {
    for (const PartRow& row :
         {PartRow{"whole_to_whole", 16, 0, 16, 0, 16}, PartRow{"whole_to_part", 16, 0, 64, 32, 16},
          PartRow{"part_to_whole", 64, 16, 32, 0, 32}, PartRow{"part_to_part", 48, 32, 32, 16, 16}}) {
      all.emplace_back(row, kind);
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Pieces, EachPart, testing::ValuesIn(parts_of_both_kinds()), [](const auto& info) {
  return std::string(info.param.first.name) + (info.param.second == KvKind::kLatent ? "_latent" : "");
});

}  // namespace
}  // namespace baton::kv
