#include "model/latent_attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kernels/linear.h"
#include "model/rope_frequencies.h"

namespace baton::model {
namespace {

using kernels::KvLayer;
using kernels::Linear;
using kernels::Matrix;
using kernels::RowSpan;

constexpr float kNormEpsilon = 1e-6F;  // of the norms within, whatever rms_norm_eps says
constexpr size_t kExpandedBytesMax = size_t{64}
                                     << 20;  // of the heads that are expanded at a time, at least one
constexpr size_t kUnit = 16;
constexpr size_t kCopiedRows = 64;  // of a task

size_t filled_up(size_t n) { return (n + kUnit - 1) / kUnit * kUnit; }

// Columns of `from` behind each other in `to`, head by head, the rest of a wider head zero.
void copy_heads(const kernels::Cpu& cpu, ConstMatrix from, size_t from_dim, Matrix to, size_t to_dim) {
  const size_t element = size_of(to.dtype);
  const size_t common = std::min(from_dim, to_dim);
  cpu.team().run((to.rows + kCopiedRows - 1) / kCopiedRows, [&](size_t task) {
    for (size_t r = task * kCopiedRows; r < std::min(to.rows, (task + 1) * kCopiedRows); ++r) {
      for (size_t head = 0; head < to.cols / to_dim; ++head) {
        auto* at = static_cast<std::byte*>(to.at(r, head * to_dim));
        std::memcpy(at, from.at(r, head * from_dim), common * element);
        std::memset(at + common * element, 0, (to_dim - common) * element);
      }
    }
  });
}

Matrix within(std::vector<std::byte>& memory, DType dtype, size_t rows, size_t cols) {
  if (memory.size() < rows * cols * size_of(dtype)) memory.resize(rows * cols * size_of(dtype));
  return {memory.data(), dtype, rows, cols, cols};
}

}  // namespace

LatentAttention::LatentAttention(const checkpoint::ModelConfig& config, const kernels::Cpu& cpu, DType dtype,
                                 size_t rows_max, size_t max_position)
    : mla_(config.mla),
      heads_(config.query_heads),
      cpu_(cpu),
      dtype_(dtype),
      rope_(rope_frequencies(config.rope, mla_.rope_dim), max_position, rope_magnitude(config.rope)),
      scale_(
          static_cast<float>(score_magnitude(config.rope) / std::sqrt(static_cast<double>(config.head_dim)))),
      key_dim_(filled_up(mla_.nope_dim + mla_.rope_dim)),
      value_dim_(filled_up(mla_.value_dim)),
      q_latent_(dtype, rows_max, mla_.q_lora_rank),
      q_(dtype, rows_max, heads_ * (mla_.nope_dim + mla_.rope_dim)),
      kv_row_(dtype, rows_max, mla_.kv_lora_rank + mla_.rope_dim),
      q_padded_(dtype, rows_max, heads_ * key_dim_),
      out_padded_(dtype, rows_max, heads_ * value_dim_),
      q_answer_(dtype, rows_max, heads_ * (mla_.nope_dim + mla_.rope_dim)),
      absorbed_(dtype, rows_max, heads_ * (mla_.kv_lora_rank + mla_.rope_dim)),
      weighed_(dtype, rows_max, heads_ * mla_.kv_lora_rank),
      answered_(dtype, rows_max, heads_ * mla_.value_dim) {}

void LatentAttention::begin(std::span<const SequenceRows> sequences, std::span<const RowSpan> spans,
                            std::span<const uint32_t> positions) {
  positions_ = positions;
  spans_ = spans;
  prompt_spans_.clear();
  answer_spans_.clear();
  answer_rows_.clear();
  for (size_t i = 0; i < spans.size(); ++i) {
    const RowSpan& all = spans[i];
    const size_t left =
        sequences[i].prompt_tokens - std::min<size_t>(all.first_position, sequences[i].prompt_tokens);
    const size_t in_prompt = std::min(left, all.rows);
    if (in_prompt > 0) prompt_spans_.push_back({all.blocks, all.first_row, in_prompt, all.first_position});
    if (in_prompt == all.rows) continue;
    answer_spans_.push_back(
        {all.blocks, answer_rows_.size(), all.rows - in_prompt, all.first_position + in_prompt});
    for (size_t row = in_prompt; row < all.rows; ++row) {
      answer_rows_.push_back(static_cast<uint32_t>(all.first_row + row));
    }
  }
}

// c^Q = norm(W^DQ h), q = W^UQ c^Q;  c^KV, k^R = W^DKV h, W^KR h: the paper's equations 37 to 43.
void LatentAttention::input(const LatentAttentionWeights& weights, Matrix normed, const KvLayer& kv) {
  const size_t rows = positions_.size();
  const Matrix q = q_.first(rows);
  const Matrix row = kv_row_.first(rows);
  if (weights.q_down.data != nullptr) {
    const Matrix latent = q_latent_.first(rows);
    const std::array<Linear, 2> down = {
        {{normed, weights.q_down, {}, latent}, {normed, weights.kv_down, {}, row}}};
    kernels::linear_all(cpu_, down);
    kernels::rms_norm(cpu_, latent, weights.q_norm, kNormEpsilon, latent);
    kernels::linear(cpu_, {.x = latent, .weight = weights.q, .bias = {}, .y = q});
  } else {
    const std::array<Linear, 2> down = {{{normed, weights.q, {}, q}, {normed, weights.kv_down, {}, row}}};
    kernels::linear_all(cpu_, down);
  }
  const Matrix latent = row.column_range(0, mla_.kv_lora_rank);
  kernels::rms_norm(cpu_, latent, weights.latent_norm, kNormEpsilon, latent);
  kernels::rope_neighbours(cpu_, row, row.cols, rope_, positions_);
  kernels::rope_neighbours(cpu_, q, mla_.nope_dim + mla_.rope_dim, rope_, positions_);
  kernels::store_kv(cpu_, kv, spans_, row, {});
}

void LatentAttention::attend(const LatentAttentionWeights& weights, const KvLayer& kv, Matrix attended) {
  if (!prompt_spans_.empty()) {
    const size_t rows = positions_.size();
    copy_heads(cpu_, q_.first(rows), mla_.nope_dim + mla_.rope_dim, q_padded_.first(rows), key_dim_);
    for (const RowSpan& span : prompt_spans_) attend_expanded(weights, kv, span, attended);
  }
  if (!answer_rows_.empty()) attend_absorbed(weights, kv, attended);
}

// K and V of heads [first_head, first_head + heads) at the positions of the latents, as one block of a cache.
KvLayer LatentAttention::expand(const LatentAttentionWeights& weights, ConstMatrix latents, size_t first_head,
                                size_t heads) {
  const size_t positions = latents.rows;
  const size_t capacity = filled_up(positions);
  const size_t nope = mla_.nope_dim;
  const size_t made = nope + mla_.value_dim;  // of a head and position
  const size_t element = size_of(dtype_);
  const Matrix products = within(products_, dtype_, positions, heads * made);
  kernels::linear(cpu_, {.x = latents.column_range(0, mla_.kv_lora_rank),
                         .weight = weights.kv_up.row_range(first_head * made, heads * made),
                         .bias = {},
                         .y = products});
  const Matrix block = within(expanded_, dtype_, heads * capacity, key_dim_ + value_dim_);
  const KvLayer layer{.base = static_cast<std::byte*>(block.data),
                      .block_stride = heads * capacity * (key_dim_ + value_dim_) * element,
                      .block_size = capacity,
                      .kv_heads = heads,
                      .head_dim = key_dim_,
                      .value_dim = value_dim_,
                      .dtype = dtype_};
  std::byte* values = layer.base + heads * capacity * key_dim_ * element;
  const size_t parts = (positions + kCopiedRows - 1) / kCopiedRows;
  cpu_.team().run(heads * parts, [&](size_t task) {
    const size_t head = task / parts;
    const size_t begin = task % parts * kCopiedRows;
    for (size_t t = begin; t < std::min(positions, begin + kCopiedRows); ++t) {
      std::byte* key = layer.base + (head * capacity + t) * key_dim_ * element;
      std::memcpy(key, products.at(t, head * made), nope * element);
      std::memcpy(key + nope * element, latents.at(t, mla_.kv_lora_rank), mla_.rope_dim * element);
      std::memset(key + (nope + mla_.rope_dim) * element, 0, (key_dim_ - nope - mla_.rope_dim) * element);
      std::byte* value = values + (head * capacity + t) * value_dim_ * element;
      std::memcpy(value, products.at(t, head * made + nope), mla_.value_dim * element);
      std::memset(value + mla_.value_dim * element, 0, (value_dim_ - mla_.value_dim) * element);
    }
  });
  return layer;
}

void LatentAttention::attend_expanded(const LatentAttentionWeights& weights, const KvLayer& kv,
                                      const RowSpan& span, Matrix attended) {
  const size_t positions = span.first_position + span.rows;
  const size_t width = mla_.kv_lora_rank + mla_.rope_dim;
  const size_t row_bytes = width * size_of(dtype_);
  const Matrix latents = within(latents_, dtype_, positions, width);
  cpu_.team().run((positions + kv.block_size - 1) / kv.block_size, [&](size_t block) {
    const size_t first = block * kv.block_size;
    std::memcpy(latents.at(first, 0), kv.base + index(span.blocks[block]) * kv.block_stride,
                std::min(kv.block_size, positions - first) * row_bytes);
  });
  const size_t head_bytes =
      positions * (key_dim_ + value_dim_ + mla_.nope_dim + mla_.value_dim) * size_of(dtype_);
  const size_t at_once = std::clamp<size_t>(kExpandedBytesMax / head_bytes, 1, heads_);
  const std::array<BlockId, 1> only_block{BlockId{0}};
  const RowSpan rows{only_block, span.first_row, span.rows, span.first_position};
  const Matrix q = q_padded_.first(positions_.size());
  const Matrix out = out_padded_.first(positions_.size());
  for (size_t head = 0; head < heads_; head += at_once) {
    const size_t heads = std::min(at_once, heads_ - head);
    kernels::attention(cpu_, {.kv = expand(weights, latents, head, heads),
                              .spans = {&rows, 1},
                              .q = q.column_range(head * key_dim_, heads * key_dim_),
                              .out = out.column_range(head * value_dim_, heads * value_dim_),
                              .scale = scale_});
  }
  copy_heads(cpu_, out.row_range(span.first_row, span.rows), value_dim_,
             attended.row_range(span.first_row, span.rows), mla_.value_dim);
}

// q' = (W^UK)^T q of each head, beside its rotary part; all heads share the latents as keys and values; then
// W^UV.
void LatentAttention::attend_absorbed(const LatentAttentionWeights& weights, const KvLayer& kv,
                                      Matrix attended) {
  const size_t rows = answer_rows_.size();
  const size_t latent = mla_.kv_lora_rank;
  const size_t width = latent + mla_.rope_dim;
  const size_t head_dim = mla_.nope_dim + mla_.rope_dim;
  const size_t made = mla_.nope_dim + mla_.value_dim;
  const Matrix q = q_answer_.first(rows);
  const Matrix absorbed = absorbed_.first(rows);
  const Matrix weighed = weighed_.first(rows);
  const Matrix answered = answered_.first(rows);
  kernels::gather_rows(cpu_, q_.first(positions_.size()), answer_rows_, q);
  std::vector<Linear> products;
  for (size_t head = 0; head < heads_; ++head) {
    products.push_back({.x = q.column_range(head * head_dim, mla_.nope_dim),
                        .weight = weights.key_up_turned.row_range(head * latent, latent),
                        .bias = {},
                        .y = absorbed.column_range(head * width, latent)});
  }
  kernels::linear_all(cpu_, products);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t head = 0; head < heads_; ++head) {
      std::memcpy(absorbed.at(r, head * width + latent), q.at(r, head * head_dim + mla_.nope_dim),
                  mla_.rope_dim * size_of(dtype_));
    }
  }
  kernels::attention(cpu_,
                     {.kv = kv, .spans = answer_spans_, .q = absorbed, .out = weighed, .scale = scale_});
  products.clear();
  for (size_t head = 0; head < heads_; ++head) {
    products.push_back({.x = weighed.column_range(head * latent, latent),
                        .weight = weights.kv_up.row_range(head * made + mla_.nope_dim, mla_.value_dim),
                        .bias = {},
                        .y = answered.column_range(head * mla_.value_dim, mla_.value_dim)});
  }
  kernels::linear_all(cpu_, products);
  const size_t row_bytes = answered.cols * size_of(dtype_);
  for (size_t r = 0; r < rows; ++r)
    std::memcpy(attended.at(answer_rows_[r], 0), answered.at(r, 0), row_bytes);
}

}  // namespace baton::model
