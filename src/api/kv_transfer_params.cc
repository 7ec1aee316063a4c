#include "api/kv_transfer_params.h"

#include <fmt/format.h>

#include <array>

#include "api/fields.h"

namespace baton::api {
namespace {

constexpr std::string_view kName = "kv_transfer_params";
constexpr int64_t kTokensBound = 1LL << 40;
constexpr int64_t kLeaseMsMax = 7LL * 24 * 3600 * 1000;
constexpr size_t kFirstTokensMax = static_cast<size_t>(kChoicesPerPromptMax);
constexpr size_t kHashBytesMax = 128;
constexpr size_t kUrlBytesMax = 2048;

// Puts the outer name before what a field reader said.
template <class T>
Result<T> inside(std::string_view place, Result<T> result) {
  if (result) return result;
  return fail(result.error().code, fmt::format("{}.{}", place, result.error().message), std::string(kName));
}

Result<int32_t> read_int32(const json::object& object, std::string_view place, std::string_view key,
                           int32_t least, int32_t most, int32_t otherwise) {
  TRY(const auto value, inside(place, read_integer(object, key, least, most)));
  return value ? static_cast<int32_t>(*value) : otherwise;
}

Result<std::optional<int32_t>> read_size(const json::object& object, std::string_view key) {
  TRY(const auto value, inside(kName, read_integer(object, key, 0, INT32_MAX)));
  if (!value) return std::nullopt;
  return static_cast<int32_t>(*value);
}

Result<std::string> read_name(const json::object& object, std::string_view place, std::string_view key) {
  TRY(auto value, inside(place, read_text(object, key, kNameBytesMax)));
  return std::move(value).value_or("");
}

Result<std::vector<int64_t>> read_block_list(const json::array& list, std::string_view place, size_t& left) {
  std::vector<int64_t> ids;
  ids.reserve(list.size());
  for (const json::value& entry : list) {
    const auto id = as_integer(entry);
    if (!id || *id < 0)
      return refuse_field(fmt::format("{}[{}]", place, ids.size()), entry, "a block number");
    if (left == 0) {
      return fail(Code::kInvalid, fmt::format("{}: more than {} blocks", place, kBlockIdsMax),
                  std::string(kName));
    }
    --left;
    ids.push_back(*id);
  }
  return ids;
}

// Flat ([1, 2]) is one group; nested ([[1, 2], [3]]) one list per group.
Result<std::vector<std::vector<int64_t>>> read_block_ids(const json::object& object) {
  std::vector<std::vector<int64_t>> groups;
  const json::value* value = find_field(object, "remote_block_ids");
  if (value == nullptr) return groups;
  const std::string place = fmt::format("{}.remote_block_ids", kName);
  if (!value->is_array())
    return refuse_field(place, *value, "a list of block numbers, or one list per group");
  const json::array& list = value->get_array();
  if (list.empty()) return groups;
  size_t left = kBlockIdsMax;
  if (!list[0].is_array()) {
    TRY(auto ids, read_block_list(list, place, left));
    groups.push_back(std::move(ids));
    return groups;
  }
  for (const json::value& group : list) {
    if (!group.is_array()) return refuse_field(place, group, "one list per group");
    TRY(auto ids, read_block_list(group.get_array(), fmt::format("{}[{}]", place, groups.size()), left));
    groups.push_back(std::move(ids));
  }
  return groups;
}

Result<void> read_sizes(const json::object& object, KvTransferParams& params) {
  TRY(params.num_prompt_blocks, read_size(object, "num_prompt_blocks"));
  TRY(params.remote_pcp_size, read_size(object, "remote_pcp_size"));
  TRY(params.remote_dcp_size, read_size(object, "remote_dcp_size"));
  for (const std::string_view key : {"tp_size", "remote_tp_size", "remote_ptp_size"}) {
    TRY(const auto size, read_size(object, key));
    if (size) params.remote_ptp_size = size;
  }
  const json::value* block_size = find_field(object, "remote_block_size");
  if (block_size == nullptr) return {};
  const bool is_list = block_size->is_array();
  if (is_list && block_size->get_array().empty()) return {};
  const json::value& first = is_list ? block_size->get_array()[0] : *block_size;
  const auto size = as_integer(first);
  if (!size || *size < 0 || *size > INT32_MAX) {
    return refuse_field(fmt::format("{}.remote_block_size", kName), *block_size, "a number of tokens");
  }
  params.remote_block_size = static_cast<int32_t>(*size);
  return {};
}

Result<float> read_float(const json::object& object, std::string_view place, std::string_view key) {
  constexpr double kBound = 3.4e38;
  TRY(const auto value, inside(place, read_number(object, key, -kBound, kBound)));
  return static_cast<float>(value.value_or(0));
}

// -9999 and below, and null (which stands for minus infinity), are shown alike; exactness ends there.
Result<Candidate> read_candidate(const json::value& value, std::string_view place) {
  if (!value.is_array() || value.get_array().size() != 3)
    return refuse_field(place, value, "[token, logprob, rank]");
  const json::array& fields = value.get_array();
  const auto token = as_integer(fields[0]);
  const auto logprob = as_number(fields[1]);
  const auto rank = as_integer(fields[2]);
  if (!token || *token < 0 || *token > INT32_MAX || !logprob || *logprob > 3.4e38 || *logprob < -3.4e38 ||
      !rank || *rank < 0 || *rank > INT32_MAX) {
    return refuse_field(place, value, "[token, logprob, rank]");
  }
  Candidate candidate;
  candidate.token = static_cast<TokenId>(*token);
  candidate.logprob = static_cast<float>(*logprob);
  candidate.rank = static_cast<int32_t>(*rank);
  return candidate;
}

Result<PositionLogprobs> read_logprobs(const json::value& value, std::string_view place) {
  if (!value.is_array() || value.get_array().empty())
    return refuse_field(place, value, "a list of candidates");
  PositionLogprobs position;
  bool first = true;
  for (const json::value& entry : value.get_array()) {
    TRY(auto candidate, read_candidate(entry, place));
    if (first) {
      position.chosen = std::move(candidate);
    } else {
      position.top.push_back(std::move(candidate));
    }
    first = false;
  }
  return position;
}

Result<DrawnWith> read_drawn_with(const json::object& object, std::string_view place) {
  DrawnWith drawn;
  TRY(drawn.temperature, read_float(object, place, "temperature"));
  TRY(drawn.top_p, read_float(object, place, "top_p"));
  TRY(drawn.min_p, read_float(object, place, "min_p"));
  TRY(drawn.repetition_penalty, read_float(object, place, "repetition_penalty"));
  TRY(drawn.presence_penalty, read_float(object, place, "presence_penalty"));
  TRY(drawn.frequency_penalty, read_float(object, place, "frequency_penalty"));
  TRY(drawn.top_k, read_int32(object, place, "top_k", 0, INT32_MAX, 0));
  TRY(drawn.choice, read_int32(object, place, "choice", 0, INT32_MAX, 0));
  TRY(drawn.logprobs, read_int32(object, place, "logprobs", -1, INT32_MAX, -1));
  TRY(drawn.masks_hash, read_name(object, place, "masks_hash"));
  const json::value* seed = find_field(object, "seed");
  if (seed == nullptr) return drawn;
  if (seed->is_uint64()) {
    drawn.seed = seed->get_uint64();
  } else if (seed->is_int64() && seed->get_int64() >= 0) {
    drawn.seed = static_cast<uint64_t>(seed->get_int64());
  } else {
    return refuse_field(fmt::format("{}.seed", place), *seed, "an integer from 0 to 2^64-1");
  }
  return drawn;
}

Result<FirstToken> read_first_token(const json::value& value, std::string_view place) {
  if (!value.is_object()) return refuse_field(place, value, "an object");
  const json::object& object = value.get_object();
  FirstToken first;
  TRY(first.token, read_int32(object, place, "token", 0, INT32_MAX, 0));
  const json::value* drawn = find_field(object, "drawn_with");
  if (drawn == nullptr || !drawn->is_object()) return refuse_field(place, value, "an object with drawn_with");
  TRY(first.drawn_with, read_drawn_with(drawn->get_object(), place));
  if (const json::value* logprobs = find_field(object, "logprobs")) {
    TRY(auto position, read_logprobs(*logprobs, place));
    first.logprobs = std::move(position);
  }
  TRY(const auto reason, read_name(object, place, "finish_reason"));
  if (!reason.empty()) {
    first.finish_reason = parse_finish_reason(reason);
    if (!first.finish_reason)
      return refuse_field(place, json::string(reason), "stop, length, abort or error");
  }
  if (const json::value* stop = find_field(object, "stop_reason")) {
    const auto token = as_integer(*stop);
    if (stop->is_string()) {
      first.stop_reason = std::string(stop->get_string());
    } else if (token && *token >= 0 && *token <= INT32_MAX) {
      first.stop_reason = static_cast<TokenId>(*token);
    } else {
      return refuse_field(fmt::format("{}.stop_reason", place), *stop, "a token id or a string");
    }
  }
  return first;
}

template <class Id>
Result<Id> read_id(const json::object& object, std::string_view place, std::string_view key) {
  TRY(const auto text, read_name(object, place, key));
  const auto id = Id::parse(text);
  if (!id) return refuse_field(fmt::format("{}.{}", place, key), json::string(text), "32 hexadecimal digits");
  return *id;
}

Result<int64_t> read_count(const json::object& object, std::string_view place, std::string_view key,
                           int64_t most) {
  TRY(const auto value, inside(place, read_integer(object, key, 0, most)));
  return value.value_or(0);
}

Result<std::string> read_hash(const json::object& object, std::string_view place) {
  TRY(auto hash, read_name(object, place, "prompt_hash"));
  if (hash.size() <= kHashBytesMax) return hash;
  return refuse_field(fmt::format("{}.prompt_hash", place), json::string(hash), "a hash in hex");
}

Result<Offer> read_offer(const json::object& object) {
  constexpr std::string_view kPlace = "kv_transfer_params.baton.offer";
  Offer offer;
  TRY(offer.handover_id, read_id<HandoverId>(object, kPlace, "handover_id"));
  TRY(offer.incarnation, read_id<Incarnation>(object, kPlace, "incarnation"));
  TRY(offer.fingerprint, read_name(object, kPlace, "fingerprint"));
  TRY(offer.prompt_hash, read_hash(object, kPlace));
  TRY(offer.num_tokens, read_count(object, kPlace, "num_tokens", kTokensBound));
  TRY(offer.block_size, read_int32(object, kPlace, "block_size", 0, INT32_MAX, 0));
  TRY(const int64_t lease_ms, read_count(object, kPlace, "lease_ms", kLeaseMsMax));
  offer.lease = std::chrono::milliseconds(lease_ms);
  TRY(offer.prompt_tokens, read_count(object, kPlace, "prompt_tokens", kTokensBound));
  TRY(offer.cached_tokens, read_count(object, kPlace, "cached_tokens", kTokensBound));
  const json::value* tokens = find_field(object, "first_tokens");
  if (tokens == nullptr) return offer;
  if (!tokens->is_array() || tokens->get_array().size() > kFirstTokensMax) {
    return refuse_field(fmt::format("{}.first_tokens", kPlace), *tokens,
                        fmt::format("a list of at most {} objects", kFirstTokensMax));
  }
  for (const json::value& entry : tokens->get_array()) {
    TRY(auto first,
        read_first_token(entry, fmt::format("{}.first_tokens[{}]", kPlace, offer.first_tokens.size())));
    offer.first_tokens.push_back(std::move(first));
  }
  return offer;
}

Result<Landing> read_landing(const json::object& object) {
  constexpr std::string_view kPlace = "kv_transfer_params.baton.landing";
  Landing landing;
  TRY(landing.transfer_id, read_id<TransferId>(object, kPlace, "transfer_id"));
  TRY(landing.incarnation, read_id<Incarnation>(object, kPlace, "incarnation"));
  TRY(landing.fingerprint, read_name(object, kPlace, "fingerprint"));
  TRY(landing.prompt_hash, read_hash(object, kPlace));
  TRY(landing.num_tokens, read_count(object, kPlace, "num_tokens", kTokensBound));
  TRY(landing.cached_tokens, read_count(object, kPlace, "cached_tokens", kTokensBound));
  TRY(landing.block_size, read_int32(object, kPlace, "block_size", 0, INT32_MAX, 0));
  return landing;
}

Result<std::optional<BatonParams>> read_baton(const json::object& object) {
  constexpr std::string_view kPlace = "kv_transfer_params.baton";
  const json::value* value = find_field(object, "baton");
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) return refuse_field(kPlace, *value, "an object");
  const json::object& own = value->get_object();
  BatonParams baton;
  TRY(baton.protocol, read_int32(own, kPlace, "protocol", 1, INT32_MAX, 0));
  if (baton.protocol != kHandoverProtocol) {
    return refuse_field(fmt::format("{}.protocol", kPlace), baton.protocol,
                        std::to_string(kHandoverProtocol));
  }
  TRY(const auto least, inside(kPlace, read_integer(own, "client_min_tokens", 0, kTokensMax)));
  TRY(const auto most, inside(kPlace, read_integer(own, "client_max_tokens", 0, kTokensMax)));
  if (least || most) {
    baton.client.emplace();
    baton.client->min_tokens = static_cast<int32_t>(least.value_or(0));
    if (most) baton.client->max_tokens = static_cast<int32_t>(*most);
  }
  if (const json::value* offer = find_field(own, "offer")) {
    if (!offer->is_object()) return refuse_field(fmt::format("{}.offer", kPlace), *offer, "an object");
    TRY(baton.offer, read_offer(offer->get_object()));
  }
  if (const json::value* landing = find_field(own, "landing")) {
    if (!landing->is_object()) return refuse_field(fmt::format("{}.landing", kPlace), *landing, "an object");
    TRY(baton.landing, read_landing(landing->get_object()));
  }
  return baton;
}

Result<KvTransferParams> read_params(const json::object& object) {
  KvTransferParams params;
  TRY(const auto prefill, inside(kName, read_switch(object, "do_remote_prefill")));
  TRY(const auto decode, inside(kName, read_switch(object, "do_remote_decode")));
  params.do_remote_prefill = prefill.value_or(false);
  params.do_remote_decode = decode.value_or(false);
  TRY(params.remote_block_ids, read_block_ids(object));
  TRY(params.remote_engine_id, read_name(object, kName, "remote_engine_id"));
  TRY(params.remote_host, read_name(object, kName, "remote_host"));
  TRY(params.remote_request_id, read_name(object, kName, "remote_request_id"));
  const auto port = read_integer(object, "remote_port", 0, 65535);
  if (!port) {
    return refuse_field(fmt::format("{}.remote_port", kName), *find_field(object, "remote_port"),
                        "a port from 0 to 65535");
  }
  params.remote_port = static_cast<int32_t>(port->value_or(0));
  TRY(const auto last, inside(kName, read_integer(object, "last_token_id", 0, INT32_MAX)));
  if (last) params.last_token_id = static_cast<TokenId>(*last);
  TRY_DO(read_sizes(object, params));
  TRY(auto metaserver, inside(kName, read_text(object, "metaserver", kUrlBytesMax)));
  params.metaserver = std::move(metaserver).value_or("");
  TRY(params.baton, read_baton(object));
  return params;
}

}  // namespace

Result<std::optional<KvTransferParams>> parse_kv_transfer_params(const json::value& value) {
  if (value.is_null()) return std::nullopt;
  if (value.is_object()) {
    if (value.get_object().empty()) return std::nullopt;
    TRY(auto params, read_params(value.get_object()));
    return params;
  }
  if (!value.is_array()) return refuse_field(kName, value, "an object or a list of objects");
  const json::array& list = value.get_array();
  if (list.size() > kFirstTokensMax) {
    return fail(Code::kInvalid,
                fmt::format("{}: {} objects, expected at most {}", kName, list.size(), kFirstTokensMax),
                std::string(kName));
  }
  std::optional<KvTransferParams> first;
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_object()) return refuse_field(fmt::format("{}[{}]", kName, i), list[i], "an object");
    TRY(auto params, read_params(list[i].get_object()));
    if (!first) {
      first = std::move(params);
    } else if (params != *first) {
      return fail(Code::kInvalid,
                  fmt::format("{}[{}]: another hand-over than [0], expected one for all choices", kName, i),
                  std::string(kName));
    }
  }
  return first;
}

std::string offer_mismatch(const Offer& offered, const Offer& own) {
  const auto differ = [](std::string_view key, const auto& theirs, const auto& ours) {
    return fmt::format("{}: {} there, {} here", key, theirs, ours);
  };
  if (offered.fingerprint != own.fingerprint)
    return differ("fingerprint", offered.fingerprint, own.fingerprint);
  if (offered.prompt_hash != own.prompt_hash)
    return differ("prompt_hash", offered.prompt_hash, own.prompt_hash);
  if (offered.num_tokens != own.num_tokens) return differ("num_tokens", offered.num_tokens, own.num_tokens);
  return {};
}

}  // namespace baton::api
