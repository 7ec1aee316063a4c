#include "engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "kernels/sampling.h"

namespace baton::engine {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();
constexpr float kNucleusMargin = 1e-3F;         // in logits: far above the rounding of log and sum
constexpr size_t kFirstSortedCandidates = 256;  // then four times as many, and so on

}  // namespace

Result<void> check_logits(std::span<const float> logits) {
  bool any = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity()) {
      return fail(Code::kCorrupt,
                  fmt::format("logits: token {} is {}, expected a finite number", i, logits[i]));
    }
    any = any || logits[i] != kMasked;
  }
  if (!any) return fail(Code::kCorrupt, "logits: all are -inf, expected a finite number");
  return {};
}

bool changes_logits(const SamplingParams& params, uint32_t output_tokens) {
  return !params.allowed_token_ids.empty() || !params.logit_bias.empty() ||
         output_tokens < params.min_tokens || params.repetition_penalty != 1.0F ||
         (output_tokens > 0 && (params.presence_penalty != 0.0F || params.frequency_penalty != 0.0F));
}

PositionLogprobs logprobs_of(std::span<const float> logits, TokenId token, uint32_t top) {
  const float log_sum = kernels::log_sum_exp(logits);
  const float own = logits[static_cast<size_t>(token)];
  PositionLogprobs found{.self = {.token = token, .logprob = own - log_sum, .rank = 1}, .top = {}};
  std::array<TokenId, kLogprobsMax> best{};
  const size_t most = std::min<size_t>({top, kLogprobsMax, logits.size()});
  size_t count = 0;
  float worst = kMasked;  // of a full list
  for (size_t i = 0; i < logits.size(); ++i) {
    const float logit = logits[i];
    if (logit > own || (logit == own && static_cast<TokenId>(i) < token)) ++found.self.rank;
    if (most == 0 || (count == most && !(logit > worst))) continue;
    size_t at = count < most ? count++ : most - 1;
    for (; at > 0 && logits[static_cast<size_t>(best[at - 1])] < logit; --at) best[at] = best[at - 1];
    best[at] = static_cast<TokenId>(i);
    if (count == most) worst = logits[static_cast<size_t>(best[most - 1])];
  }
  for (size_t i = 0; i < count; ++i) {
    found.top.push_back({.token = best[i],
                         .logprob = logits[static_cast<size_t>(best[i])] - log_sum,
                         .rank = static_cast<uint32_t>(i + 1)});
  }
  return found;
}

Sampler::Sampler(uint32_t vocab_size) : vocab_size_(vocab_size), noise_(kernels::kVocabularyTile) {}

std::span<const float> Sampler::adjusted(std::span<const float> logits, const SamplingParams& params,
                                         const TokenHistory& history) {
  if (!changes_logits(params, history.output_tokens)) return logits;
  if (params.allowed_token_ids.empty()) {
    row_.assign(logits.begin(), logits.end());
  } else {
    row_.assign(vocab_size_, kMasked);
    for (const TokenId token : params.allowed_token_ids) {
      row_[static_cast<size_t>(token)] = logits[static_cast<size_t>(token)];
    }
  }
  if (history.output_tokens < params.min_tokens) {
    for (const TokenId token : params.eos_token_ids) row_[static_cast<size_t>(token)] = kMasked;
    for (const TokenId token : params.stop_token_ids) row_[static_cast<size_t>(token)] = kMasked;
  }
  for (const auto& [token, bias] : params.logit_bias) row_[static_cast<size_t>(token)] += bias;
  penalise(params, history);
  return row_;
}

void Sampler::penalise(const SamplingParams& params, const TokenHistory& history) {
  const auto repeat = [&](TokenId token) {
    float& logit = row_[static_cast<size_t>(token)];
    logit = logit > 0.0F ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  };
  if (params.repetition_penalty != 1.0F) {
    for (const TokenId token : history.prompt_distinct) repeat(token);
  }
  if (history.output == nullptr) return;
  for (const auto& [token, times] : *history.output) {
    const bool in_prompt =
        params.repetition_penalty != 1.0F && std::ranges::binary_search(history.prompt_distinct, token);
    if (params.repetition_penalty != 1.0F && !in_prompt) repeat(token);
    float& logit = row_[static_cast<size_t>(token)];
    logit -= params.frequency_penalty * static_cast<float>(times);
    logit -= params.presence_penalty;
  }
}

Result<TokenId> Sampler::draw(std::span<const float> logits, const SamplingParams& params,
                              const TokenHistory& history, uint32_t choice, uint64_t position) {
  CHECK(logits.size() == vocab_size_, "{} logits, expected {}", logits.size(), vocab_size_);
  TRY_DO(check_logits(logits));
  const std::span<const float> row = adjusted(logits, params, history);
  const std::optional<TokenId> best = kernels::argmax(row);
  if (!best) return fail(Code::kInvalid, "sampling: no token is allowed, expected at least 1");
  if (params.temperature < kGreedyBelow) return *best;

  const float highest = row[static_cast<size_t>(*best)] / params.temperature;
  // A tiny temperature takes even the best one out of float's range, either way: that is greedy.
  if (!std::isfinite(highest)) return *best;
  if (row.data() != row_.data()) row_.assign(row.begin(), row.end());
  for (float& logit : row_) logit = logit / params.temperature;
  const bool some_k = params.top_k > 0 && static_cast<uint32_t>(params.top_k) < vocab_size_;
  if (!some_k && params.top_p >= 1.0F && params.min_p <= 0.0F) {
    const auto token = draw_from_all(params, choice, position);
    return token ? *token : *best;
  }
  if (!some_k && params.min_p <= 0.0F) {
    keep_nucleus(highest, params.top_p);
  } else {
    // p >= min_p * p_max is logit >= highest + log(min_p).
    collect(params.min_p > 0.0F ? highest + kernels::log_f32(params.min_p) : kMasked);
    if (some_k) keep_top_k(static_cast<size_t>(params.top_k));
    if (params.top_p < 1.0F) {
      std::ranges::sort(candidates_, before);
      double total = 0.0;
      for (const Candidate& c : candidates_)
        total += static_cast<double>(kernels::exp_f32(c.logit - highest));
      keep_top_p(highest, params.top_p, total);
    }
  }
  return draw_from_candidates(params, choice, position);
}

void Sampler::collect(float least) {
  candidates_.clear();
  for (size_t i = 0; i < row_.size(); ++i) {
    if (row_[i] >= least && row_[i] != kMasked) candidates_.push_back({row_[i], static_cast<TokenId>(i)});
  }
}

void Sampler::keep_top_k(size_t k) {
  if (k >= candidates_.size()) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(k) - 1,
                   candidates_.end(), before);
  candidates_.resize(k);
}

bool Sampler::keep_top_p(float highest, float top_p, double total) {
  const double wanted = static_cast<double>(top_p) * total;
  double reached = 0.0;
  size_t sorted = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    if (i == sorted) {
      sorted = std::min(candidates_.size(), std::max(kFirstSortedCandidates, sorted * 4));
      std::partial_sort(candidates_.begin() + static_cast<ptrdiff_t>(i),
                        candidates_.begin() + static_cast<ptrdiff_t>(sorted), candidates_.end(), before);
    }
    reached += static_cast<double>(kernels::exp_f32(candidates_[i].logit - highest));
    if (reached >= wanted) {
      candidates_.resize(i + 1);
      return true;
    }
  }
  return false;
}

// The tokens with p < (1 - top_p) / vocab_size together have less than 1 - top_p, so the shortest beginning
// that reaches top_p lies among the others: usually a few, found without sorting the vocabulary.
void Sampler::keep_nucleus(float highest, float top_p) {
  const kernels::ExpSum sum = kernels::exp_sum(row_);
  const float share = (1.0F - top_p) / static_cast<float>(vocab_size_);
  const float least = highest + kernels::log_f32(share * sum.sum);
  collect(least - kNucleusMargin);
  const double total = static_cast<double>(sum.sum);
  if (keep_top_p(highest, top_p, total)) return;
  // Rounding of the sum: look at everything.
  collect(kMasked);
  keep_top_p(highest, top_p, total);
}

std::optional<TokenId> Sampler::draw_from_all(const SamplingParams& params, uint32_t choice,
                                              uint64_t position) {
  float best = kMasked;
  std::optional<TokenId> token;
  for (size_t first = 0; first < row_.size(); first += noise_.size()) {
    const size_t count = std::min(noise_.size(), row_.size() - first);
    kernels::gumbel_fill(params.seed, choice, position, static_cast<TokenId>(first),
                         std::span(noise_).first(count));
    for (size_t i = 0; i < count; ++i) {
      const float score = row_[first + i] + noise_[i];
      if (score > best) {
        best = score;
        token = static_cast<TokenId>(first + i);
      }
    }
  }
  return token;
}

TokenId Sampler::draw_from_candidates(const SamplingParams& params, uint32_t choice,
                                      uint64_t position) const {
  CHECK(!candidates_.empty(), "no candidate is left");
  float best = kMasked;
  TokenId token = candidates_.front().token;
  for (const Candidate& c : candidates_) {
    const float score = c.logit + kernels::gumbel(params.seed, choice, position, c.token);
    if (score > best || (score == best && c.token < token)) {
      best = score;
      token = c.token;
    }
  }
  return token;
}

}  // namespace baton::engine
