#include "kv/sizing.h"

#include <gtest/gtest.h>

namespace baton::kv {
namespace {

// 1 KiB per block.
constexpr KvLayout kLayout{
    .layers = 1, .kv_heads = 1, .head_dim = 16, .block_tokens = 16, .dtype = DType::kBf16};

TEST(ArenaBlocks, IsTheSmallerOfMemoryAndNeed) {
  ASSERT_EQ(kLayout.block_bytes(), 1024U);
  struct Row {
    const char* name;
    SizingInput input;
    uint32_t blocks;
  };
  const auto input = [](uint64_t available, uint32_t seqs, uint32_t tokens) {
    return SizingInput{.layout = kLayout,
                       .available_bytes = available,
                       .memory_fraction = 0.5,
                       .seqs_max = seqs,
                       .model_tokens_max = tokens,
                       .cache_bytes = {},
                       .blocks = {}};
  };
  SizingInput bytes = input(1 << 20, 4, 100);
  bytes.cache_bytes = 9 * 1024 + 5;
  SizingInput count = bytes;
  count.blocks = 8;
  SizingInput vast = bytes;
  vast.cache_bytes = uint64_t{1} << 50;
  for (const Row& row : {Row{"need", input(1 << 20, 4, 100), 28}, Row{"memory", input(40 << 10, 4, 100), 20},
                         Row{"bytes", bytes, 9}, Row{"count", count, 8},
                         Row{"more than are numbered", vast, kArenaBlocksMax}}) {
    const auto blocks = arena_blocks(row.input);
    ASSERT_TRUE(blocks) << row.name << blocks.error().message;
    EXPECT_EQ(*blocks, row.blocks) << row.name;
  }
}

TEST(ArenaBlocks, RefusesWhatCannotHoldOneSequenceAndSaysWhatWould) {
  const auto blocks = arena_blocks({.layout = kLayout,
                                    .available_bytes = 10 << 10,
                                    .memory_fraction = 1.0,
                                    .seqs_max = 2,
                                    .model_tokens_max = 1000,
                                    .cache_bytes = {},
                                    .blocks = {}});
  ASSERT_FALSE(blocks);
  EXPECT_EQ(blocks.error().code, Code::kExhausted);
  EXPECT_NE(blocks.error().message.find("--max-model-len 160"), std::string::npos) << blocks.error().message;
  // No length fits into less than a block.
  const auto none = arena_blocks({.layout = kLayout,
                                  .available_bytes = 10 << 10,
                                  .memory_fraction = 1.0,
                                  .seqs_max = 2,
                                  .model_tokens_max = 1000,
                                  .cache_bytes = 10,
                                  .blocks = {}});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().message,
            "KV cache: 10 bytes hold 0 tokens, expected at least max_model_len 1000 (64512 bytes); give it "
            "more memory");
}

}  // namespace
}  // namespace baton::kv
