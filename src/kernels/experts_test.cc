#include "kernels/experts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/random_data.h"
#include "kernels/reference/reference.h"

namespace baton::kernels {
namespace {

constexpr DType f32 = DType::kF32, bf16 = DType::kBf16;
constexpr size_t kExperts = 8, kHidden = 48, kInner = 70, kPerRow = 3;

struct Layer {
  std::vector<Tensor> weights;  // gate, up, down of each expert
  std::vector<Expert> experts;
};

Layer layer(DType type) {
  RandomData data(7);
  Layer l;
  for (size_t e = 0; e < kExperts; ++e) {
    l.weights.push_back(Tensor::random(data, type, kInner, kHidden));
    l.weights.push_back(Tensor::random(data, type, kInner, kHidden));
    l.weights.push_back(Tensor::random(data, type, kHidden, kInner));
  }
  const auto view = [&](size_t i) { return static_cast<const Tensor&>(l.weights[i]).matrix(); };
  for (size_t e = 0; e < kExperts; ++e) {
    l.experts.push_back({.gate = view(3 * e), .up = view(3 * e + 1), .down = view(3 * e + 2)});
  }
  return l;
}

Tensor run(const Cpu& cpu, const Layer& l, ConstMatrix x, ConstMatrix logits, size_t ranks = 1) {
  const Routing routing = route(cpu, logits, kPerRow, {.renormalise = true});
  Tensor slots(x.dtype, x.rows * kPerRow, kHidden);
  const size_t share = kExperts / ranks;
  for (size_t rank = 0; rank < ranks; ++rank) {
    const std::span<const Expert> own(l.experts.data() + rank * share, share);
    run_experts(cpu, x, routing, own, rank * share, slots.matrix());
  }
  Tensor y(x.dtype, x.rows, kHidden);
  combine_experts(cpu, routing, static_cast<const Tensor&>(slots).matrix(), {}, y.matrix());
  return y;
}

TEST(Experts, TheRouterPicksTheLargestTiesToTheLowestIdInAscendingOrder) {
  const Cpu cpu(available_isas().back(), 1);
  const std::vector<float> logits = {0, 2, 1, 2, 1, -1, 0, 1};
  const Routing routing = route(cpu, view(std::span<const float>(logits), 8), 4, {.renormalise = true});
  EXPECT_EQ(routing.expert, (std::vector<uint32_t>{1, 2, 3, 4}));
  EXPECT_EQ(routing.weight[0], routing.weight[2]);
  EXPECT_NEAR(routing.weight[0] + routing.weight[1] + routing.weight[2] + routing.weight[3], 1.0,
              4 * 0x1p-24);
}

TEST(Experts, WeightsAreTheSoftmaxWhenNotRenormalised) {
  RandomData data(1);
  for (const Isa isa : available_isas()) {
    const Tensor logits = Tensor::random(data, f32, 5, 60, 4.0F);
    const Routing routing = route(Cpu(isa, 1), logits.matrix(), 6, {});
    for (size_t r = 0; r < 5; ++r) {
      const auto p = reference::softmax(reference::values(logits.matrix().row_range(r, 1)));
      for (size_t i = 0; i < 6; ++i) {
        const double expected = p[routing.expert[r * 6 + i]];
        EXPECT_NEAR(routing.weight[r * 6 + i], expected, 80 * 0x1p-24 * expected);
      }
    }
  }
}

// DeepSeek-V3: sigmoid scores; the bias chooses, the score weighs; a group is as good as its two best.
TEST(Experts, OfTheBestGroupsAreChosenWithTheBiasAndWeighedWithoutIt) {
  const std::vector<float> logits = {0, 4, 3, 3, 3.5F, -9, 1, 1};  // groups of two: sums with bias decide
  const std::vector<float> bias = {0, 0, 0, 0, 0, 0, 0.4F, 0.4F};
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  RoutingRule rule{.renormalise = true,
                   .sigmoid = true,
                   .bias = {bias.data(), f32, bias.size()},
                   .groups = 4,
                   .groups_per_row = 2,
                   .scaling = 2.5F};
  for (const Isa isa : available_isas()) {
    const Cpu cpu(isa, 1);
    const ConstMatrix row = view(std::span<const float>(logits), 8);
    const Routing routing = route(cpu, row, 3, rule);
    EXPECT_EQ(routing.expert, (std::vector<uint32_t>{2, 6, 7})) << isa_name(isa);
    const double sum = sigmoid(3) + 2 * sigmoid(1);
    EXPECT_NEAR(routing.weight[0], 2.5 * sigmoid(3) / sum, 1e-6);
    EXPECT_NEAR(routing.weight[1], 2.5 * sigmoid(1) / sum, 1e-6);
  }
  // DeepSeek-V2: softmax, a group is as good as its best, the weights stay as they are.
  rule = {.groups = 4, .groups_per_row = 2};
  const Routing routing = route(Cpu(Isa::kPortable, 1), view(std::span<const float>(logits), 8), 3, rule);
  EXPECT_EQ(routing.expert, (std::vector<uint32_t>{0, 1, 4}));
  EXPECT_NEAR(routing.weight[1] / routing.weight[2], std::exp(0.5), 1e-5);
}

TEST(Experts, NanLogitsDoNotHangOrLeaveTheRange) {
  const Cpu cpu(available_isas().back(), 1);
  const std::vector<float> logits(8, std::numeric_limits<float>::quiet_NaN());
  const Routing routing = route(cpu, view(std::span<const float>(logits), 8), 2, {.renormalise = true});
  EXPECT_EQ(routing.expert, (std::vector<uint32_t>{0, 1}));
}

TEST(Experts, GiveTheSameBitsOnEveryInstructionSetThreadCountBatchAndSplitOverRanks) {
  for (const DType type : {f32, bf16}) {
    const Layer l = layer(type);
    RandomData data(2);
    constexpr size_t kRows = 43;
    const Tensor x = Tensor::random(data, type, kRows, kHidden);
    const Tensor logits = Tensor::random(data, type, kRows, kExperts, 2.0F);
    const Tensor expected = run(Cpu(Isa::kPortable, 1), l, x.matrix(), logits.matrix());
    for (const Isa isa : available_isas()) {
      for (const unsigned threads : {1U, 3U}) {
        const Cpu cpu(isa, threads);
        EXPECT_EQ(run(cpu, l, x.matrix(), logits.matrix()), expected) << isa_name(isa);
        EXPECT_EQ(run(cpu, l, x.matrix(), logits.matrix(), 4), expected) << isa_name(isa) << ", 4 ranks";
        const Tensor one = run(cpu, l, x.matrix().row_range(9, 1), logits.matrix().row_range(9, 1));
        EXPECT_EQ(reference::values(one.matrix()), reference::values(expected.matrix().row_range(9, 1)));
      }
    }
  }
}

TEST(Experts, AreThreeProductsOnTheirRowsWeightedInAscendingOrder) {
  const Layer l = layer(bf16);
  const Cpu cpu(available_isas().back(), 2);
  RandomData data(3);
  const Tensor x = Tensor::random(data, bf16, 4, kHidden);
  const Tensor logits = Tensor::random(data, f32, 4, kExperts, 2.0F);
  const Routing routing = route(cpu, logits.matrix(), kPerRow, {.renormalise = true});
  const Tensor y = run(cpu, l, x.matrix(), logits.matrix());
  for (size_t r = 0; r < 4; ++r) {
    std::vector<float> sum(kHidden, 0.0F);
    for (size_t i = 0; i < kPerRow; ++i) {
      const Expert& expert = l.experts[routing.expert[r * kPerRow + i]];
      Tensor gate(bf16, 1, kInner), up(bf16, 1, kInner), out(bf16, 1, kHidden);
      linear(cpu, {.x = x.matrix().row_range(r, 1), .weight = expert.gate, .bias = {}, .y = gate.matrix()});
      linear(cpu, {.x = x.matrix().row_range(r, 1), .weight = expert.up, .bias = {}, .y = up.matrix()});
      silu_mul(cpu, gate.matrix(), up.matrix(), gate.matrix());
      linear(cpu, {.x = gate.matrix(), .weight = expert.down, .bias = {}, .y = out.matrix()});
      const Bf16* o = static_cast<const Bf16*>(out.matrix().data);
      for (size_t c = 0; c < kHidden; ++c)
        sum[c] = std::fma(routing.weight[r * kPerRow + i], to_float(o[c]), sum[c]);
    }
    const Bf16* got = static_cast<const Bf16*>(y.matrix().row_range(r, 1).data);
    for (size_t c = 0; c < kHidden; ++c) EXPECT_EQ(got[c], to_bf16(sum[c]));
  }
}

TEST(Experts, TheSharedExpertIsAddedLastWithWeightOne) {
  const Cpu cpu(Isa::kPortable, 1);
  const Routing routing{.rows = 1, .per_row = 1, .expert = {0}, .weight = {0.5F}};
  const std::vector<float> slots(16, 4.0F), shared(16, 1.0F);
  std::vector<float> y(16);
  combine_experts(cpu, routing, view(std::span<const float>(slots), 16),
                  view(std::span<const float>(shared), 16), view(std::span<float>(y), 16));
  EXPECT_EQ(y, std::vector<float>(16, 3.0F));
}

}  // namespace
}  // namespace baton::kernels
