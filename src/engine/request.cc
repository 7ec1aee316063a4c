#include "engine/request.h"

#include <fmt/format.h>
#define XXH_STATIC_LINKING_ONLY  // the state lives on the stack
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <type_traits>

namespace baton::engine {
namespace {

// Hashes values one after the other, each as its little-endian bytes; lists begin with their length.
class Digest {
 public:
  explicit Digest(uint64_t seed) {
    XXH3_INITSTATE(&state_);  // a seeded reset compares with the seed before
    XXH3_64bits_reset_withSeed(&state_, seed);
  }

  template <class T>
    requires std::is_arithmetic_v<T>
  void add(T value) {
    XXH3_64bits_update(&state_, &value, sizeof(value));
  }
  void add(const std::vector<TokenId>& tokens) {
    add(static_cast<uint64_t>(tokens.size()));
    XXH3_64bits_update(&state_, tokens.data(), tokens.size() * sizeof(TokenId));
  }
  uint64_t value() const { return XXH3_64bits_digest(&state_); }

 private:
  XXH3_state_t state_;
};

constexpr uint64_t kDigestVersion = 1;  // changes with the meaning of any field or of the sampler

Failure invalid(const char* param, std::string message) {
  return fail(Code::kInvalid, std::move(message), param);
}

struct Range {
  const char* name;
  float value;
  float low;
  float high;
  bool low_open;
};

Result<void> check_ranges(const SamplingParams& p) {
  for (const Range r : {Range{"temperature", p.temperature, 0.0F, 1e6F, false},
                        Range{"top_p", p.top_p, 0.0F, 1.0F, true}, Range{"min_p", p.min_p, 0.0F, 1.0F, false},
                        Range{"repetition_penalty", p.repetition_penalty, 0.0F, 1e6F, true},
                        Range{"presence_penalty", p.presence_penalty, -2.0F, 2.0F, false},
                        Range{"frequency_penalty", p.frequency_penalty, -2.0F, 2.0F, false}}) {
    const bool inside = r.value <= r.high && (r.low_open ? r.value > r.low : r.value >= r.low);
    if (!inside) {
      return invalid(r.name, fmt::format("{} is {}, expected {}{}, {}]", r.name, r.value,
                                         r.low_open ? "(" : "[", r.low, r.high));
    }
  }
  if (p.top_k < -1) return invalid("top_k", fmt::format("top_k is {}, expected -1, 0 or more", p.top_k));
  if (p.n < 1 || p.n > kChoicesMax) {
    return invalid("n", fmt::format("n is {}, expected 1..{}", p.n, kChoicesMax));
  }
  if (p.max_tokens < 1) return invalid("max_tokens", "max_tokens is 0, expected at least 1");
  if (p.min_tokens > p.max_tokens) {
    return invalid("min_tokens", fmt::format("min_tokens is {}, expected at most max_tokens {}", p.min_tokens,
                                             p.max_tokens));
  }
  if (p.logprobs.value_or(0) > kLogprobsMax) {
    return invalid("logprobs", fmt::format("logprobs is {}, expected 0..{}", *p.logprobs, kLogprobsMax));
  }
  if (p.prompt_logprobs.value_or(0) > kLogprobsMax) {
    return invalid("prompt_logprobs",
                   fmt::format("prompt_logprobs is {}, expected 0..{}", *p.prompt_logprobs, kLogprobsMax));
  }
  return {};
}

Result<void> check_tokens(const char* name, std::span<const TokenId> tokens, uint32_t vocab_size) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= vocab_size) {
      return invalid(name, fmt::format("{}[{}] is {}, expected 0..{}", name, i, tokens[i], vocab_size - 1));
    }
  }
  return {};
}

// The place of the first token that would have ended the answer.
std::optional<size_t> find_end(const SamplingParams& p, const std::vector<TokenId>& tokens) {
  for (size_t i = p.min_tokens == 0 ? 0 : p.min_tokens - 1; i < tokens.size(); ++i) {
    const bool is_eos = !p.ignore_eos && std::ranges::count(p.eos_token_ids, tokens[i]) > 0;
    if (is_eos || std::ranges::count(p.stop_token_ids, tokens[i]) > 0) return i;
  }
  return std::nullopt;
}

Result<void> check_drawn_before(const Request& request, uint32_t vocab_size) {
  constexpr const char* kName = "baton_resume";
  const SamplingParams& p = request.sampling;
  const std::vector<DrawnBefore>& before = request.drawn_before;
  if (request.hold || request.remote)
    return invalid(kName, "baton_resume with kv_transfer_params, expected one of them");
  if (before.size() != p.n)
    return invalid(kName, fmt::format("baton_resume has {} choices, expected n {}", before.size(), p.n));
  for (size_t i = 0; i < before.size(); ++i) {
    const std::vector<TokenId>& tokens = before[i].tokens;
    const std::string name = fmt::format("baton_resume.choices[{}].token_ids", i);
    if (auto inside = check_tokens(name.c_str(), tokens, vocab_size); !inside)
      return invalid(kName, std::move(inside.error().message));
    const size_t most = before[i].finished ? p.max_tokens : p.max_tokens - 1;
    if (tokens.size() > most)
      return invalid(kName, fmt::format("{} has {} tokens, expected at most {} (max_tokens is {})", name,
                                        tokens.size(), most, p.max_tokens));
    const auto end = before[i].finished ? std::nullopt : find_end(p, tokens);
    if (end)
      return invalid(kName, fmt::format("{}[{}] is {}, which ends the answer, expected one that goes on",
                                        name, *end, tokens[*end]));
  }
  if (std::ranges::all_of(before, &DrawnBefore::finished))
    return invalid(kName, "baton_resume has finished choices alone, expected one that goes on");
  return {};
}

}  // namespace

uint64_t sampling_digest(const SamplingParams& p, const std::vector<TokenId>& prompt) {
  Digest digest(kDigestVersion);
  for (const float f :
       {p.temperature, p.top_p, p.min_p, p.repetition_penalty, p.presence_penalty, p.frequency_penalty}) {
    digest.add(f == 0.0F ? 0.0F : f);  // one zero
  }
  digest.add(p.top_k <= 0 ? int32_t{0} : p.top_k);
  digest.add(static_cast<uint64_t>(p.logit_bias.size()));
  for (const auto& [token, bias] : p.logit_bias) {
    digest.add(token);
    digest.add(bias);
  }
  digest.add(p.allowed_token_ids);
  digest.add(p.seed);
  digest.add(p.n);
  digest.add(p.max_tokens == 1);
  digest.add(p.min_tokens == 0);  // the first token is drawn with no token before it
  digest.add(p.eos_token_ids);
  digest.add(p.stop_token_ids);
  digest.add(p.ignore_eos);
  digest.add(p.logprobs ? static_cast<int64_t>(*p.logprobs) : int64_t{-1});
  digest.add(prompt);
  return digest.value();
}

uint64_t answer_digest(const SamplingParams& params, const std::vector<TokenId>& prompt) {
  Digest digest(kDigestVersion);
  digest.add(sampling_digest(params, prompt));
  digest.add(params.max_tokens);
  digest.add(params.min_tokens);
  return digest.value();
}

std::string prompt_hash(const std::vector<TokenId>& prompt) {
  const XXH128_hash_t hash = XXH3_128bits(prompt.data(), prompt.size() * sizeof(TokenId));
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

Result<void> check_request(const Request& request, uint32_t vocab_size, uint32_t model_tokens_max) {
  const SamplingParams& p = request.sampling;
  if (request.prompt.empty()) return invalid("prompt", "prompt has 0 tokens, expected at least 1");
  TRY_DO(check_tokens("prompt", request.prompt, vocab_size));
  TRY_DO(check_ranges(p));
  TRY_DO(check_tokens("allowed_token_ids", p.allowed_token_ids, vocab_size));
  TRY_DO(check_tokens("stop_token_ids", p.stop_token_ids, vocab_size));
  TRY_DO(check_tokens("eos_token_ids", p.eos_token_ids, vocab_size));
  for (const auto& [token, bias] : p.logit_bias) {
    TRY_DO(check_tokens("logit_bias", std::array{token}, vocab_size));
    if (!std::isfinite(bias)) {
      return invalid("logit_bias",
                     fmt::format("logit_bias of token {} is {}, expected a finite number", token, bias));
    }
  }
  // On P one token is drawn, whatever the client's limit is.
  const uint64_t answer = request.hold ? 1 : p.max_tokens;
  if (request.prompt.size() + answer > model_tokens_max) {
    return invalid("prompt",
                   fmt::format("prompt has {} tokens and max_tokens is {}, expected at most {} together "
                               "(max_model_len)",
                               request.prompt.size(), answer, model_tokens_max));
  }
  if (request.hold && request.remote) {
    return invalid("kv_transfer_params",
                   "do_remote_prefill and do_remote_decode are both true, expected one");
  }
  if (request.remote_landing && !request.hold) {
    return invalid("kv_transfer_params", "a decode peer's landing without do_remote_decode, expected both");
  }
  if (!request.drawn_before.empty()) TRY_DO(check_drawn_before(request, vocab_size));
  if (request.remote && request.remote->tokens != request.prompt.size()) {
    return invalid("kv_transfer_params", fmt::format("the peer holds {} tokens, expected the prompt's {}",
                                                     request.remote->tokens, request.prompt.size()));
  }
  return {};
}

}  // namespace baton::engine
