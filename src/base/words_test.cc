#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/dtype.h"
#include "base/ids.h"
#include "base/result.h"

namespace baton {
namespace {

Result<int> half(int x) {
  if (x % 2 != 0) return fail(Code::kInvalid, fmt::format("half: {} is odd", x), "x");
  return x / 2;
}

Result<int> quarter(int x) {
  TRY(const int h, half(x));
  TRY(const int q, half(h));
  return q;
}

TEST(Result, TryPassesTheErrorUpUnchanged) {
  EXPECT_EQ(quarter(8), 2);
  EXPECT_EQ(quarter(6).error(), (Error{Code::kInvalid, "half: 3 is odd", "x"}));
}

TEST(Ids, HexIsReadBackAndNothingElseIs) {
  const auto id = random_id<TransferId>();
  EXPECT_EQ(TransferId::parse(id.hex()), id);
  EXPECT_NE(random_id<TransferId>(), id);
  EXPECT_FALSE(TransferId::parse(id.hex().substr(1)));
  EXPECT_FALSE(TransferId::parse(std::string(31, '0') + "g"));
}

TEST(Bf16, RoundsToNearestTiesToEven) {
  struct Row {
    float from;
    float to;
  };
  for (const Row row : {Row{1.0F, 1.0F}, Row{1.00390625F, 1.0F}, Row{1.01171875F, 1.015625F},
                        Row{-1.00390625F, -1.0F}, Row{3.3895314e38F, 3.3895314e38F}, Row{1e-40F, 0.0F}}) {
    EXPECT_EQ(to_float(to_bf16(row.from)), row.to) << row.from;
  }
  EXPECT_TRUE(std::isinf(to_float(to_bf16(std::numeric_limits<float>::max()))));
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(CheckDeathTest, NamesPlaceConditionAndMessage) {
  EXPECT_DEATH(CHECK(1 + 1 == 3, "sum {}", 2), "words_test.cc:.*CHECK\\(1 \\+ 1 == 3\\) failed: sum 2");
}

}  // namespace
}  // namespace baton
