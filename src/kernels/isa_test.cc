#include "kernels/isa.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <vector>

#include "kernels/cpu/tables.h"
#include "kernels/float_mode.h"
#include "kernels/random_data.h"

namespace baton::kernels {
namespace {

TEST(Isa, AutoIsTheFastestAvailableOne) { EXPECT_EQ(select_isa("auto"), available_isas().back()); }

TEST(Isa, EveryAvailableNameSelectsItself) {
  for (const Isa isa : available_isas()) EXPECT_EQ(select_isa(isa_name(isa)), isa);
}

TEST(Isa, AnUnknownNameIsRefusedWithTheChoices) {
  const auto refused = select_isa("sse9");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "--cpu-isa: sse9: expected auto, portable, avx2, avx512 or avx512_bf16");
}

// Words that meet the edges: zeros, denormals, the largest and smallest exponents, anything.
uint32_t edge_word(RandomData& data) {
  const auto half = [&]() -> uint32_t {
    const uint32_t bits = static_cast<uint32_t>(data.word());
    switch (data.below(6)) {
      case 0:
        return bits & 0x8000U;  // zero
      case 1:
        return bits & 0x807FU;  // denormal
      case 2:
        return (bits & 0x80FFU) | 0x7F00U >> data.below(2);  // near overflow, infinity
      case 3:
        return (bits & 0x80FFU) | 0x1F80U;  // products near the smallest normal
      default:
        return (bits & 0x83FFU) | 0x3C00U;  // ordinary
    }
  };
  return half() | half() << 16;
}

TEST(Isa, BfloatPairProductsAreEqualOnAllOfThemAtEveryEdge) {
  RandomData data(11);
  const FlushDenormals mode;
  constexpr int kRounds = 100'000;
  int compared = 0;
  for (int round = 0; round < kRounds; ++round) {
    alignas(64) uint32_t x[16], w[16];
    alignas(64) float expected[16], start[16];
    for (int i = 0; i < 16; ++i) {
      x[i] = edge_word(data);
      w[i] = edge_word(data);
      start[i] = expected[i] = std::bit_cast<float>(edge_word(data));
    }
    ops_of(Isa::kPortable).dot_pairs(expected, x, w);
    for (const Isa isa : available_isas()) {
      alignas(64) float got[16];
      memcpy(got, start, sizeof start);
      ops_of(isa).dot_pairs(got, x, w);
      for (int i = 0; i < 16; ++i) {
        const bool both_nan = expected[i] != expected[i] && got[i] != got[i];
        ASSERT_TRUE(both_nan || std::bit_cast<uint32_t>(got[i]) == std::bit_cast<uint32_t>(expected[i]))
            << isa_name(isa) << std::hex << " x " << x[i] << " w " << w[i] << " from "
            << std::bit_cast<uint32_t>(start[i]) << " got " << std::bit_cast<uint32_t>(got[i]) << " expected "
            << std::bit_cast<uint32_t>(expected[i]);
        compared += both_nan ? 0 : 1;
      }
    }
  }
  EXPECT_GT(compared, kRounds * 8);
}

}  // namespace
}  // namespace baton::kernels
