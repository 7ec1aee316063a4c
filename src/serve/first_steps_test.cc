#include "serve/first_steps.h"

#include <gtest/gtest.h>

#include <string>

#include "model/testing.h"

namespace baton::serve {
namespace {

// A fake model that notes which positions each pass computes, and of how many passes the logits were asked.
class Watched final : public model::LanguageModel {
 public:
  explicit Watched(const model::FakeModelOptions& options) : fake_(options) {}
  const model::ModelInfo& info() const override { return fake_.info(); }
  uint32_t batch_rows_max() const override { return fake_.batch_rows_max(); }
  uint32_t logit_rows_max() const override { return fake_.logit_rows_max(); }
  bool forward(const model::Batch& batch, kv::KvArena& arena, const model::LayerHook& hook) override {
    const model::SequenceRows& rows = batch.sequences[0];
    passes += std::to_string(rows.first_position) + "+" + std::to_string(rows.rows) + " ";
    for (const BlockId block : rows.blocks) EXPECT_LT(index(block), arena.blocks());
    return fake_.forward(batch, arena, hook);
  }
  std::span<const float> logits(uint32_t first, uint32_t count) override {
    passes += "logits ";
    return fake_.logits(first, count);
  }
  std::string passes;

 private:
  model::FakeModel fake_;
};

TEST(FirstSteps, ArePrefillAndDecodeOfWhateverFits) {
  struct Row {
    const char* name;
    uint32_t blocks;
    uint32_t block_tokens;
    uint32_t batch_rows;
    uint32_t max_position;
    const char* passes;
  };
  for (const Row& row : {Row{"plenty", 8, 16, 64, 4096, "0+16 logits 16+1 logits "},
                         Row{"one block of 16 tokens", 1, 16, 64, 16, "0+15 logits 15+1 logits "},
                         Row{"one large block", 1, 64, 64, 64, "0+16 logits 16+1 logits "},
                         Row{"one block, a longer context", 1, 16, 64, 4096, "0+15 logits 15+1 logits "},
                         Row{"a short context", 8, 16, 64, 5, "0+4 logits 4+1 logits "},
                         Row{"two tokens", 1, 16, 64, 2, "0+1 logits 1+1 logits "},
                         Row{"a batch of one row", 8, 16, 1, 4096, "0+1 logits 1+1 logits "}}) {
    model::FakeModelOptions options;
    options.layout.block_tokens = row.block_tokens;
    options.batch_rows_max = row.batch_rows;
    options.max_position = row.max_position;
    Watched model(options);
    const auto arena = kv::KvArena::create(options.layout, row.blocks, Incarnation{{1}});
    ASSERT_TRUE(arena);
    const uint32_t rows = take_first_steps(model, **arena);
    EXPECT_EQ(model.passes, row.passes) << row.name;
    EXPECT_EQ(model.passes.substr(2, model.passes.find(' ') - 2), std::to_string(rows)) << row.name;
  }
}

}  // namespace
}  // namespace baton::serve
