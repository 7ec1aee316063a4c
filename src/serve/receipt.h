// Receipts (api/receipt.h) made and checked: what the door writes of an answer, and the same computed again
// by an engine that serves nothing else. By the arithmetic law it must be equal to the bit, wherever and
// beside whatever the answer was made.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "api/receipt.h"
#include "api/request.h"
#include "api/response.h"
#include "base/result.h"
#include "engine/request.h"
#include "model/language_model.h"
#include "text/tokenizer.h"

namespace baton::serve {

// What a receipt says of one choice while it grows.
class DrawnChoice {
 public:
  // `logprobs`: one per token if they were asked for; once a token has none (it was drawn by an instance that
  // did not tell) there is no hash of them. The hash is a chain that begins with 16 zero bytes:
  // h = xxh3-128(h, then for the drawn token and each listed one: id, bits of the float32, rank), all
  // little-endian, 32 bits each; h itself in xxh3's canonical (big-endian) order.
  void take(std::span<const TokenId> tokens, std::span<const api::PositionLogprobs> logprobs);

  api::ReceiptChoice receipt(bool with_ids) const;

 private:
  std::vector<TokenId> tokens_;
  std::array<uint8_t, 16> logprobs_hash_{};
  bool knows_logprobs_ = true;  // of every token
};

api::ReceiptTokens receipt_of_tokens(const std::vector<TokenId>& tokens, bool with_ids);

// Both ways between what an engine draws with, the texts that end an answer, and what a receipt says of them.
api::ReceiptSampling receipt_sampling(const engine::SamplingParams& sampling,
                                      const api::SamplingFields& texts);
engine::SamplingParams engine_sampling(const api::ReceiptSampling& sampling, int64_t seed);

// The receipt that this model gives for the prompts, seeds and parameters of `claimed`; all its token ids are
// there. A choice is computed as long as the longest that is claimed of its prompt, and one token more if it
// goes on. kInvalid: the prompt's ids are not there, the model cannot take the request, or hashes are not
// those of the ids beside them, which it names.
Result<api::Receipt> recompute(const api::Receipt& claimed, model::LanguageModel& model,
                               const text::Tokenizer& tokenizer);

}  // namespace baton::serve
