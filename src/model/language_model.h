// The seam between the engine and a model: token rows in, logits out. Virtual because the engine's tests and
// the cluster simulation use a small true fake (model/testing.h). Called by the engine thread only.
//
// The law every implementation keeps (DESIGN: arithmetic that does not depend on the schedule): the K/V bytes
// and the logits of a row depend on the token ids of its sequence up to that row and on where the prompt
// ends, and on nothing else: not on the other rows, the chunking, the block size, the threads or the
// instruction set.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/ids.h"
#include "kv/arena.h"
#include "kv/layout.h"

namespace baton::model {

// Consecutive rows of one sequence within a Batch.
struct SequenceRows {
  uint32_t rows = 0;                // at least 1
  uint32_t first_position = 0;      // of the first of these rows; all earlier positions are in the cache
  std::span<const BlockId> blocks;  // in order of position; cover [0, first_position + rows)
  // Positions below are the prompt's, those from here on are of the answer: a model may compute the two in
  // different, algebraically equal forms (multi-head latent attention does).
  uint32_t prompt_tokens = UINT32_MAX;
};

// One forward pass: decode rows and chunks of prefill, mixed.
struct Batch {
  std::span<const TokenId> tokens;          // [rows]
  std::span<const SequenceRows> sequences;  // in row order; their rows add up to tokens.size()
  std::span<const uint32_t> logit_rows;     // ascending row indices whose logits will be asked for
};

// What the engine must know of a model before it runs.
struct ModelInfo {
  std::string architecture;   // "Qwen3MoeForCausalLM"
  uint32_t vocab_size = 0;    // of the logits; may exceed the tokenizer's
  uint32_t max_position = 0;  // positions are < this
  DType activation_dtype = DType::kBf16;
  kv::KvLayout kv_layout;            // block_tokens as the engine asked for at load
  bool answer_has_own_form = false;  // K and V of an answer's positions are not what a prompt's would be
  std::string fingerprint;           // hexadecimal; equal for equal weights, config and tokenizer
  size_t weight_bytes = 0;           // mapped or held
};

// Asked after each layer with its number [0, layers). Ticks the liveness beacon; false ends the pass early.
using LayerHook = std::function<bool(uint32_t layer)>;

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;

  virtual const ModelInfo& info() const = 0;

  // Rows of one pass, and rows of logits of one call to logits(), at most.
  virtual uint32_t batch_rows_max() const = 0;
  virtual uint32_t logit_rows_max() const = 0;

  // Stores K and V of every row into `arena` and computes the final hidden states of batch.logit_rows. False
  // if `hook` ended it early: K and V of the batch's positions are then undefined and must be computed again.
  // Token ids outside the vocabulary are a bug of the caller (CHECK).
  virtual bool forward(const Batch& batch, kv::KvArena& arena, const LayerHook& hook) = 0;

  // Logits [count, vocab_size], float32, of entries [first, first + count) of the last pass's logit_rows.
  // count <= logit_rows_max(). Valid until the next call of either function. May be asked more than once.
  virtual std::span<const float> logits(uint32_t first, uint32_t count) = 0;
};

}  // namespace baton::model
