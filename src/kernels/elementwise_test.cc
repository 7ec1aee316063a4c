#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/random_data.h"
#include "kernels/reference/reference.h"

namespace baton::kernels {
namespace {

constexpr DType f32 = DType::kF32, bf16 = DType::kBf16, f16 = DType::kF16;
constexpr float kEpsilon = 1e-6F;

std::vector<double> inverse_frequencies(size_t half) {
  std::vector<double> f;
  for (size_t i = 0; i < half; ++i)
    f.push_back(std::pow(1e6, -static_cast<double>(i) / static_cast<double>(half)));
  return f;
}

// One run of every kernel over rows of `cols` (heads of `dim`), outputs collected in order.
std::vector<Tensor> run_all(const Cpu& cpu, DType type, DType weight_type, size_t rows, size_t cols,
                            size_t dim) {
  RandomData data(cols + rows);
  const Tensor x = Tensor::random(data, type, rows, cols, 3.0F);
  const Tensor other = Tensor::random(data, type, rows, cols, 20.0F);
  const Tensor weight = Tensor::random(data, weight_type, 1, cols);
  const Tensor head_weight = Tensor::random(data, weight_type, 1, dim);
  const RopeTable table(inverse_frequencies(dim / 2), 4096);
  std::vector<uint32_t> positions(rows);
  std::vector<TokenId> tokens(rows);
  for (size_t r = 0; r < rows; ++r) {
    positions[r] = static_cast<uint32_t>(data.below(4096));
    tokens[r] = static_cast<TokenId>(data.below(rows));
  }
  const Tensor embedding = Tensor::random(data, weight_type, rows, cols);
  std::vector<Tensor> out(7, Tensor(type, rows, cols));
  rms_norm(cpu, x.matrix(), weight.vector(), kEpsilon, out[0].matrix());
  out[1] = x;
  add_rms_norm(cpu, out[1].matrix(), other.matrix(), weight.vector(), kEpsilon, out[2].matrix());
  out[3] = x;
  rms_norm_heads(cpu, out[3].matrix(), head_weight.vector(), kEpsilon);
  out[4] = x;
  rope(cpu, out[4].matrix(), table, positions);
  silu_mul(cpu, other.matrix(), x.matrix(), out[5].matrix());
  embed(cpu, embedding.matrix(), tokens, out[6].matrix());
  Tensor converted(type == f32 ? bf16 : f32, rows, cols);
  convert(cpu, x.matrix(), converted.matrix());
  out.push_back(converted);
  return out;
}

TEST(Elementwise, GivesTheSameBitsOnEveryInstructionSetAndThreadCount) {
  for (const DType type : {f32, bf16}) {
    for (const DType weight_type : {f32, bf16, f16}) {
      for (const auto& [rows, cols, dim] :
           {std::array{5UL, 96UL, 32UL}, {40UL, 72UL, 24UL}, {3UL, 1024UL, 128UL}}) {
        const auto expected = run_all(Cpu(Isa::kPortable, 1), type, weight_type, rows, cols, dim);
        for (const Isa isa : available_isas()) {
          for (const unsigned threads : {1U, 3U}) {
            const auto got = run_all(Cpu(isa, threads), type, weight_type, rows, cols, dim);
            for (size_t i = 0; i < got.size(); ++i) {
              EXPECT_EQ(got[i], expected[i]) << isa_name(isa) << ", kernel " << i << ", cols " << cols;
            }
          }
        }
      }
    }
  }
}

// `roundings` of the type, and some of float32 on the way.
void expect_near(const std::vector<double>& got, const std::vector<double>& expected, DType type,
                 double roundings, double magnitude) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const double scale = std::max(std::fabs(expected[i]), magnitude);
    ASSERT_NEAR(got[i], expected[i], (roundings * rounding_of(type) + 256 * 0x1p-24) * scale) << i;
  }
}

TEST(Elementwise, RmsNormIsItsFormulaUpToTwoRoundings) {
  for (const DType type : {f32, bf16}) {
    RandomData data(1);
    const Cpu cpu(available_isas().back(), 1);
    const Tensor x = Tensor::random(data, type, 4, 100, 3.0F);
    const Tensor weight = Tensor::random(data, bf16, 1, 100);
    Tensor y(type, 4, 100);
    rms_norm(cpu, x.matrix(), weight.vector(), kEpsilon, y.matrix());
    for (size_t r = 0; r < 4; ++r) {
      const auto row = reference::values(x.matrix().row_range(r, 1));
      const auto expected =
          reference::rms_norm(row, reference::values(weight.vector()), static_cast<double>(kEpsilon));
      expect_near(reference::values(y.matrix().row_range(r, 1)), expected, type, 2.1, 0.0);
    }
  }
}

TEST(Elementwise, RopeTurnsPairsOfHalvesByTheirAngles) {
  for (const DType type : {f32, bf16}) {
    RandomData data(2);
    const Cpu cpu(available_isas().back(), 1);
    const Tensor x = Tensor::random(data, type, 5, 2 * 64);
    const auto frequencies = inverse_frequencies(32);
    const RopeTable table(frequencies, 40'000);
    const std::vector<uint32_t> positions = {0, 1, 77, 4095, 39'999};
    Tensor y = x;
    rope(cpu, y.matrix(), table, positions);
    for (size_t r = 0; r < positions.size(); ++r) {
      for (size_t head = 0; head < 2; ++head) {
        const auto in = reference::values(x.matrix().row_range(r, 1).column_range(head * 64, 64));
        const auto got = reference::values(y.matrix().row_range(r, 1).column_range(head * 64, 64));
        expect_near(got, reference::rope(in, frequencies, positions[r]), type, 1.1, 1.0);
      }
    }
  }
}

TEST(Elementwise, RopeTableIsTheNearestFloatOfItsFunctionsUpToAMillion) {
  const std::vector<double> frequencies = {1.0, 0.7310585, 0.001};
  const RopeTable table(frequencies, 1'000'001);
  for (const size_t position : {0UL, 1UL, 2UL, 3UL, 22UL, 355UL, 710UL, 103'993UL, 999'999UL, 1'000'000UL}) {
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const double angle = static_cast<double>(position) * frequencies[i];
      EXPECT_NEAR(table.cos(position)[i], std::cos(angle), 0x1p-24) << position;
      EXPECT_NEAR(table.sin(position)[i], std::sin(angle), 0x1p-24) << position;
    }
  }
}

TEST(Elementwise, SiluMulIsItsFormulaUpToTwoRoundings) {
  for (const DType type : {f32, bf16}) {
    RandomData data(3);
    const Cpu cpu(available_isas().back(), 1);
    const Tensor gate = Tensor::random(data, type, 3, 50, 30.0F);
    const Tensor up = Tensor::random(data, type, 3, 50);
    Tensor y(type, 3, 50);
    silu_mul(cpu, gate.matrix(), up.matrix(), y.matrix());
    const auto g = reference::values(gate.matrix());
    const auto u = reference::values(up.matrix());
    std::vector<double> expected;
    for (size_t i = 0; i < g.size(); ++i) expected.push_back(reference::silu(g[i]) * u[i]);
    expect_near(reference::values(y.matrix()), expected, type, 2.1, 0x1p-100);
  }
}

TEST(Elementwise, TheFusedResidualIsTheSumThenTheNorm) {
  const Cpu cpu(available_isas().back(), 2);
  for (const DType type : {f32, bf16}) {
    RandomData data(4);
    Tensor h = Tensor::random(data, type, 7, 90);
    const Tensor delta = Tensor::random(data, type, 7, 90);
    const Tensor weight = Tensor::random(data, f32, 1, 90);
    Tensor sum = h, fused(type, 7, 90), apart(type, 7, 90);
    add(cpu, sum.matrix(), delta.matrix());
    rms_norm(cpu, sum.matrix(), weight.vector(), kEpsilon, apart.matrix());
    add_rms_norm(cpu, h.matrix(), delta.matrix(), weight.vector(), kEpsilon, fused.matrix());
    EXPECT_EQ(h, sum);
    EXPECT_EQ(fused, apart);
  }
}

TEST(Elementwise, ConversionsToBfloatRoundAsTheBaseDoes) {
  RandomData data(5);
  for (const Isa isa : available_isas()) {
    const Cpu cpu(isa, 1);
    Tensor x(f32, 100, 100);
    for (uint32_t& word : x.storage) word = static_cast<uint32_t>(data.word());
    Tensor y(bf16, 100, 100);
    convert(cpu, x.matrix(), y.matrix());
    const float* from = static_cast<const float*>(x.matrix().data);
    const Bf16* to = static_cast<const Bf16*>(y.matrix().data);
    for (size_t i = 0; i < 10'000; ++i)
      ASSERT_EQ(to[i], to_bf16(from[i])) << isa_name(isa) << ' ' << x.storage[i];
  }
}

TEST(Elementwise, EveryHalfFloatIsWidenedExactly) {
  std::vector<uint16_t> halves;
  for (uint32_t bits = 0; bits < 0x10000U; ++bits) {
    if ((bits & 0x7C00U) != 0x7C00U) halves.push_back(static_cast<uint16_t>(bits));
  }
  const ConstMatrix x{halves.data(), f16, 1, halves.size(), halves.size()};
  const auto expected = reference::values(x);
  for (const Isa isa : available_isas()) {
    Tensor y(f32, 1, halves.size());
    convert(Cpu(isa, 1), x, y.matrix());
    EXPECT_EQ(reference::values(y.matrix()), expected) << isa_name(isa);
  }
}

TEST(Elementwise, GatheredRowsAreCopies) {
  const Cpu cpu(Isa::kPortable, 2);
  RandomData data(6);
  const Tensor x = Tensor::random(data, bf16, 9, 40);
  const std::vector<uint32_t> rows = {8, 0, 3, 3};
  Tensor y(bf16, 4, 40);
  gather_rows(cpu, x.matrix(), rows, y.matrix());
  for (size_t r = 0; r < rows.size(); ++r) {
    EXPECT_EQ(reference::values(y.matrix().row_range(r, 1)),
              reference::values(x.matrix().row_range(rows[r], 1)));
  }
}

TEST(ElementwiseDeathTest, DiesOnATokenOutsideTheVocabulary) {
  const Cpu cpu(Isa::kPortable, 1);
  const Tensor table(bf16, 10, 16);
  Tensor y(bf16, 1, 16);
  EXPECT_DEATH(embed(cpu, table.matrix(), std::vector<TokenId>{10}, y.matrix()), "token 10 of 10");
}

// A rotated pair keeps its length and turns by position * frequency; what lies before the tail stays.
TEST(Elementwise, NeighboursOfAHeadsTailTurnByThePositionAndStandInHalves) {
  const std::vector<double> frequencies = {0.7, 0.01};
  const RopeTable table(frequencies, 64);
  const std::vector<uint32_t> positions = {0, 3, 63};
  constexpr size_t kHeads = 2, kHeadDim = 7;  // 3 elements, then 2 pairs
  for (const DType type : {DType::kF32, DType::kBf16}) {
    RandomData data(4);
    const Tensor x = Tensor::random(data, type, positions.size(), kHeads * kHeadDim);
    const auto before = reference::values(x.matrix());
    for (const Isa isa : available_isas()) {
      Tensor y = x;
      rope_neighbours(Cpu(isa, 1), y.matrix(), kHeadDim, table, positions);
      const auto after = reference::values(static_cast<const Tensor&>(y).matrix());
      for (size_t r = 0; r < positions.size(); ++r) {
        for (size_t head = 0; head < kHeads; ++head) {
          const size_t at = (r * kHeads + head) * kHeadDim;
          for (size_t i = 0; i < 3; ++i) EXPECT_EQ(after[at + i], before[at + i]);
          for (size_t pair = 0; pair < 2; ++pair) {
            const double a = before[at + 3 + 2 * pair], b = before[at + 3 + 2 * pair + 1];
            const double angle = positions[r] * frequencies[pair];
            const double error = 4 * rounding_of(type) + 1e-6;
            EXPECT_NEAR(after[at + 3 + pair], a * std::cos(angle) - b * std::sin(angle), error);
            EXPECT_NEAR(after[at + 5 + pair], a * std::sin(angle) + b * std::cos(angle), error);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace baton::kernels
