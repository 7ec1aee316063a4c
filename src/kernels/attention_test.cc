#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/random_data.h"
#include "kernels/reference/reference.h"

namespace baton::kernels {
namespace {

struct Shape {
  DType dtype;
  size_t heads, kv_heads, head_dim;
  size_t value_dim = head_dim;
  bool values_in_keys = false;
};

const std::vector<Shape> kShapes = {
    {DType::kBf16, 4, 2, 32},
    {DType::kBf16, 3, 1, 64},
    {DType::kBf16, 4, 4, 128},
    {DType::kF32, 4, 2, 32},
    {DType::kF32, 2, 2, 96},
    {DType::kBf16, 14, 2, 80},
    {DType::kBf16, 2, 1, 256},
    {DType::kF32, 8, 1, 256},
    // Heads of a latent attention, expanded and absorbed: 70 query heads do not fit one task.
    {DType::kBf16, 4, 4, 48, 32},
    {DType::kF32, 4, 2, 48, 32},
    {DType::kBf16, 6, 1, 80, 64, true},
    {DType::kF32, 3, 1, 80, 64, true},
    {DType::kBf16, 70, 1, 80, 64, true},
    {DType::kBf16, 2, 1, 576, 512, true}};

// q, k, v of the positions [0, length) of one sequence.
struct Sequence {
  Shape shape;
  size_t length;
  Tensor q, k, v;

  ConstMatrix values() const {
    return shape.values_in_keys ? ConstMatrix() : v.matrix();
  }  // as store_kv wants them
};

Sequence sequence(const Shape& s, size_t length, uint64_t seed) {
  RandomData data(seed);
  return {s, length, Tensor::random(data, s.dtype, length, s.heads * s.head_dim, 2.0F),
          Tensor::random(data, s.dtype, length, s.kv_heads * s.head_dim, 2.0F),
          Tensor::random(data, s.dtype, length, s.kv_heads * s.value_dim)};
}

// A cache filled with NaN, whose blocks are handed out in a scattered order.
class Cache {
 public:
  Cache(const Shape& s, size_t block_size, size_t blocks)
      : bytes_((blocks * (block_bytes(s, block_size) + kGap)) / 4, 0xFFFFFFFFU),
        layer_{.base = reinterpret_cast<std::byte*>(bytes_.data()),
               .block_stride = block_bytes(s, block_size) + kGap,
               .block_size = block_size,
               .kv_heads = s.kv_heads,
               .head_dim = s.head_dim,
               .value_dim = s.value_dim,
               .values_in_keys = s.values_in_keys,
               .dtype = s.dtype},
        next_(static_cast<uint32_t>(blocks)) {}

  const KvLayer& layer() const { return layer_; }
  std::vector<BlockId> take(size_t tokens) {
    std::vector<BlockId> ids((tokens + layer_.block_size - 1) / layer_.block_size);
    for (BlockId& id : ids) id = BlockId{--next_};
    return ids;
  }

 private:
  static constexpr size_t kGap = 64;
  static size_t block_bytes(const Shape& s, size_t block_size) {
    const size_t values = s.values_in_keys ? 0 : s.value_dim;
    return s.kv_heads * block_size * (s.head_dim + values) * size_of(s.dtype);
  }
  std::vector<uint32_t> bytes_;
  KvLayer layer_;
  uint32_t next_;
};

float scale_of(const Shape& s) { return 1.0F / std::sqrt(static_cast<float>(s.head_dim)); }

// Runs the sequence in chunks of the given size (the last may be shorter), each stored before it is attended
// to.
Tensor run(const Cpu& cpu, const Sequence& s, size_t block_size, size_t chunk) {
  Cache cache(s.shape, block_size, s.length / block_size + 2);
  const std::vector<BlockId> blocks = cache.take(s.length);
  Tensor out(s.shape.dtype, s.length, s.shape.heads * s.shape.value_dim);
  for (size_t first = 0; first < s.length; first += chunk) {
    const RowSpan span{.blocks = blocks,
                       .first_row = first,
                       .rows = std::min(chunk, s.length - first),
                       .first_position = first};
    store_kv(cpu, cache.layer(), {&span, 1}, s.k.matrix(), s.values());
    attention(cpu, {.kv = cache.layer(),
                    .spans = {&span, 1},
                    .q = s.q.matrix(),
                    .out = out.matrix(),
                    .scale = scale_of(s.shape)});
  }
  return out;
}

// Column `head` of head_dim columns of rows [0, rows).
std::vector<double> head_values(const Tensor& t, size_t head, size_t dim, size_t first, size_t rows) {
  return reference::values(t.matrix().row_range(first, rows).column_range(head * dim, dim));
}

// V of a kv head at the first `rows` positions.
std::vector<double> values_of(const Sequence& s, size_t head, size_t rows) {
  if (!s.shape.values_in_keys) return head_values(s.v, head, s.shape.value_dim, 0, rows);
  return reference::values(s.k.matrix().row_range(0, rows).column_range(0, s.shape.value_dim));
}

// A weight is a quotient of rounded exponentials of rounded scores. With |score| <= s the exponent is off by
// (dims + 4) roundings of s, exp2 by 2 ulp per rescaling, a sum over n positions by n roundings; in bf16
// every weight is rounded once more and so is the result. The result is a convex combination of values of
// magnitude <= v.
TEST(Attention, StaysWithinTheRoundingErrorOfItsFormula) {
  const Cpu cpu(available_isas().back(), 2);
  for (size_t i = 0; i < kShapes.size(); ++i) {
    const Shape& shape = kShapes[i];
    const size_t length = 150;
    const Sequence s = sequence(shape, length, i);
    const Tensor out = run(cpu, s, 16, length);
    const size_t group = shape.heads / shape.kv_heads;
    const double dims = static_cast<double>(shape.head_dim);
    const double score = 4.0 * std::sqrt(dims) * 1.4427;  // |q k| scale log2(e)
    const double weight_error = 2 * ((dims + 4) * score + static_cast<double>(length) + 16) * 0x1p-24 +
                                (shape.dtype == DType::kBf16 ? 2 * 0x1p-8 : 0.0);
    const double bound = weight_error + rounding_of(shape.dtype) * (1 + weight_error);
    for (const size_t row : {0UL, 1UL, 15UL, 16UL, 62UL, 63UL, 64UL, 127UL, 128UL, 149UL}) {
      for (size_t head = 0; head < shape.heads; ++head) {
        const auto q = head_values(s.q, head, shape.head_dim, row, 1);
        const auto expected =
            reference::attend(q, head_values(s.k, head / group, shape.head_dim, 0, row + 1),
                              values_of(s, head / group, row + 1), static_cast<double>(scale_of(shape)));
        const auto got = head_values(out, head, shape.value_dim, row, 1);
        for (size_t d = 0; d < got.size(); ++d) {
          ASSERT_NEAR(got[d], expected[d], bound) << "shape " << i << ", row " << row << ", head " << head;
        }
      }
    }
  }
}

TEST(Attention, GivesTheSameBitsOnEveryInstructionSetAndThreadCount) {
  for (size_t i = 0; i < kShapes.size(); ++i) {
    const Sequence s = sequence(kShapes[i], 140, i);
    const Tensor expected = run(Cpu(Isa::kPortable, 1), s, 16, 140);
    for (const Isa isa : available_isas()) {
      for (const unsigned threads : {1U, 2U, 4U}) {
        EXPECT_EQ(run(Cpu(isa, threads), s, 16, 140), expected) << "shape " << i << ", " << isa_name(isa);
      }
    }
  }
}

TEST(Attention, ARowHasTheSameBitsForEveryChunkingAndBlockSize) {
  const Cpu cpu(available_isas().back(), 2);
  for (size_t i = 0; i < kShapes.size(); ++i) {
    const Sequence s = sequence(kShapes[i], 170, i);
    const Tensor expected = run(cpu, s, 16, 170);
    for (const size_t block_size : {16UL, 32UL, 48UL, 128UL}) {
      for (const size_t chunk : {1UL, 3UL, 16UL, 37UL, 64UL, 170UL}) {
        EXPECT_EQ(run(cpu, s, block_size, chunk), expected)
            << "shape " << i << ", blocks of " << block_size << ", chunks of " << chunk;
      }
    }
  }
}

// Longer than two spans, so that whole and split tasks merge partial results.
TEST(Attention, SpansMergeToTheSameBitsInChunksAndInSingleRows) {
  for (const Shape& shape : {kShapes[0], kShapes[3], kShapes[10]}) {
    const size_t length = 2 * kSpan + 75;
    const Sequence s = sequence(shape, length, 5);
    const Tensor expected = run(Cpu(available_isas().back(), 1), s, 16, length);
    EXPECT_EQ(run(Cpu(available_isas().back(), 4), s, 32, 100), expected);
    Cache cache(shape, 16, length / 16 + 2);
    const std::vector<BlockId> blocks = cache.take(length);
    const Cpu cpu(available_isas().front(), 3);
    const RowSpan all{.blocks = blocks, .first_row = 0, .rows = length, .first_position = 0};
    store_kv(cpu, cache.layer(), {&all, 1}, s.k.matrix(), s.values());
    for (const size_t row : {0UL, 511UL, 512UL, 1023UL, 1024UL, 1098UL}) {
      Tensor one(shape.dtype, 1, expected.cols);
      const RowSpan span{.blocks = blocks, .first_row = 0, .rows = 1, .first_position = row};
      attention(cpu, {.kv = cache.layer(),
                      .spans = {&span, 1},
                      .q = s.q.matrix().row_range(row, 1),
                      .out = one.matrix(),
                      .scale = scale_of(shape)});
      const ConstMatrix whole = expected.matrix();
      EXPECT_EQ(memcmp(one.matrix().at(0, 0), whole.at(row, 0), whole.cols * size_of(shape.dtype)), 0) << row;
    }
  }
}

TEST(Attention, SequencesOfABatchDoNotSeeEachOther) {
  const Cpu cpu(available_isas().back(), 2);
  const Shape& shape = kShapes[0];
  const std::vector<size_t> lengths = {70, 1, 33, 130};
  const std::vector<size_t> rows = {1, 1, 33, 20};  // the last rows of each: decodes and chunks mixed
  Cache cache(shape, 16, 64);
  std::vector<std::vector<BlockId>> blocks;
  std::vector<RowSpan> spans;
  std::vector<Sequence> sequences;
  size_t total = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    sequences.push_back(sequence(shape, lengths[i], 20 + i));
    blocks.push_back(cache.take(lengths[i]));
    const RowSpan all{.blocks = blocks[i], .first_row = 0, .rows = lengths[i], .first_position = 0};
    store_kv(cpu, cache.layer(), {&all, 1}, sequences[i].k.matrix(), sequences[i].v.matrix());
  }
  Tensor q(shape.dtype, 55, shape.heads * shape.head_dim);
  Tensor out(shape.dtype, 55, q.cols);
  const size_t bytes = q.cols * size_of(shape.dtype);
  for (size_t i = 0; i < lengths.size(); ++i) {
    const size_t first = lengths[i] - rows[i];
    spans.push_back({.blocks = blocks[i], .first_row = total, .rows = rows[i], .first_position = first});
    memcpy(q.matrix().at(total, 0), sequences[i].q.matrix().at(first, 0), rows[i] * bytes);
    total += rows[i];
  }
  attention(
      cpu,
      {.kv = cache.layer(), .spans = spans, .q = q.matrix(), .out = out.matrix(), .scale = scale_of(shape)});
  for (size_t i = 0; i < lengths.size(); ++i) {
    const Tensor alone = run(cpu, sequences[i], 16, 1);
    EXPECT_EQ(memcmp(out.matrix().at(spans[i].first_row, 0), alone.matrix().at(lengths[i] - rows[i], 0),
                     rows[i] * bytes),
              0)
        << "sequence " << i;
  }
}

// K and V of later positions of the chunk are NaN; earlier rows must not notice.
TEST(Attention, WhatFollowsARowNeverReachesIt) {
  for (const Isa isa : available_isas()) {
    for (const Shape& shape : {kShapes[0], kShapes[3]}) {
      const Cpu cpu(isa, 1);
      Sequence s = sequence(shape, 80, 3);
      const Tensor clean = run(cpu, s, 16, 80);
      constexpr size_t kPoisoned = 41;
      for (size_t i = kPoisoned * s.k.cols; i < s.length * s.k.cols; ++i) {
        s.k.set(i, std::numeric_limits<float>::quiet_NaN());
        s.v.set(i, std::numeric_limits<float>::quiet_NaN());
      }
      const Tensor poisoned = run(cpu, s, 16, 80);
      EXPECT_EQ(
          memcmp(clean.matrix().data, poisoned.matrix().data, kPoisoned * clean.cols * size_of(shape.dtype)),
          0);
      EXPECT_TRUE(std::isnan(reference::values(poisoned.matrix()).back()));
    }
  }
}

TEST(AttentionDeathTest, DiesWhenTheBlockTableEndsBeforeARow) {
  Cache cache(kShapes[0], 16, 4);
  const std::vector<BlockId> blocks = cache.take(16);
  const Sequence s = sequence(kShapes[0], 17, 1);
  const Cpu cpu(Isa::kPortable, 1);
  const RowSpan span{.blocks = blocks, .first_row = 0, .rows = 17, .first_position = 0};
  EXPECT_DEATH(store_kv(cpu, cache.layer(), {&span, 1}, s.k.matrix(), s.v.matrix()), "positions");
}

}  // namespace
}  // namespace baton::kernels
