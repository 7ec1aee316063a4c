// From one row of logits to the next token, as a pure function of the logits, the parameters, the tokens so
// far and (seed, choice, position): a request gives the same answer alone, batched, preempted or replayed.
//
// Order of the steps, as in vLLM's V1 sampler: allowed_token_ids, min_tokens mask, logit_bias, penalties
// (repetition, frequency, presence); then greedy, or temperature, min_p, top_k, top_p and the argmax of
// logit / temperature + Gumbel noise over what is left (Gumbel 1954; Maddison et al. 2014, "A* sampling",
// section 2). Candidates are ordered by descending logit, ties by ascending token id; top_k keeps the first k
// of that order, top_p its shortest beginning whose probability reaches p.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "engine/request.h"

namespace baton::engine {

// Below this a temperature is greedy.
inline constexpr float kGreedyBelow = 1e-5F;

// What penalties look at.
struct TokenHistory {
  std::span<const TokenId> prompt_distinct;  // each token of the prompt once; for repetition_penalty
  const std::map<TokenId, uint32_t>* output = nullptr;  // how often each token was drawn; null: none yet
  uint32_t output_tokens = 0;
};

// Keeps scratch memory between draws, and nothing else: equal arguments give equal results on any instance.
class Sampler {
 public:
  explicit Sampler(uint32_t vocab_size);

  // Draws the token that stands at `position` of choice `choice`. logits [vocab_size], raw. kCorrupt if a
  // logit is NaN or +inf ("logits: token 17 is nan, expected finite"); kInvalid if the masks leave no token.
  Result<TokenId> draw(std::span<const float> logits, const SamplingParams& params,
                       const TokenHistory& history, uint32_t choice, uint64_t position);

 private:
  struct Candidate {
    float logit;
    TokenId token;
  };
  static bool before(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }

  std::span<const float> adjusted(std::span<const float> logits, const SamplingParams& params,
                                  const TokenHistory& history);
  void penalise(const SamplingParams& params, const TokenHistory& history);
  void collect(float least);  // candidates: tokens with at least this logit
  void keep_top_k(size_t k);
  // The shortest beginning of the candidates' order that weighs top_p * total; false, and all stay, if they
  // weigh less. A weight is exp(logit - highest).
  bool keep_top_p(float highest, float top_p, double total);
  void keep_nucleus(float highest, float top_p);
  std::optional<TokenId> draw_from_all(const SamplingParams& params, uint32_t choice, uint64_t position);
  TokenId draw_from_candidates(const SamplingParams& params, uint32_t choice, uint64_t position) const;

  uint32_t vocab_size_;
  std::vector<float> row_;    // [vocab_size] logits after masks, penalties and temperature
  std::vector<float> noise_;  // one tile
  std::vector<Candidate> candidates_;
};

// Whether draw() would leave the logits as they are up to the temperature.
bool changes_logits(const SamplingParams& params, uint32_t output_tokens);

// The raw log-softmax of one row: of `token`, and of the `top` most likely tokens. Ranks follow the order
// (logit descending, id ascending). logits [vocab_size], finite.
PositionLogprobs logprobs_of(std::span<const float> logits, TokenId token, uint32_t top);

// kCorrupt unless every logit is finite or -inf and one is finite.
Result<void> check_logits(std::span<const float> logits);

}  // namespace baton::engine
