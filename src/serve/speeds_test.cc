#include "serve/speeds.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/testing.h"

namespace baton::serve {
namespace {

using std::chrono::milliseconds;

// A fake model whose passes take so long on a clock of the test's, the first one longer.
class Timed final : public model::LanguageModel {
 public:
  Timed(const model::FakeModelOptions& options, ManualClock& clock, Duration step, Duration token)
      : fake_(options), clock_(clock), step_(step), token_(token) {}
  const model::ModelInfo& info() const override { return fake_.info(); }
  uint32_t batch_rows_max() const override { return fake_.batch_rows_max(); }
  uint32_t logit_rows_max() const override { return fake_.logit_rows_max(); }
  bool forward(const model::Batch& batch, kv::KvArena& arena, const model::LayerHook& hook) override {
    const model::SequenceRows& rows = batch.sequences[0];
    EXPECT_EQ(rows.first_position, 0U);
    for (const BlockId block : rows.blocks) EXPECT_LT(index(block), arena.blocks());
    for (const TokenId token : batch.tokens) EXPECT_LT(token, static_cast<TokenId>(info().vocab_size));
    clock_.advance(step_ + token_ * rows.rows + (passes.empty() ? std::chrono::seconds(9) : Duration{0}));
    passes.push_back(rows.rows);
    return fake_.forward(batch, arena, hook);
  }
  std::span<const float> logits(uint32_t first, uint32_t count) override {
    return fake_.logits(first, count);
  }
  std::vector<uint32_t> passes;  // tokens of each

 private:
  model::FakeModel fake_;
  ManualClock& clock_;
  Duration step_;
  Duration token_;
};

TEST(Speeds, OfAPrefillAreAStepAndARateAndTheFirstStepDoesNotCount) {
  struct Row {
    const char* name;
    uint32_t blocks, batch_rows, max_position;
    Duration step, token;
    std::vector<uint32_t> passes;
    double step_ms, tokens_per_s;
  };
  for (const Row& row : {
           Row{"quick",
               64,
               512,
               4096,
               milliseconds(2),
               std::chrono::microseconds(10),
               {16, 16, 16, 256, 256},
               2,
               1e5},
           // 16 tokens take 18 ms: 88 fit into 100 ms.
           Row{"slower", 64, 512, 4096, milliseconds(2), milliseconds(1), {16, 16, 16, 88, 88}, 2, 1e3},
           Row{"very slow: one length, all its time is the tokens'",
               64,
               512,
               4096,
               milliseconds(40),
               milliseconds(10),
               {16, 16, 16},
               0,
               80},
           Row{"a small batch",
               64,
               20,
               4096,
               milliseconds(2),
               std::chrono::microseconds(10),
               {16, 16, 16, 20, 20},
               2,
               1e5},
           Row{"a small arena",
               2,
               512,
               4096,
               milliseconds(2),
               std::chrono::microseconds(10),
               {16, 16, 16, 32, 32},
               2,
               1e5},
           Row{"a short context", 64, 512, 5, milliseconds(2), milliseconds(1), {5, 5, 5}, 0, 5 / 0.007},
       }) {
    model::FakeModelOptions options;
    options.batch_rows_max = row.batch_rows;
    options.max_position = row.max_position;
    ManualClock clock;
    Timed model(options, clock, row.step, row.token);
    const auto arena = kv::KvArena::create(options.layout, row.blocks, Incarnation{{1}});
    ASSERT_TRUE(arena);
    api::Speeds speeds;
    measure_prefill(model, **arena, clock, speeds);
    EXPECT_EQ(model.passes, row.passes) << row.name;
    EXPECT_NEAR(baton::milliseconds(speeds.prefill_step), row.step_ms, 1e-3) << row.name;
    EXPECT_NEAR(speeds.prefill_tokens_per_s, row.tokens_per_s, row.tokens_per_s * 1e-3) << row.name;
  }
}

TEST(Speeds, OfAHandoverAreMeasuredWithRealOnesWhicheverTransportIsAsked) {
  const kv::KvLayout layout{.layers = 3, .kv_heads = 2, .head_dim = 16, .block_tokens = 32};
  for (const auto choice : {transfer::TransportChoice::kAuto, transfer::TransportChoice::kLocal,
                            transfer::TransportChoice::kTcp, transfer::TransportChoice::kUcx}) {
    api::Speeds speeds;
    const auto measured = measure_handover(layout, choice, speeds);
    ASSERT_TRUE(measured) << measured.error().message;
    EXPECT_GE(speeds.handover, Duration{0});
    EXPECT_GT(speeds.handover_bytes_per_s, 0);
    EXPECT_EQ(speeds.kv_bytes_per_token, 3 * 2 * 2 * 16 * 2);
  }
}

TEST(Speeds, ALineThroughTimesInTheWrongOrderHasNoFixedPart) {
  const Line line = line_through(16, milliseconds(18), 88, milliseconds(90));
  EXPECT_NEAR(line.per_s, 1000, 1e-6);
  EXPECT_NEAR(seconds(line.fixed), 0.002, 1e-8);
  for (const Line& odd : {line_through(16, milliseconds(20), 80, milliseconds(20)),
                          line_through(16, milliseconds(30), 80, milliseconds(20)),
                          line_through(80, milliseconds(20), 80, milliseconds(20))}) {
    EXPECT_EQ(odd.fixed, Duration{0});
    EXPECT_NEAR(odd.per_s, 4000, 1e-6);
  }
  // Twice the units in thrice the time: the fixed part would be negative.
  EXPECT_EQ(line_through(10, milliseconds(1), 20, milliseconds(3)).fixed, Duration{0});
}

}  // namespace
}  // namespace baton::serve
