// A small true LanguageModel for the tests of the engine, the hand-over and whole clusters: about a
// microsecond per token. It keeps the law of language_model.h, and its logits are a hash of everything that
// it reads back from the KV arena, every byte of K and V of every layer and position up to the row. So a
// block that is missing, stale, in the wrong place or damaged by one bit changes the answer.
//
// Per row: s = mix(token, position). Each layer writes K and V of the row as words expanded from (s, layer),
// then reads K and V of all positions up to its own and mixes them into s. logit[v] = hash(s, v) in [-4, 4).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/language_model.h"

namespace baton::model {

struct FakeModelOptions {
  uint32_t vocab_size = 64;
  uint32_t max_position = 4096;
  uint32_t batch_rows_max = 2048;
  uint32_t logit_rows_max = 32;
  kv::KvLayout layout = {
      .layers = 2, .kv_heads = 1, .head_dim = 16, .block_tokens = 16, .dtype = DType::kBf16};
  uint64_t weights = 1;                // models of different numbers give different answers and fingerprints
  std::optional<TokenId> nan_token{};  // rows whose token this is have NaN logits
  std::optional<TokenId> inf_token{};  // rows whose token this is have one logit of +inf
  bool answer_has_own_form = false;    // said, not done
};

class FakeModel final : public LanguageModel {
 public:
  explicit FakeModel(const FakeModelOptions& options = {});

  const ModelInfo& info() const override { return info_; }
  uint32_t batch_rows_max() const override { return options_.batch_rows_max; }
  uint32_t logit_rows_max() const override { return options_.logit_rows_max; }
  bool forward(const Batch& batch, kv::KvArena& arena, const LayerHook& hook) override;
  std::span<const float> logits(uint32_t first, uint32_t count) override;

  // Rows of all passes so far: what prefix hits save.
  uint64_t rows_computed() const { return rows_computed_; }

 private:
  // One row of the current pass.
  struct Row {
    TokenId token;
    uint32_t position;
    std::span<const BlockId> blocks;
    uint64_t state;
  };
  void begin(const Batch& batch);
  uint64_t* kv_words(kv::KvArena& arena, uint32_t layer, const Row& row, uint32_t position,
                     uint32_t vector) const;
  void store(kv::KvArena& arena, uint32_t layer, const Row& row) const;
  uint64_t read_back(kv::KvArena& arena, uint32_t layer, const Row& row) const;

  const FakeModelOptions options_;
  ModelInfo info_;
  std::vector<Row> rows_;
  std::vector<Row> asked_;  // the rows of the last pass whose logits may be asked for
  std::vector<float> logits_;
  uint64_t rows_computed_ = 0;
};

}  // namespace baton::model
