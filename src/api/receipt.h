// The `receipt` of an answer ("receipt": true): what was computed from what, so that anybody who has the
// model can compute it again and compare the bits (docs/receipts.md). It holds hashes; with
// "return_token_ids": true beside it the ids themselves, and then it is all that `baton replay` needs.
//
// Hashes are 32 lower-case hexadecimal digits: of token ids xxh3-128 over little-endian int32; of
// log-probabilities as serve/receipt.h says. They find accidents; who wants to lie can compute them too, and
// is found out by the recomputation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/limits.h"
#include "api/response.h"
#include "base/ids.h"
#include "base/result.h"

namespace baton::api {

inline constexpr int32_t kReceiptVersion = 1;
inline constexpr size_t kReceiptBytesMax = 64UL << 20;  // of a file that is read
inline constexpr size_t kHashDigits = 32;
inline constexpr size_t kEndTokensMax = 4096;  // eos_token_ids of a model

// Everything that decides which tokens are drawn and where an answer ends, resolved: engine/request.h has the
// meanings. Those that only decide what is shown are left out.
struct ReceiptSampling {
  float temperature = 1;
  float top_p = 1;
  int32_t top_k = 0;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::pair<TokenId, float>> logit_bias = {};  // ascending token
  int32_t n = 1;
  int32_t max_tokens = 1;
  int32_t min_tokens = 0;
  std::vector<TokenId> eos_token_ids = {};
  std::vector<TokenId> stop_token_ids = {};
  bool ignore_eos = false;
  std::optional<int32_t> logprobs = {};
  std::vector<std::string> stop = {};
  bool include_stop_str_in_output = false;
  bool skip_special_tokens = true;  // stop strings are searched in what is left

  bool operator==(const ReceiptSampling&) const = default;
};

// Token ids by their number and hash, or themselves too.
struct ReceiptTokens {
  int64_t count = 0;
  std::string hash = {};
  std::optional<std::vector<TokenId>> ids = {};  // `count` of them

  bool operator==(const ReceiptTokens&) const = default;
};

// One choice: its place in the list is its number, which decides its noise.
struct ReceiptChoice {
  ReceiptTokens tokens = {};  // drawn, an end token included
  FinishReason finish_reason = FinishReason::kStop;
  StopReason stop_reason = {};
  std::string logprobs_hash = {};  // empty: none were asked for, or not all are known to who answered

  bool operator==(const ReceiptChoice&) const = default;
};

struct ReceiptPrompt {
  int64_t seed = 0;  // its 64 bits; sent as `seed` they draw the same
  ReceiptSampling sampling = {};
  ReceiptTokens tokens = {};
  std::vector<ReceiptChoice> choices = {};  // [n]

  bool operator==(const ReceiptPrompt&) const = default;
};

struct Receipt {
  std::string baton = {};        // the version that answered; not compared
  std::string fingerprint = {};  // of the model: checkpoint/fingerprint.h
  std::string dtype = {};        // of its K and V: "bfloat16", "float32"
  std::vector<ReceiptPrompt> prompts = {};

  bool operator==(const Receipt&) const = default;
};

std::string render_receipt(const Receipt& receipt);

// `text`: a receipt, or an answer or event that has one as `receipt`. kInvalid names the place and what was
// expected: "receipt.prompts[0].choices[2].tokens.hash: ...". What is returned holds the bounds of limits.h;
// hashes are not computed here.
Result<Receipt> parse_receipt(std::string_view text);

// Where `other` is not what `claimed` says, outermost first, with both values; nothing if nowhere. Ids are
// compared where both have them, else their hashes; hashes of log-probabilities where both have one. `names`
// says whose values they are: {"in the receipt", "recomputed"}.
struct ReceiptSides {
  std::string_view claimed;
  std::string_view other;
};
std::optional<std::string> first_difference(const Receipt& claimed, const Receipt& other, ReceiptSides names);

}  // namespace baton::api
