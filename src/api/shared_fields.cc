#include "api/shared_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <climits>

#include "api/fields.h"
#include "api/resume.h"

namespace baton::api {
namespace {

struct NumberField {
  std::string_view key;
  std::optional<float> SamplingFields::* member;
  double least;
  double most;
  bool open_below = false;
};
constexpr auto kNumbers = std::to_array<NumberField>({
    {"temperature", &SamplingFields::temperature, 0, kTemperatureMax},
    {"top_p", &SamplingFields::top_p, 0, 1, true},
    {"min_p", &SamplingFields::min_p, 0, 1},
    {"repetition_penalty", &SamplingFields::repetition_penalty, 0, kRepetitionPenaltyMax, true},
});

struct PenaltyField {
  std::string_view key;
  float SamplingFields::* member;
};
constexpr auto kPenalties = std::to_array<PenaltyField>({
    {"presence_penalty", &SamplingFields::presence_penalty},
    {"frequency_penalty", &SamplingFields::frequency_penalty},
});

struct SwitchField {
  std::string_view key;
  bool SamplingFields::* member;
};
constexpr auto kSamplingSwitches = std::to_array<SwitchField>({
    {"include_stop_str_in_output", &SamplingFields::include_stop_str_in_output},
    {"ignore_eos", &SamplingFields::ignore_eos},
    {"skip_special_tokens", &SamplingFields::skip_special_tokens},
    {"spaces_between_special_tokens", &SamplingFields::spaces_between_special_tokens},
});

struct CommonSwitchField {
  std::string_view key;
  bool CommonRequest::* member;
};
constexpr auto kCommonSwitches = std::to_array<CommonSwitchField>({
    {"stream", &CommonRequest::stream},
    {"echo", &CommonRequest::echo},
    {"return_token_ids", &CommonRequest::return_token_ids},
    {"return_tokens_as_token_ids", &CommonRequest::return_tokens_as_token_ids},
    {"timings", &CommonRequest::timings},
    {"receipt", &CommonRequest::receipt},
});

struct TextField {
  std::string_view key;
  std::string CommonRequest::* member;
};
constexpr auto kTexts = std::to_array<TextField>({
    {"model", &CommonRequest::model},
    {"cache_salt", &CommonRequest::cache_salt},
    {"user", &CommonRequest::user},
    {"request_id", &CommonRequest::request_id},
});

// Fields that change the answer in vLLM and that Baton cannot honour yet.
constexpr auto kNotYet = std::to_array<std::string_view>(
    {"guided_json", "guided_regex", "guided_choice", "guided_grammar", "structural_tag", "structured_outputs",
     "use_beam_search", "logits_processors", "bad_words", "allowed_token_ids", "logprob_token_ids",
     "truncate_prompt_tokens", "prompt_embeds", "suffix"});

// Shared fields that are read one by one, or known and without meaning here.
constexpr auto kOthers = std::to_array<std::string_view>(
    {"top_k",       "logit_bias",      "seed",           "n",          "best_of",
     "stop",        "stop_token_ids",  "min_tokens",     "max_tokens", "max_completion_tokens",
     "logprobs",    "prompt_logprobs", "stream_options", "priority",   "kv_transfer_params",
     kResumeField,  "response_format", "length_penalty", "store",      "metadata",
     "service_tier"});

Result<void> read_numbers(const json::object& body, SamplingFields& sampling) {
  for (const NumberField& field : kNumbers) {
    TRY(const auto value, read_number(body, field.key, field.least, field.most, field.open_below));
    if (value) sampling.*field.member = static_cast<float>(*value);
    // A number above 0 that is 0 as float32 is what its reader would reject.
    if (value && field.open_below && sampling.*field.member == 0.0F) {
      return refuse_field(field.key, *find_field(body, field.key), "a number that float32 tells from 0");
    }
  }
  for (const PenaltyField& field : kPenalties) {
    TRY(const auto value, read_number(body, field.key, -kPenaltyBound, kPenaltyBound));
    if (value) sampling.*field.member = static_cast<float>(*value);
  }
  for (const SwitchField& field : kSamplingSwitches) {
    TRY(const auto value, read_switch(body, field.key));
    if (value) sampling.*field.member = *value;
  }
  TRY(const auto top_k, read_integer(body, "top_k", -1, INT32_MAX));
  if (top_k) sampling.top_k = static_cast<int32_t>(*top_k);
  TRY(sampling.seed, read_integer(body, "seed", INT64_MIN, INT64_MAX));
  return {};
}

Result<void> read_counts(const json::object& body, const RequestLimits& limits, SamplingFields& sampling) {
  TRY(const auto n, read_integer(body, "n", 1, kChoicesPerPromptMax));
  if (n) sampling.n = static_cast<int32_t>(*n);
  TRY(const auto best_of, read_integer(body, "best_of", 1, INT32_MAX));
  if (best_of && *best_of != sampling.n) {
    return refuse_field("best_of", *best_of, fmt::format("the value of n, {}", sampling.n));
  }
  TRY(const auto min_tokens, read_integer(body, "min_tokens", 0, kTokensMax));
  if (min_tokens) sampling.min_tokens = static_cast<int32_t>(*min_tokens);
  TRY(const auto max_tokens, read_integer(body, "max_tokens", 0, kTokensMax));
  TRY(const auto max_completion_tokens, read_integer(body, "max_completion_tokens", 0, kTokensMax));
  const auto asked = max_completion_tokens ? max_completion_tokens : max_tokens;
  if (asked) sampling.max_tokens = static_cast<int32_t>(*asked);
  TRY(const auto prompt_logprobs, read_integer(body, "prompt_logprobs", 0, limits.max_logprobs));
  if (prompt_logprobs) sampling.prompt_logprobs = static_cast<int32_t>(*prompt_logprobs);
  return {};
}

Result<void> read_stops(const json::object& body, const RequestLimits& limits, SamplingFields& sampling) {
  if (const json::value* stop = find_field(body, "stop")) {
    if (stop->is_string()) {
      sampling.stop.emplace_back(stop->get_string());
    } else if (stop->is_array()) {
      for (const json::value& entry : stop->get_array()) {
        if (!entry.is_string()) return refuse_field("stop", *stop, "a string or a list of strings");
        sampling.stop.emplace_back(entry.get_string());
      }
    } else {
      return refuse_field("stop", *stop, "a string or a list of strings");
    }
    if (sampling.stop.size() > kStopStringsMax) {
      return fail(Code::kInvalid,
                  fmt::format("stop: {} strings, expected at most {}", sampling.stop.size(), kStopStringsMax),
                  "stop");
    }
    for (size_t i = 0; i < sampling.stop.size(); ++i) {
      const size_t bytes = sampling.stop[i].size();
      if (bytes > 0 && bytes <= kStopStringBytesMax) continue;
      return fail(Code::kInvalid,
                  fmt::format("stop[{}]: {} bytes, expected 1 to {}", i, bytes, kStopStringBytesMax), "stop");
    }
  }
  if (const json::value* ids = find_field(body, "stop_token_ids")) {
    TRY(sampling.stop_token_ids, read_token_ids(*ids, "stop_token_ids", kStopTokenIdsMax, limits.vocab_size));
  }
  return {};
}

Result<void> read_logit_bias(const json::object& body, const RequestLimits& limits,
                             SamplingFields& sampling) {
  const json::value* value = find_field(body, "logit_bias");
  if (value == nullptr) return {};
  if (!value->is_object()) return refuse_field("logit_bias", *value, "an object from token id to bias");
  const json::object& entries = value->get_object();
  if (entries.size() > kLogitBiasMax) {
    return fail(Code::kInvalid,
                fmt::format("logit_bias: {} entries, expected at most {}", entries.size(), kLogitBiasMax),
                "logit_bias");
  }
  for (const auto& [key, bias] : entries) {
    TokenId token = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (error != std::errc{} || end != key.data() + key.size() || token < 0 || token >= limits.vocab_size) {
      return refuse_field("logit_bias", json::string(std::string_view(key)),
                          fmt::format("token ids from 0 to {} as keys", limits.vocab_size - 1));
    }
    const auto number = as_number(bias);
    if (!number) return refuse_field(fmt::format("logit_bias[{}]", token), bias, "a number");
    const double bound = kLogitBiasBound;
    sampling.logit_bias.push_back({token, static_cast<float>(std::clamp(*number, -bound, bound))});
  }
  std::ranges::sort(sampling.logit_bias, {}, &LogitBias::token);
  const auto repeated = std::ranges::adjacent_find(sampling.logit_bias, {}, &LogitBias::token);
  if (repeated != sampling.logit_bias.end()) {
    return refuse_field("logit_bias", json::value(repeated->token), "each token id once");
  }
  return {};
}

Result<void> read_stream_options(const json::object& body, CommonRequest& request) {
  const json::value* value = find_field(body, "stream_options");
  if (value == nullptr) return {};
  if (!value->is_object()) return refuse_field("stream_options", *value, "an object");
  if (!request.stream) return refuse_field("stream_options", *value, "none unless stream is true");
  TRY(const auto include_usage, read_switch(value->get_object(), "include_usage"));
  TRY(const auto continuous, read_switch(value->get_object(), "continuous_usage_stats"));
  request.include_usage = include_usage.value_or(false);
  request.continuous_usage_stats = request.include_usage && continuous.value_or(false);
  return {};
}

Result<void> refuse_what_is_not_yet(const json::object& body) {
  for (const std::string_view key : kNotYet) {
    const json::value* value = find_field(body, key);
    if (value == nullptr || !asks_for_something(*value)) continue;
    return fail(Code::kInvalid, fmt::format("{}: {} is not supported yet", key, excerpt(*value)),
                std::string(key));
  }
  const json::value* format = find_field(body, "response_format");
  if (format == nullptr) return {};
  if (!format->is_object()) return refuse_field("response_format", *format, "an object with a type");
  const json::value* type = find_field(format->get_object(), "type");
  if (type == nullptr || !type->is_string())
    return refuse_field("response_format", *format, "an object with a type");
  if (type->get_string() == "text") return {};
  return fail(Code::kInvalid,
              fmt::format("response_format: type {} is not supported yet, expected \"text\"", excerpt(*type)),
              "response_format");
}

bool is_printable(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7F; });
}

}  // namespace

Result<void> read_common(const json::object& body, const RequestLimits& limits, CommonRequest& request) {
  for (const TextField& field : kTexts) {
    TRY(auto value, read_text(body, field.key, kNameBytesMax));
    if (value) request.*field.member = std::move(*value);
  }
  if (!is_printable(request.request_id)) {
    return refuse_field("request_id", json::string(request.request_id), "printable ASCII without blanks");
  }
  if (const json::value* salt = find_field(body, "cache_salt");
      salt != nullptr && request.cache_salt.empty()) {
    return refuse_field("cache_salt", *salt, "a string that is not empty");
  }
  for (const CommonSwitchField& field : kCommonSwitches) {
    TRY(const auto value, read_switch(body, field.key));
    if (value) request.*field.member = *value;
  }
  TRY(const auto priority, read_integer(body, "priority", INT32_MIN, INT32_MAX));
  if (priority) request.priority = static_cast<int32_t>(*priority);
  TRY_DO(read_numbers(body, request.sampling));
  TRY_DO(read_counts(body, limits, request.sampling));
  TRY_DO(read_stops(body, limits, request.sampling));
  TRY_DO(read_logit_bias(body, limits, request.sampling));
  TRY_DO(read_stream_options(body, request));
  TRY_DO(refuse_what_is_not_yet(body));
  if (const json::value* params = find_field(body, "kv_transfer_params")) {
    if (!params->is_object() && !params->is_array()) {
      return refuse_field("kv_transfer_params", *params, "an object or a list of objects");
    }
    request.kv_transfer_params = *params;
  }
  if (const json::value* resume = find_field(body, kResumeField)) request.resume = *resume;
  return {};
}

Result<void> check_common(const json::object& body, const CommonRequest& request) {
  const SamplingFields& sampling = request.sampling;
  if (sampling.max_tokens && sampling.min_tokens > *sampling.max_tokens) {
    return refuse_field("min_tokens", sampling.min_tokens,
                        fmt::format("at most max_tokens, {}", *sampling.max_tokens));
  }
  if (request.stream && sampling.prompt_logprobs && find_field(body, "prompt_logprobs") != nullptr) {
    return refuse_field("prompt_logprobs", *sampling.prompt_logprobs, "none when stream is true");
  }
  return {};
}

std::vector<std::string> unknown_fields(const json::object& body, std::span<const std::string_view> own) {
  const auto is_in = [](std::string_view key, const auto& list) {
    return std::ranges::any_of(list, [key](const auto& field) { return field.key == key; });
  };
  std::vector<std::string> unknown;
  for (const auto& entry : body) {
    const std::string_view key = entry.key();
    const bool known = is_in(key, kNumbers) || is_in(key, kPenalties) || is_in(key, kSamplingSwitches) ||
                       is_in(key, kCommonSwitches) || is_in(key, kTexts) ||
                       std::ranges::find(kNotYet, key) != kNotYet.end() ||
                       std::ranges::find(kOthers, key) != kOthers.end() ||
                       std::ranges::find(own, key) != own.end();
    if (!known) unknown.emplace_back(key.substr(0, 64));
    if (unknown.size() == kUnknownFieldsMax) break;
  }
  return unknown;
}

}  // namespace baton::api
