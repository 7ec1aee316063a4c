#include "model/testing.h"

#include <fmt/format.h>

#include <limits>

#include "base/check.h"

namespace baton::model {
namespace {

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
constexpr uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}
constexpr uint64_t mix(uint64_t a, uint64_t b) { return mix(mix(a + 0x9E3779B97F4A7C15U) ^ b); }

}  // namespace

FakeModel::FakeModel(const FakeModelOptions& options) : options_(options) {
  const size_t row_bytes = options_.layout.head_dim * size_of(options_.layout.dtype);
  CHECK(row_bytes % sizeof(uint64_t) == 0, "head_dim of {} bytes, expected a multiple of 8", row_bytes);
  CHECK(kv::validate(options_.layout).has_value(), "not a layout");
  info_.architecture = "Fake";
  info_.vocab_size = options_.vocab_size;
  info_.max_position = options_.max_position;
  info_.activation_dtype = options_.layout.dtype;
  info_.kv_layout = options_.layout;
  info_.answer_has_own_form = options_.answer_has_own_form;
  info_.fingerprint = fmt::format("{:064x}", options_.weights);
}

void FakeModel::begin(const Batch& batch) {
  CHECK(batch.tokens.size() <= options_.batch_rows_max, "{} rows", batch.tokens.size());
  rows_.clear();
  asked_.clear();
  for (const SequenceRows& sequence : batch.sequences) {
    const uint64_t end = uint64_t{sequence.first_position} + sequence.rows;
    CHECK(sequence.rows > 0 && end <= options_.max_position, "positions up to {}", end);
    CHECK(sequence.blocks.size() >= options_.layout.blocks_for(end), "{} blocks for {} positions",
          sequence.blocks.size(), end);
    for (uint32_t i = 0; i < sequence.rows; ++i) {
      CHECK(rows_.size() < batch.tokens.size(), "more rows than tokens");
      const TokenId token = batch.tokens[rows_.size()];
      CHECK(token >= 0 && static_cast<uint32_t>(token) < options_.vocab_size, "token {}", token);
      const uint32_t position = sequence.first_position + i;
      const uint64_t state = mix(mix(options_.weights, static_cast<uint64_t>(token)), position);
      rows_.push_back({token, position, sequence.blocks, state});
    }
  }
  CHECK(rows_.size() == batch.tokens.size(), "{} rows of {} tokens", rows_.size(), batch.tokens.size());
  rows_computed_ += rows_.size();
}

// The vector (K heads, then V heads) of one position.
uint64_t* FakeModel::kv_words(kv::KvArena& arena, uint32_t layer, const Row& row, uint32_t position,
                              uint32_t vector) const {
  const kv::KvLayout& layout = options_.layout;
  const uint32_t block_tokens = layout.block_tokens;
  const size_t row_bytes = layout.head_dim * size_of(layout.dtype);
  const size_t offset = layout.offset(layer, row.blocks[position / block_tokens]) +
                        (size_t{vector} * block_tokens + position % block_tokens) * row_bytes;
  return reinterpret_cast<uint64_t*>(arena.data() + offset);
}

void FakeModel::store(kv::KvArena& arena, uint32_t layer, const Row& row) const {
  const size_t words = options_.layout.head_dim * size_of(options_.layout.dtype) / sizeof(uint64_t);
  for (uint32_t vector = 0; vector < 2 * options_.layout.kv_heads; ++vector) {
    uint64_t* target = kv_words(arena, layer, row, row.position, vector);
    const uint64_t key = mix(row.state, (uint64_t{layer} << 32) | vector);
    for (size_t i = 0; i < words; ++i) target[i] = mix(key + i);
  }
}

// A sum over all words of all positions up to the row's. A word is a factor of an odd key of its place, so
// that every change of one word changes the sum, and equal words in exchanged places do too.
uint64_t FakeModel::read_back(kv::KvArena& arena, uint32_t layer, const Row& row) const {
  const size_t words = options_.layout.head_dim * size_of(options_.layout.dtype) / sizeof(uint64_t);
  uint64_t sum = 0;
  for (uint32_t vector = 0; vector < 2 * options_.layout.kv_heads; ++vector) {
    for (uint32_t position = 0; position <= row.position; ++position) {
      const uint64_t* source = kv_words(arena, layer, row, position, vector);
      uint64_t key = (uint64_t{position} + 1) * 0x9E3779B97F4A7C15U ^ (uint64_t{vector} << 40);
      for (size_t i = 0; i < words; ++i, key += 0xD1B54A32D192ED02U) sum += source[i] * (key | 1U);
    }
  }
  return sum;
}

bool FakeModel::forward(const Batch& batch, kv::KvArena& arena, const LayerHook& hook) {
  CHECK(arena.layout() == options_.layout, "the arena has another layout than the model");
  begin(batch);
  for (uint32_t layer = 0; layer < options_.layout.layers; ++layer) {
    for (const Row& row : rows_) store(arena, layer, row);
    for (Row& row : rows_) row.state = mix(row.state, read_back(arena, layer, row));
    if (hook && !hook(layer)) return false;
  }
  for (const uint32_t row : batch.logit_rows) {
    CHECK(row < rows_.size(), "logit row {} of {}", row, rows_.size());
    asked_.push_back(rows_[row]);
  }
  return true;
}

std::span<const float> FakeModel::logits(uint32_t first, uint32_t count) {
  CHECK(count <= options_.logit_rows_max && size_t{first} + count <= asked_.size(), "rows [{}, {}) of {}",
        first, first + count, asked_.size());
  logits_.resize(size_t{count} * options_.vocab_size);
  for (uint32_t r = 0; r < count; ++r) {
    const Row& row = asked_[first + r];
    for (uint32_t v = 0; v < options_.vocab_size; ++v) {
      const float logit = static_cast<float>(mix(row.state, v) >> 40) * 0x1p-21F - 4.0F;
      const bool is_nan = row.token == options_.nan_token;
      logits_[size_t{r} * options_.vocab_size + v] = is_nan ? std::numeric_limits<float>::quiet_NaN() : logit;
    }
    if (row.token == options_.inf_token) {
      logits_[size_t{r} * options_.vocab_size] = std::numeric_limits<float>::infinity();
    }
  }
  return logits_;
}

}  // namespace baton::model
