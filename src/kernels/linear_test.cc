#include "kernels/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/elementwise.h"
#include "kernels/random_data.h"
#include "kernels/reference/reference.h"

namespace baton::kernels {
namespace {

struct Case {
  DType x, w, bias, y;
  size_t rows, k, n, slices;
};

constexpr DType kNone = DType::kBool;
constexpr DType f32 = DType::kF32, bf16 = DType::kBf16, f16 = DType::kF16;
const std::vector<Case> kCases = {
    {bf16, bf16, kNone, bf16, 1, 96, 7, 1},      {bf16, bf16, bf16, f32, 7, 48, 13, 1},
    {bf16, bf16, kNone, f32, 13, 1024, 64, 1},   {bf16, bf16, kNone, bf16, 5, 96, 33, 16},
    {bf16, bf16, f32, bf16, 3, 256, 17, 8},      {bf16, bf16, kNone, f32, 2, 70, 5, 1},
    {bf16, bf16, bf16, bf16, 64, 48, 20, 8},     {f32, f32, f32, f32, 9, 96, 11, 1},
    {f32, bf16, bf16, f32, 4, 48, 6, 8},         {f32, f16, f16, f32, 6, 100, 9, 1},
    {f32, f32, kNone, f32, 1, 1024, 70, 16},     {f32, f16, kNone, bf16, 130, 33, 5, 1},
    {bf16, bf16, kNone, f32, 100, 3072, 48, 16}, {bf16, bf16, bf16, bf16, 13, 2048, 9, 16},
    {f32, bf16, kNone, bf16, 14, 1024, 6, 1},    {bf16, bf16, bf16, bf16, 1, 2048, 150, 16},
    {bf16, bf16, kNone, bf16, 2, 1056, 301, 1},  {bf16, bf16, f16, f32, 4, 320, 267, 2},
    {f32, bf16, f32, bf16, 1, 96, 603, 4},       {bf16, bf16, kNone, f32, 1, 3072, 100, 16},
    {bf16, bf16, bf16, bf16, 53, 2048, 70, 16},  {bf16, bf16, f16, f32, 64, 192, 99, 2},
    {bf16, bf16, f32, bf16, 101, 1056, 40, 1},   {bf16, bf16, kNone, f32, 48, 8192, 66, 16},
};

struct Operands {
  Tensor x, w, bias;
};

Operands operands(const Case& c, uint64_t seed) {
  RandomData data(seed);
  return {Tensor::random(data, c.x, c.rows, c.k), Tensor::random(data, c.w, c.n, c.k),
          Tensor::random(data, c.bias == kNone ? f32 : c.bias, 1, c.bias == kNone ? 0 : c.n)};
}

ConstVector bias_of(const Operands& o) { return o.bias.cols == 0 ? ConstVector{} : o.bias.vector(); }

Tensor run(const Cpu& cpu, const Case& c, const Operands& o) {
  Tensor y(c.y, c.rows, c.n);
  linear(
      cpu,
      {.x = o.x.matrix(), .weight = o.w.matrix(), .bias = bias_of(o), .y = y.matrix(), .slices = c.slices});
  return y;
}

// The error of a sum of K products in any order is at most K roundings of sum |x| |w| (Higham 2002, 3.1),
// then one of the result; flushed denormals stay below K times the smallest normal number.
TEST(Linear, StaysWithinTheRoundingErrorOfItsSum) {
  const Cpu cpu(available_isas().back(), 2);
  for (size_t i = 0; i < kCases.size(); ++i) {
    const Case& c = kCases[i];
    const Operands o = operands(c, i);
    const auto x = reference::values(o.x.matrix());
    const auto w = reference::values(o.w.matrix());
    const auto bias = reference::values(o.bias.vector());
    const auto expected = reference::linear(x, w, bias, c.k);
    const auto magnitude = reference::linear_magnitude(x, w, c.k);
    const auto got = reference::values(run(cpu, c, o).matrix());
    for (size_t j = 0; j < got.size(); ++j) {
      const double sum_error = static_cast<double>(c.k + 1) * (0x1p-24 * (magnitude[j] + 1.0) + 0x1p-126);
      const double bound = sum_error + rounding_of(c.y) * (std::fabs(expected[j]) + sum_error);
      ASSERT_NEAR(got[j], expected[j], bound) << "case " << i << ", output " << j;
    }
  }
}

TEST(Linear, GivesTheSameBitsOnEveryInstructionSetAndThreadCount) {
  for (size_t i = 0; i < kCases.size(); ++i) {
    const Operands o = operands(kCases[i], i);
    const Tensor expected = run(Cpu(Isa::kPortable, 1), kCases[i], o);
    for (const Isa isa : available_isas()) {
      for (const unsigned threads : {1U, 2U, 3U, 4U}) {
        EXPECT_EQ(run(Cpu(isa, threads), kCases[i], o), expected)
            << "case " << i << ", " << isa_name(isa) << ", " << threads << " threads";
      }
    }
  }
}

TEST(Linear, ARowHasTheSameBitsAloneAndInEveryBatch) {
  for (const Isa isa : available_isas()) {
    const Cpu cpu(isa, 2);
    for (size_t i = 0; i < kCases.size(); ++i) {
      const Case& c = kCases[i];
      const Operands o = operands(c, i);
      Tensor whole = run(cpu, c, o);
      Tensor y(c.y, c.rows, c.n);
      size_t batch = 1;
      for (size_t row = 0; row < c.rows; row += batch, batch = batch % 7 + 1) {
        batch = std::min(batch, c.rows - row);
        linear(cpu, {.x = o.x.matrix().row_range(row, batch),
                     .weight = o.w.matrix(),
                     .bias = bias_of(o),
                     .y = y.matrix().row_range(row, batch),
                     .slices = c.slices});
      }
      EXPECT_EQ(y, whole) << "case " << i << ", " << isa_name(isa);
    }
  }
}

TEST(Linear, AWindowOfColumnsOfTheWeightsGivesThoseOutputs) {
  const Cpu cpu(available_isas().back(), 1);
  const Case& c = kCases[4];
  const Operands o = operands(c, 4);
  Tensor whole = run(cpu, c, o);
  Tensor y(c.y, c.rows, c.n);
  for (size_t first = 0; first < c.n; first += 5) {
    const size_t count = std::min<size_t>(5, c.n - first);
    const ConstVector bias{static_cast<const float*>(o.bias.vector().data) + first, f32, count};
    linear(cpu, {.x = o.x.matrix(),
                 .weight = o.w.matrix().row_range(first, count),
                 .bias = bias,
                 .y = y.matrix().column_range(first, count),
                 .slices = c.slices});
  }
  EXPECT_EQ(y, whole);
}

TEST(Linear, SlicesFollowTheLargestPowerOfTwoThatLeavesEvenSlices) {
  const std::vector<std::pair<size_t, size_t>> rows = {
      {3072, 16}, {1024, 16}, {2048, 16}, {96, 16}, {48, 8}, {64, 16}, {100, 2}, {6, 1}, {7, 1}, {8960, 16}};
  for (const auto& [k, slices] : rows) EXPECT_EQ(k_slices(k), slices) << "K " << k;
}

// Each of `ranks` computes its part of K; recursive doubling adds neighbours first.
TEST(Linear, RanksThatEachHoldAPartOfKAddUpToTheSameBits) {
  for (const size_t k : {96UL, 256UL, 1024UL}) {
    RandomData data(k);
    const Case c{bf16, bf16, bf16, bf16, 5, k, 12, k_slices(k)};
    const Operands o = operands(c, k);
    const Cpu cpu(available_isas().back(), 2);
    const Tensor whole = run(cpu, c, o);
    for (size_t ranks = 2; ranks <= c.slices; ranks *= 2) {
      const size_t width = k / ranks;
      std::vector<Tensor> parts;
      for (size_t rank = 0; rank < ranks; ++rank) {
        parts.emplace_back(f32, c.rows, c.n);
        linear(cpu, {.x = o.x.matrix().column_range(rank * width, width),
                     .weight = o.w.matrix().column_range(rank * width, width),
                     .bias = {},
                     .y = parts.back().matrix(),
                     .slices = c.slices / ranks});
      }
      for (size_t step = 1; step < ranks; step *= 2) {
        for (size_t rank = 0; rank < ranks; rank += 2 * step) {
          add(cpu, parts[rank].matrix(), parts[rank + step].matrix());
        }
      }
      Tensor y(bf16, c.rows, c.n);
      add_bias(cpu, parts[0].matrix(), bias_of(o), y.matrix());
      EXPECT_EQ(y, whole) << "K " << k << ", " << ranks << " ranks";
    }
  }
}

TEST(Linear, SeveralProductsUnderOneForkGiveTheirOwnBits) {
  const Cpu cpu(available_isas().back(), 2);
  std::vector<Operands> inputs;
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < kCases.size(); ++i) {
    inputs.push_back(operands(kCases[i], i));
    outputs.emplace_back(kCases[i].y, kCases[i].rows, kCases[i].n);
  }
  std::vector<Linear> products;
  for (size_t i = 0; i < kCases.size(); ++i) {
    products.push_back({.x = inputs[i].x.matrix(),
                        .weight = inputs[i].w.matrix(),
                        .bias = bias_of(inputs[i]),
                        .y = outputs[i].matrix(),
                        .slices = kCases[i].slices});
  }
  linear_all(cpu, products);
  for (size_t i = 0; i < kCases.size(); ++i)
    EXPECT_EQ(outputs[i], run(cpu, kCases[i], inputs[i])) << "case " << i;
}

TEST(LinearDeathTest, DiesOnShapesThatDoNotFit) {
  const Cpu cpu(Isa::kPortable, 1);
  Tensor x(bf16, 1, 32), w(bf16, 4, 64), y(bf16, 1, 4);
  EXPECT_DEATH(linear(cpu, {.x = x.matrix(), .weight = w.matrix(), .bias = {}, .y = y.matrix()}), "weight");
}

}  // namespace
}  // namespace baton::kernels
