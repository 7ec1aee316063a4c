#include "serve/receipt.h"

#include <fmt/format.h>
#define XXH_STATIC_LINKING_ONLY  // the state lives on the stack
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "base/check.h"
#include "engine/engine.h"
#include "kv/arena.h"
#include "serve/choice_text.h"
#include "text/stop_strings.h"

namespace baton::serve {
namespace {

void append_position(std::vector<uint32_t>& words, const api::Candidate& token) {
  words.push_back(static_cast<uint32_t>(token.token));
  words.push_back(std::bit_cast<uint32_t>(token.logprob));
  words.push_back(static_cast<uint32_t>(token.rank));
}

// ---- recomputation ----

Result<void> check_hash(const std::string& place, const api::ReceiptTokens& tokens) {
  if (!tokens.ids) return {};
  const std::string own = engine::prompt_hash(*tokens.ids);
  if (own == tokens.hash) return {};
  return fail(Code::kInvalid, fmt::format("receipt.{}.hash: {}, its ids have {}", place, tokens.hash, own));
}

Result<void> check_hashes(const std::string& place, const api::ReceiptPrompt& prompt) {
  if (!prompt.tokens.ids) {
    return fail(Code::kInvalid,
                fmt::format("receipt.{}.tokens.ids: missing, expected the prompt's token ids (an answer has "
                            "them with return_token_ids, or give the request by --request)",
                            place));
  }
  TRY_DO(check_hash(place + ".tokens", prompt.tokens));
  for (size_t i = 0; i < prompt.choices.size(); ++i)
    TRY_DO(check_hash(fmt::format("{}.choices[{}].tokens", place, i), prompt.choices[i].tokens));
  return {};
}

// One prompt's choices as an engine of their own draws them.
class Recomputation {
 public:
  Recomputation(const api::ReceiptPrompt& claimed, model::LanguageModel& model,
                const text::Tokenizer& tokenizer)
      : claimed_(claimed), model_(model), tokenizer_(tokenizer) {}

  Result<api::ReceiptPrompt> run() {
    const engine::Request request = this->request();
    TRY_DO(engine::check_request(request, model_.info().vocab_size, model_.info().max_position));
    TRY_DO(make_choices());
    TRY(const auto arena, kv::KvArena::create(model_.info().kv_layout, blocks(request), Incarnation{{1}}));
    engine::EngineConfig config;
    config.limits.batch_tokens_max = model_.batch_rows_max();
    config.limits.seqs_max = std::min(request.sampling.n, config.limits.batch_tokens_max);
    TRY_DO(engine::check_config(config, model_.info(), *arena));
    engine::Engine engine(config, model_, *arena);
    TRY_DO(step_through(engine, request));
    return receipt();
  }

 private:
  struct Choice {
    ChoiceText text;
    DrawnChoice drawn;
  };

  engine::Request request() const {
    engine::Request out;
    out.id = RequestId{1};
    out.prompt = *claimed_.tokens.ids;
    out.sampling = engine_sampling(claimed_.sampling, claimed_.seed);
    int64_t longest = 0;
    for (const api::ReceiptChoice& choice : claimed_.choices)
      longest = std::max(longest, choice.tokens.count);
    // Beyond the longest there is nothing to compare; whether it goes on takes one token.
    out.sampling.max_tokens = static_cast<uint32_t>(std::min<int64_t>(out.sampling.max_tokens, longest + 1));
    out.sampling.min_tokens = std::min(out.sampling.min_tokens, out.sampling.max_tokens);
    return out;
  }

  // The prompt once, and of each choice what it alone has: its own copy of the prompt's last block, too.
  uint32_t blocks(const engine::Request& request) const {
    const kv::KvLayout& layout = model_.info().kv_layout;
    return layout.blocks_for(request.prompt.size()) +
           request.sampling.n * (layout.blocks_for(request.sampling.max_tokens) + 2);
  }

  Result<void> make_choices() {
    const api::ReceiptSampling& s = claimed_.sampling;
    for (int32_t i = 0; i < s.n; ++i) {
      TRY(text::StopStrings stops, text::StopStrings::create(s.stop, s.include_stop_str_in_output));
      choices_.push_back({.text = ChoiceText(tokenizer_, std::move(stops),
                                             {.skip_special_tokens = s.skip_special_tokens,
                                              .include_stop_str_in_output = s.include_stop_str_in_output,
                                              .min_tokens = static_cast<uint32_t>(s.min_tokens)}),
                          .drawn = {}});
    }
    return {};
  }

  Result<void> step_through(engine::Engine& engine, const engine::Request& request) {
    std::vector<engine::Inbox> inbox;
    inbox.emplace_back(engine::Submit{request});
    while (!inbox.empty() || engine.has_work()) {
      const engine::Outbox outbox = engine.step(std::exchange(inbox, {}), kNow);
      for (const engine::Answer& answer : outbox.answers) {
        if (const auto* failed = std::get_if<engine::FailedEvent>(&answer)) return Failure(failed->error);
        if (std::holds_alternative<engine::FinishedEvent>(answer)) return {};
        const auto* tokens = std::get_if<engine::TokensEvent>(&answer);
        if (tokens != nullptr && take(*tokens))
          inbox.emplace_back(engine::StopChoice{.request = request.id, .choice = tokens->choice});
      }
    }
    CHECK(false, "an engine stopped before its only request had ended");
    return {};
  }

  // Whether a stop string ended the choice.
  bool take(const engine::TokensEvent& event) {
    Choice& choice = choices_[event.choice];
    const ChoiceText::Added added = choice.text.take(event.tokens);
    choice.drawn.take(added.token_ids, added.logprobs);
    return added.hit_stop_string;
  }

  api::ReceiptPrompt receipt() const {
    api::ReceiptPrompt out = claimed_;
    out.choices.clear();
    for (const Choice& choice : choices_) {
      api::ReceiptChoice one = choice.drawn.receipt(true);
      one.finish_reason = choice.text.finish().value_or(api::FinishReason::kLength);
      one.stop_reason = choice.text.stop_reason();
      out.choices.push_back(std::move(one));
    }
    return out;
  }

  static constexpr Time kNow{std::chrono::seconds(1)};

  const api::ReceiptPrompt& claimed_;
  model::LanguageModel& model_;
  const text::Tokenizer& tokenizer_;
  std::vector<Choice> choices_;
};

}  // namespace

void DrawnChoice::take(std::span<const TokenId> tokens, std::span<const api::PositionLogprobs> logprobs) {
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  knows_logprobs_ = knows_logprobs_ && logprobs.size() == tokens.size();
  for (const api::PositionLogprobs& position : logprobs) {
    std::vector<uint32_t> words(logprobs_hash_.size() / sizeof(uint32_t));
    std::memcpy(words.data(), logprobs_hash_.data(), logprobs_hash_.size());
    append_position(words, position.chosen);
    for (const api::Candidate& token : position.top) append_position(words, token);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(words.data(), words.size() * sizeof(uint32_t)));
    std::memcpy(logprobs_hash_.data(), canonical.digest, logprobs_hash_.size());
  }
}

api::ReceiptChoice DrawnChoice::receipt(bool with_ids) const {
  api::ReceiptChoice out;
  out.tokens = receipt_of_tokens(tokens_, with_ids);
  if (!knows_logprobs_ || tokens_.empty()) return out;
  for (const uint8_t byte : logprobs_hash_) out.logprobs_hash += fmt::format("{:02x}", byte);
  return out;
}

api::ReceiptTokens receipt_of_tokens(const std::vector<TokenId>& tokens, bool with_ids) {
  api::ReceiptTokens out{.count = static_cast<int64_t>(tokens.size()), .hash = engine::prompt_hash(tokens)};
  if (with_ids) out.ids = tokens;
  return out;
}

api::ReceiptSampling receipt_sampling(const engine::SamplingParams& sampling,
                                      const api::SamplingFields& texts) {
  api::ReceiptSampling out{.temperature = sampling.temperature,
                           .top_p = sampling.top_p,
                           .top_k = sampling.top_k,
                           .min_p = sampling.min_p,
                           .repetition_penalty = sampling.repetition_penalty,
                           .presence_penalty = sampling.presence_penalty,
                           .frequency_penalty = sampling.frequency_penalty,
                           .logit_bias = sampling.logit_bias,
                           .n = static_cast<int32_t>(sampling.n),
                           .max_tokens = static_cast<int32_t>(sampling.max_tokens),
                           .min_tokens = static_cast<int32_t>(sampling.min_tokens),
                           .eos_token_ids = sampling.eos_token_ids,
                           .stop_token_ids = sampling.stop_token_ids,
                           .ignore_eos = sampling.ignore_eos,
                           .logprobs = {},
                           .stop = texts.stop,
                           .include_stop_str_in_output = texts.include_stop_str_in_output,
                           .skip_special_tokens = texts.skip_special_tokens};
  if (sampling.logprobs) out.logprobs = static_cast<int32_t>(*sampling.logprobs);
  return out;
}

engine::SamplingParams engine_sampling(const api::ReceiptSampling& sampling, int64_t seed) {
  engine::SamplingParams out{.temperature = sampling.temperature,
                             .top_p = sampling.top_p,
                             .top_k = sampling.top_k,
                             .min_p = sampling.min_p,
                             .repetition_penalty = sampling.repetition_penalty,
                             .presence_penalty = sampling.presence_penalty,
                             .frequency_penalty = sampling.frequency_penalty,
                             .logit_bias = sampling.logit_bias,
                             .allowed_token_ids = {},
                             .seed = static_cast<uint64_t>(seed),
                             .n = static_cast<uint32_t>(sampling.n),
                             .max_tokens = static_cast<uint32_t>(sampling.max_tokens),
                             .min_tokens = static_cast<uint32_t>(sampling.min_tokens),
                             .eos_token_ids = sampling.eos_token_ids,
                             .stop_token_ids = sampling.stop_token_ids,
                             .ignore_eos = sampling.ignore_eos,
                             .logprobs = {},
                             .prompt_logprobs = {}};
  if (sampling.logprobs) out.logprobs = static_cast<uint32_t>(*sampling.logprobs);
  return out;
}

Result<api::Receipt> recompute(const api::Receipt& claimed, model::LanguageModel& model,
                               const text::Tokenizer& tokenizer) {
  api::Receipt out = claimed;
  out.fingerprint = model.info().fingerprint;
  out.dtype = dtype_name(model.info().kv_layout.dtype);
  for (size_t i = 0; i < claimed.prompts.size(); ++i) {
    const std::string place = fmt::format("prompts[{}]", i);
    TRY_DO(check_hashes(place, claimed.prompts[i]));
    auto prompt = Recomputation(claimed.prompts[i], model, tokenizer).run();
    if (!prompt) {
      return fail(prompt.error().code, fmt::format("receipt.{}: {}", place, prompt.error().message));
    }
    out.prompts[i] = *std::move(prompt);
  }
  return out;
}

}  // namespace baton::serve
