// What an answer is, said once more and slowly: the definition in engine/sampler.h word by word over plain
// vectors, and a loop that computes one request with it. For tests: what the engine does at speed, in batches
// and with counted histories, has to come out the same. Takes from the shipped code only the noise of a token
// and the exponential.
#pragma once

#include <algorithm>
#include <limits>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "engine/request.h"
#include "kernels/sampling.h"
#include "kv/arena.h"
#include "model/language_model.h"

namespace baton::engine {

// The token that follows `prompt` and `answer`. row [vocab], raw logits; the masks leave at least one token.
inline TokenId slow_draw(std::vector<float> row, const SamplingParams& p, std::span<const TokenId> prompt,
                         std::span<const TokenId> answer, uint32_t choice) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const auto at = [&](TokenId token) -> float& { return row[static_cast<size_t>(token)]; };
  if (!p.allowed_token_ids.empty()) {
    for (size_t i = 0; i < row.size(); ++i)
      if (std::ranges::count(p.allowed_token_ids, static_cast<TokenId>(i)) == 0) row[i] = kNone;
  }
  if (answer.size() < p.min_tokens) {
    for (const TokenId token : p.eos_token_ids) at(token) = kNone;
    for (const TokenId token : p.stop_token_ids) at(token) = kNone;
  }
  for (const auto& [token, bias] : p.logit_bias) at(token) += bias;
  for (size_t i = 0; i < row.size(); ++i) {
    const auto token = static_cast<TokenId>(i);
    const auto in_answer = std::ranges::count(answer, token);
    if (in_answer > 0 || std::ranges::count(prompt, token) > 0)
      row[i] = row[i] > 0.0F ? row[i] / p.repetition_penalty : row[i] * p.repetition_penalty;
    if (in_answer == 0) continue;
    row[i] -= p.frequency_penalty * static_cast<float>(in_answer);
    row[i] -= p.presence_penalty;
  }
  std::vector<TokenId> order;
  for (size_t i = 0; i < row.size(); ++i) {
    if (row[i] != kNone) order.push_back(static_cast<TokenId>(i));
  }
  std::ranges::sort(order, [&](TokenId a, TokenId b) { return at(a) > at(b) || (at(a) == at(b) && a < b); });
  if (p.temperature == 0.0F) return order.front();
  for (float& logit : row) logit /= p.temperature;
  const float highest = at(order.front());
  if (p.min_p > 0.0F)
    std::erase_if(order, [&](TokenId token) { return at(token) < highest + kernels::log_f32(p.min_p); });
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < order.size()) order.resize(static_cast<size_t>(p.top_k));
  if (p.top_p < 1.0F) {
    const auto weight = [&](TokenId token) {
      return static_cast<double>(kernels::exp_f32(at(token) - highest));
    };
    double total = 0.0;
    for (const TokenId token : order) total += weight(token);
    double reached = 0.0;
    size_t kept = 0;
    while (kept < order.size() && (kept == 0 || reached < static_cast<double>(p.top_p) * total))
      reached += weight(order[kept++]);
    order.resize(kept);
  }
  std::ranges::sort(order);
  const uint64_t position = prompt.size() + answer.size();
  std::pair<float, TokenId> best{kNone, order.front()};
  for (const TokenId token : order) {
    const float score = at(token) + kernels::gumbel(p.seed, choice, position, token);
    if (score > best.first) best = {score, token};
  }
  return best.second;
}

// The tokens of one choice, drawn one after the other on a cache that nobody else uses.
inline std::vector<TokenId> slow_answer(const Request& request, uint32_t choice,
                                        model::LanguageModel& model) {
  const SamplingParams& p = request.sampling;
  const kv::KvLayout& layout = model.info().kv_layout;
  const uint32_t count = layout.blocks_for(request.prompt.size() + p.max_tokens);
  const auto arena = std::move(*kv::KvArena::create(layout, count, Incarnation{{1}}));
  std::vector<BlockId> blocks;
  for (uint32_t i = 0; i < count; ++i) blocks.push_back(BlockId{i});
  std::vector<TokenId> tokens = request.prompt;
  std::vector<TokenId> answer;
  for (uint32_t computed = 0; answer.size() < p.max_tokens;) {
    const auto rows = static_cast<uint32_t>(tokens.size()) - computed;
    const model::SequenceRows sequence{.rows = rows, .first_position = computed, .blocks = blocks};
    const uint32_t last = rows - 1;
    model.forward({.tokens = std::span(tokens).subspan(computed),
                   .sequences = std::span(&sequence, 1),
                   .logit_rows = std::span(&last, 1)},
                  *arena, {});
    computed += rows;
    const std::span<const float> logits = model.logits(0, 1);
    const TokenId token = slow_draw({logits.begin(), logits.end()}, p, request.prompt, answer, choice);
    tokens.push_back(token);
    answer.push_back(token);
    const bool ends = (!p.ignore_eos && std::ranges::count(p.eos_token_ids, token) > 0) ||
                      std::ranges::count(p.stop_token_ids, token) > 0;
    if (ends && answer.size() >= p.min_tokens) break;
  }
  return answer;
}

}  // namespace baton::engine
