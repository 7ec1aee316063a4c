#include "api/receipt.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "api/fields.h"
#include "api/json.h"

namespace baton::api {
namespace {

// ---- writing ----

void append_key(std::string& out, std::string_view key) {
  if (out.back() != '{') out += ',';
  out += '"';
  out += key;
  out += "\":";
}

void append_ids(std::string& out, const std::vector<TokenId>& ids) {
  out += '[';
  for (const TokenId id : ids) {
    if (out.back() != '[') out += ',';
    append_json_integer(out, id);
  }
  out += ']';
}

void append_tokens(std::string& out, const ReceiptTokens& tokens) {
  out += "{\"count\":";
  append_json_integer(out, tokens.count);
  append_key(out, "hash");
  append_json_string(out, tokens.hash);
  if (tokens.ids) {
    append_key(out, "ids");
    append_ids(out, *tokens.ids);
  }
  out += '}';
}

void append_bias(std::string& out, const std::vector<std::pair<TokenId, float>>& biases) {
  out += '[';
  for (const auto& [token, bias] : biases) {
    if (out.back() != '[') out += ',';
    out += '[';
    append_json_integer(out, token);
    out += ',';
    append_json_number(out, static_cast<double>(bias));
    out += ']';
  }
  out += ']';
}

void append_sampling(std::string& out, const ReceiptSampling& s) {
  const auto number = [&](std::string_view key, float value) {
    append_key(out, key);
    append_json_number(out, static_cast<double>(value));
  };
  const auto integer = [&](std::string_view key, int32_t value) {
    append_key(out, key);
    append_json_integer(out, value);
  };
  const auto on = [&](std::string_view key, bool value) {
    append_key(out, key);
    out += value ? "true" : "false";
  };
  out += '{';
  number("temperature", s.temperature);
  number("top_p", s.top_p);
  integer("top_k", s.top_k);
  number("min_p", s.min_p);
  number("repetition_penalty", s.repetition_penalty);
  number("presence_penalty", s.presence_penalty);
  number("frequency_penalty", s.frequency_penalty);
  append_key(out, "logit_bias");
  append_bias(out, s.logit_bias);
  integer("n", s.n);
  integer("max_tokens", s.max_tokens);
  integer("min_tokens", s.min_tokens);
  append_key(out, "eos_token_ids");
  append_ids(out, s.eos_token_ids);
  append_key(out, "stop_token_ids");
  append_ids(out, s.stop_token_ids);
  on("ignore_eos", s.ignore_eos);
  if (s.logprobs) integer("logprobs", *s.logprobs);
  append_key(out, "stop");
  out += '[';
  for (const std::string& stop : s.stop) {
    if (out.back() != '[') out += ',';
    append_json_string(out, stop);
  }
  out += ']';
  on("include_stop_str_in_output", s.include_stop_str_in_output);
  on("skip_special_tokens", s.skip_special_tokens);
  out += '}';
}

void append_choice(std::string& out, const ReceiptChoice& choice) {
  out += "{\"tokens\":";
  append_tokens(out, choice.tokens);
  append_key(out, "finish_reason");
  append_json_string(out, finish_reason_name(choice.finish_reason));
  append_key(out, "stop_reason");
  if (const auto* token = std::get_if<TokenId>(&choice.stop_reason)) {
    append_json_integer(out, *token);
  } else if (const auto* text = std::get_if<std::string>(&choice.stop_reason)) {
    append_json_string(out, *text);
  } else {
    out += "null";
  }
  if (!choice.logprobs_hash.empty()) {
    append_key(out, "logprobs_hash");
    append_json_string(out, choice.logprobs_hash);
  }
  out += '}';
}

void append_prompt(std::string& out, const ReceiptPrompt& prompt) {
  out += "{\"seed\":";
  append_json_integer(out, prompt.seed);
  append_key(out, "sampling");
  append_sampling(out, prompt.sampling);
  append_key(out, "tokens");
  append_tokens(out, prompt.tokens);
  append_key(out, "choices");
  out += '[';
  for (const ReceiptChoice& choice : prompt.choices) {
    if (out.back() != '[') out += ',';
    append_choice(out, choice);
  }
  out += "]}";
}

// ---- reading ----

// The same error, of something inside `place`.
Failure within(std::string_view place, const Error& error) {
  return fail(error.code, fmt::format("{}.{}", place, error.message), "receipt");
}

Failure missing(std::string_view key, std::string_view expectation) {
  return fail(Code::kInvalid, fmt::format("{}: missing, expected {}", key, expectation));
}

template <class T>
Result<T> needed(std::string_view key, Result<std::optional<T>> value) {
  if (!value) return Failure(std::move(value).error());
  if (!*value) return missing(key, "a value");
  return **std::move(value);
}

Result<int64_t> need_integer(const json::object& from, std::string_view key, int64_t least, int64_t most) {
  return needed(key, read_integer(from, key, least, most));
}
Result<int32_t> need_count(const json::object& from, std::string_view key, int64_t least, int64_t most) {
  TRY(const int64_t value, need_integer(from, key, least, most));
  return static_cast<int32_t>(value);
}
Result<float> need_number(const json::object& from, std::string_view key, double least, double most) {
  TRY(const double value, needed(key, read_number(from, key, least, most)));
  return static_cast<float>(value);
}
Result<bool> need_switch(const json::object& from, std::string_view key) {
  return needed(key, read_switch(from, key));
}

Result<const json::object*> need_object(const json::object& from, std::string_view key) {
  const json::value* value = find_field(from, key);
  if (value == nullptr) return missing(key, "an object");
  if (!value->is_object()) return refuse_field(key, *value, "an object");
  return &value->get_object();
}

Result<const json::array*> need_list(const json::object& from, std::string_view key, size_t most) {
  const json::value* value = find_field(from, key);
  if (value == nullptr) return missing(key, "a list");
  if (!value->is_array()) return refuse_field(key, *value, "a list");
  if (value->get_array().size() > most) {
    return fail(Code::kInvalid,
                fmt::format("{}: {} entries, expected at most {}", key, value->get_array().size(), most));
  }
  return &value->get_array();
}

Result<std::vector<TokenId>> need_ids(const json::object& from, std::string_view key, size_t most) {
  const json::value* value = find_field(from, key);
  if (value == nullptr) return missing(key, "a list of token ids");
  return read_token_ids(*value, key, most, INT32_MAX);
}

Result<std::string> read_hash(const json::object& from, std::string_view key) {
  TRY(std::string text, needed(key, read_text(from, key, kHashDigits)));
  const bool fits = text.size() == kHashDigits && std::ranges::all_of(text, [](char c) {
                      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                    });
  if (fits) return text;
  return refuse_field(key, json::value(json::string(text)), "32 lower-case hexadecimal digits");
}

Result<ReceiptTokens> read_tokens(const json::object& from) {
  ReceiptTokens tokens;
  TRY(tokens.count, need_integer(from, "count", 0, static_cast<int64_t>(kPromptTokensMax)));
  TRY(tokens.hash, read_hash(from, "hash"));
  if (find_field(from, "ids") == nullptr) return tokens;
  TRY(tokens.ids, need_ids(from, "ids", kPromptTokensMax));
  if (std::cmp_equal(tokens.ids->size(), tokens.count)) return tokens;
  return fail(Code::kInvalid,
              fmt::format("ids: {}, expected as many as count, {}", tokens.ids->size(), tokens.count));
}

Result<std::vector<std::pair<TokenId, float>>> read_bias(const json::object& from) {
  TRY(const json::array* list, need_list(from, "logit_bias", kLogitBiasMax));
  std::vector<std::pair<TokenId, float>> biases;
  for (const json::value& entry : *list) {
    const json::array* pair = entry.if_array();
    const auto token = pair != nullptr && pair->size() == 2 ? as_integer((*pair)[0]) : std::nullopt;
    const auto bias = token ? as_number((*pair)[1]) : std::nullopt;
    const double bound = kLogitBiasBound;
    if (!bias || *token < 0 || *token >= INT32_MAX || std::fabs(*bias) > bound)
      return refuse_field("logit_bias", entry, "pairs of a token id and a bias within +-100");
    if (!biases.empty() && biases.back().first >= *token)
      return refuse_field("logit_bias", entry, "ascending token ids");
    biases.emplace_back(static_cast<TokenId>(*token), static_cast<float>(*bias));
  }
  return biases;
}

Result<std::vector<std::string>> read_stops(const json::object& from) {
  TRY(const json::array* list, need_list(from, "stop", kStopStringsMax));
  std::vector<std::string> stops;
  for (const json::value& entry : *list) {
    const json::string* text = entry.if_string();
    if (text == nullptr || text->empty() || text->size() > kStopStringBytesMax)
      return refuse_field("stop", entry, fmt::format("strings of 1 to {} bytes", kStopStringBytesMax));
    stops.emplace_back(*text);
  }
  return stops;
}

Result<ReceiptSampling> read_sampling(const json::object& from) {
  ReceiptSampling s;
  TRY(s.temperature, need_number(from, "temperature", 0, kTemperatureMax));
  TRY(s.top_p, need_number(from, "top_p", 0, 1));
  TRY(s.top_k, need_count(from, "top_k", -1, INT32_MAX));
  TRY(s.min_p, need_number(from, "min_p", 0, 1));
  TRY(s.repetition_penalty, need_number(from, "repetition_penalty", 0, kRepetitionPenaltyMax));
  TRY(s.presence_penalty, need_number(from, "presence_penalty", -kPenaltyBound, kPenaltyBound));
  TRY(s.frequency_penalty, need_number(from, "frequency_penalty", -kPenaltyBound, kPenaltyBound));
  TRY(s.logit_bias, read_bias(from));
  TRY(s.n, need_count(from, "n", 1, kChoicesPerPromptMax));
  TRY(s.max_tokens, need_count(from, "max_tokens", 1, kTokensMax));
  TRY(s.min_tokens, need_count(from, "min_tokens", 0, kTokensMax));
  TRY(s.eos_token_ids, need_ids(from, "eos_token_ids", kEndTokensMax));
  TRY(s.stop_token_ids, need_ids(from, "stop_token_ids", kStopTokenIdsMax));
  TRY(s.ignore_eos, need_switch(from, "ignore_eos"));
  TRY(const auto logprobs, read_integer(from, "logprobs", 0, INT32_MAX));
  if (logprobs) s.logprobs = static_cast<int32_t>(*logprobs);
  TRY(s.stop, read_stops(from));
  TRY(s.include_stop_str_in_output, need_switch(from, "include_stop_str_in_output"));
  TRY(s.skip_special_tokens, need_switch(from, "skip_special_tokens"));
  return s;
}

Result<StopReason> read_stop_reason(const json::object& from) {
  const json::value* value = find_field(from, "stop_reason");
  if (value == nullptr) return StopReason();
  if (const int64_t* token = value->if_int64(); token != nullptr && *token >= 0 && *token < INT32_MAX)
    return StopReason(static_cast<TokenId>(*token));
  if (const json::string* text = value->if_string(); text != nullptr && text->size() <= kStopStringBytesMax)
    return StopReason(std::string(*text));
  return refuse_field("stop_reason", *value, "a token id, a stop string or null");
}

// The member `key`, read by `read`; its errors name the whole place.
template <class Read>
auto read_within(const json::object& from, std::string_view key, Read read)
    -> decltype(read(std::declval<const json::object&>())) {
  const auto object = need_object(from, key);
  if (!object) return Failure(object.error());
  auto value = read(**object);
  if (!value) return within(key, value.error());
  return value;
}

Result<ReceiptChoice> read_choice(const json::object& from) {
  ReceiptChoice choice;
  TRY(choice.tokens, read_within(from, "tokens", read_tokens));
  TRY(const std::string reason, needed("finish_reason", read_text(from, "finish_reason", kNameBytesMax)));
  const auto known = parse_finish_reason(reason);
  if (!known) return refuse_field("finish_reason", json::value(json::string(reason)), "stop or length");
  choice.finish_reason = *known;
  TRY(choice.stop_reason, read_stop_reason(from));
  if (find_field(from, "logprobs_hash") != nullptr) {
    TRY(choice.logprobs_hash, read_hash(from, "logprobs_hash"));
  }
  return choice;
}

// The entries of list `key`, each read by `read`.
template <class T, class Read>
Result<std::vector<T>> read_list(const json::object& from, std::string_view key, size_t most, Read read) {
  TRY(const json::array* list, need_list(from, key, most));
  std::vector<T> out;
  for (const json::value& entry : *list) {
    const std::string place = fmt::format("{}[{}]", key, out.size());
    if (!entry.is_object()) return refuse_field(place, entry, "an object");
    auto value = read(entry.get_object());
    if (!value) return within(place, value.error());
    out.push_back(*std::move(value));
  }
  return out;
}

Result<ReceiptPrompt> read_prompt(const json::object& from) {
  ReceiptPrompt prompt;
  TRY(prompt.seed, need_integer(from, "seed", INT64_MIN, INT64_MAX));
  TRY(prompt.sampling, read_within(from, "sampling", read_sampling));
  TRY(prompt.tokens, read_within(from, "tokens", read_tokens));
  TRY(prompt.choices, read_list<ReceiptChoice>(from, "choices", kChoicesPerPromptMax, read_choice));
  if (std::cmp_equal(prompt.choices.size(), prompt.sampling.n)) return prompt;
  return fail(Code::kInvalid, fmt::format("choices: {}, expected as many as sampling.n, {}",
                                          prompt.choices.size(), prompt.sampling.n));
}

Result<Receipt> read_receipt(const json::object& from) {
  TRY(const int64_t version, need_integer(from, "version", INT64_MIN, INT64_MAX));
  if (version != kReceiptVersion) {
    return fail(Code::kInvalid, fmt::format("version: {}, expected {}", version, kReceiptVersion));
  }
  Receipt receipt;
  TRY(receipt.baton, needed("baton", read_text(from, "baton", kNameBytesMax)));
  TRY(receipt.fingerprint, needed("fingerprint", read_text(from, "fingerprint", kNameBytesMax)));
  TRY(receipt.dtype, needed("dtype", read_text(from, "dtype", kNameBytesMax)));
  TRY(receipt.prompts, read_list<ReceiptPrompt>(from, "prompts", kPromptsMax, read_prompt));
  if (receipt.prompts.empty()) return missing("prompts", "at least one");
  return receipt;
}

// ---- comparing ----

class Comparison {
 public:
  explicit Comparison(ReceiptSides names) : names_(names) {}

  std::optional<std::string> take() { return std::move(difference_); }

  void texts(std::string_view place, std::string_view claimed, std::string_view other) {
    if (difference_ || claimed == other) return;
    difference_ = fmt::format("{}: {} {}, {} {}", place, claimed, names_.claimed, other, names_.other);
  }
  void numbers(std::string_view place, int64_t claimed, int64_t other) {
    texts(place, std::to_string(claimed), std::to_string(other));
  }
  void tokens(const std::string& place, const ReceiptTokens& claimed, const ReceiptTokens& other) {
    if (claimed.ids && other.ids) {
      const size_t both = std::min(claimed.ids->size(), other.ids->size());
      for (size_t i = 0; i < both; ++i)
        numbers(fmt::format("{}.ids[{}]", place, i), (*claimed.ids)[i], (*other.ids)[i]);
    }
    numbers(place + ".count", claimed.count, other.count);
    texts(place + ".hash", claimed.hash, other.hash);
  }
  void choice(const std::string& place, const ReceiptChoice& claimed, const ReceiptChoice& other) {
    tokens(place + ".tokens", claimed.tokens, other.tokens);
    texts(place + ".finish_reason", finish_reason_name(claimed.finish_reason),
          finish_reason_name(other.finish_reason));
    if (claimed.stop_reason != other.stop_reason) texts(place + ".stop_reason", "one", "another");
    if (!claimed.logprobs_hash.empty() && !other.logprobs_hash.empty())
      texts(place + ".logprobs_hash", claimed.logprobs_hash, other.logprobs_hash);
  }
  void prompt(const std::string& place, const ReceiptPrompt& claimed, const ReceiptPrompt& other) {
    tokens(place + ".tokens", claimed.tokens, other.tokens);
    numbers(place + ".seed", claimed.seed, other.seed);
    if (claimed.sampling != other.sampling) {
      std::string one, two;
      append_sampling(one, claimed.sampling);
      append_sampling(two, other.sampling);
      texts(place + ".sampling", one, two);
    }
    numbers(place + ".choices", static_cast<int64_t>(claimed.choices.size()),
            static_cast<int64_t>(other.choices.size()));
    for (size_t i = 0; !difference_ && i < claimed.choices.size(); ++i)
      choice(fmt::format("{}.choices[{}]", place, i), claimed.choices[i], other.choices[i]);
  }

 private:
  ReceiptSides names_;
  std::optional<std::string> difference_;
};

}  // namespace

std::string render_receipt(const Receipt& receipt) {
  std::string out = "{\"version\":";
  append_json_integer(out, kReceiptVersion);
  append_key(out, "baton");
  append_json_string(out, receipt.baton);
  append_key(out, "fingerprint");
  append_json_string(out, receipt.fingerprint);
  append_key(out, "dtype");
  append_json_string(out, receipt.dtype);
  append_key(out, "prompts");
  out += '[';
  for (const ReceiptPrompt& prompt : receipt.prompts) {
    if (out.back() != '[') out += ',';
    append_prompt(out, prompt);
  }
  out += "]}";
  return out;
}

Result<Receipt> parse_receipt(std::string_view text) {
  TRY(const json::object object, parse_json_object(text, kReceiptBytesMax));
  const json::value* own = find_field(object, "receipt");
  if (own != nullptr && !own->is_object()) return refuse_field("receipt", *own, "an object");
  auto receipt = read_receipt(own == nullptr ? object : own->get_object());
  if (!receipt) return within("receipt", receipt.error());
  return receipt;
}

std::optional<std::string> first_difference(const Receipt& claimed, const Receipt& other,
                                            ReceiptSides names) {
  Comparison comparison(names);
  comparison.texts("fingerprint", claimed.fingerprint, other.fingerprint);
  comparison.texts("dtype", claimed.dtype, other.dtype);
  comparison.numbers("prompts", static_cast<int64_t>(claimed.prompts.size()),
                     static_cast<int64_t>(other.prompts.size()));
  const size_t both = std::min(claimed.prompts.size(), other.prompts.size());
  for (size_t i = 0; i < both; ++i)
    comparison.prompt(fmt::format("prompts[{}]", i), claimed.prompts[i], other.prompts[i]);
  return comparison.take();
}

}  // namespace baton::api
