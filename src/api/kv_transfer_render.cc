#include <fmt/format.h>

#include "api/kv_transfer_params.h"

namespace baton::api {
namespace {

// Builds one object by appending members.
class ObjectText {
 public:
  explicit ObjectText(std::string& out) : out_(out) { out_ += '{'; }
  void text(std::string_view key, std::string_view value) {
    this->key(key);
    append_json_string(out_, value);
  }
  void text_or_null(std::string_view key, std::string_view value) {
    if (value.empty()) {
      raw(key, "null");
    } else {
      text(key, value);
    }
  }
  template <std::integral Int>
  void integer(std::string_view key, Int value) {
    this->key(key);
    append_json_integer(out_, value);
  }
  template <std::integral Int>
  void integer(std::string_view key, const std::optional<Int>& value) {
    if (value) integer(key, *value);
  }
  // A float32 as the double that it is: any parser gives its bits back.
  void number(std::string_view key, float value) {
    this->key(key);
    append_json_number(out_, static_cast<double>(value));
  }
  void raw(std::string_view key, std::string_view value) {
    this->key(key);
    out_ += value;
  }
  void key(std::string_view key) {
    if (!first_) out_ += ',';
    first_ = false;
    append_json_string(out_, key);
    out_ += ':';
  }
  void close() { out_ += '}'; }

 private:
  std::string& out_;
  bool first_ = true;
};

void append_candidate(std::string& out, const Candidate& candidate) {
  if (out.back() != '[') out += ',';
  out += '[';
  append_json_integer(out, candidate.token);
  out += ',';
  append_json_number(out, static_cast<double>(candidate.logprob));
  out += ',';
  append_json_integer(out, candidate.rank);
  out += ']';
}

void append_drawn_with(std::string& out, const DrawnWith& drawn) {
  ObjectText object(out);
  object.number("temperature", drawn.temperature);
  object.number("top_p", drawn.top_p);
  object.integer("top_k", drawn.top_k);
  object.number("min_p", drawn.min_p);
  object.number("repetition_penalty", drawn.repetition_penalty);
  object.number("presence_penalty", drawn.presence_penalty);
  object.number("frequency_penalty", drawn.frequency_penalty);
  object.integer("seed", drawn.seed);
  object.integer("choice", drawn.choice);
  object.integer("logprobs", drawn.logprobs);
  object.text("masks_hash", drawn.masks_hash);
  object.close();
}

void append_first_token(std::string& out, const FirstToken& first) {
  ObjectText object(out);
  object.integer("token", first.token);
  object.key("drawn_with");
  append_drawn_with(out, first.drawn_with);
  if (first.logprobs) {
    object.key("logprobs");
    out += '[';
    append_candidate(out, first.logprobs->chosen);
    for (const Candidate& candidate : first.logprobs->top) append_candidate(out, candidate);
    out += ']';
  }
  if (first.finish_reason) object.text("finish_reason", finish_reason_name(*first.finish_reason));
  if (const auto* token = std::get_if<TokenId>(&first.stop_reason)) object.integer("stop_reason", *token);
  if (const auto* text = std::get_if<std::string>(&first.stop_reason)) object.text("stop_reason", *text);
  object.close();
}

void append_offer(std::string& out, const Offer& offer) {
  ObjectText object(out);
  object.text("handover_id", offer.handover_id.hex());
  object.text("incarnation", offer.incarnation.hex());
  object.text("fingerprint", offer.fingerprint);
  object.text("prompt_hash", offer.prompt_hash);
  object.integer("num_tokens", offer.num_tokens);
  object.integer("block_size", offer.block_size);
  object.integer("lease_ms", std::chrono::duration_cast<std::chrono::milliseconds>(offer.lease).count());
  object.integer("prompt_tokens", offer.prompt_tokens);
  object.integer("cached_tokens", offer.cached_tokens);
  object.key("first_tokens");
  out += '[';
  for (const FirstToken& first : offer.first_tokens) {
    if (&first != &offer.first_tokens.front()) out += ',';
    append_first_token(out, first);
  }
  out += ']';
  object.close();
}

void append_landing(std::string& out, const Landing& landing) {
  ObjectText object(out);
  object.text("transfer_id", landing.transfer_id.hex());
  object.text("incarnation", landing.incarnation.hex());
  object.text("fingerprint", landing.fingerprint);
  object.text("prompt_hash", landing.prompt_hash);
  object.integer("num_tokens", landing.num_tokens);
  object.integer("cached_tokens", landing.cached_tokens);
  object.integer("block_size", landing.block_size);
  object.close();
}

void append_baton(std::string& out, const BatonParams& baton) {
  ObjectText object(out);
  object.integer("protocol", baton.protocol);
  if (baton.client) {
    object.integer("client_max_tokens", baton.client->max_tokens);
    object.integer("client_min_tokens", baton.client->min_tokens);
  }
  if (baton.offer) {
    object.key("offer");
    append_offer(out, *baton.offer);
  }
  if (baton.landing) {
    object.key("landing");
    append_landing(out, *baton.landing);
  }
  object.close();
}

void append_block_ids(std::string& out, const std::vector<std::vector<int64_t>>& groups) {
  out += '[';
  for (const auto& group : groups) {
    if (&group != &groups.front()) out += ',';
    out += '[';
    for (size_t i = 0; i < group.size(); ++i) {
      if (i > 0) out += ',';
      append_json_integer(out, group[i]);
    }
    out += ']';
  }
  out += ']';
}

}  // namespace

std::string render_kv_transfer_params(const KvTransferParams& params) {
  std::string out;
  ObjectText object(out);
  object.raw("do_remote_prefill", params.do_remote_prefill ? "true" : "false");
  object.raw("do_remote_decode", params.do_remote_decode ? "true" : "false");
  object.key("remote_block_ids");
  if (params.remote_block_ids.empty() && !params.do_remote_prefill) {
    out += "null";
  } else {
    append_block_ids(out, params.remote_block_ids);
  }
  object.text_or_null("remote_engine_id", params.remote_engine_id);
  object.text_or_null("remote_host", params.remote_host);
  if (params.remote_port == 0) {
    object.raw("remote_port", "null");
  } else {
    object.integer("remote_port", params.remote_port);
  }
  if (!params.remote_request_id.empty()) object.text("remote_request_id", params.remote_request_id);
  object.integer("last_token_id", params.last_token_id);
  object.integer("num_prompt_blocks", params.num_prompt_blocks);
  object.integer("remote_ptp_size", params.remote_ptp_size);
  object.integer("remote_pcp_size", params.remote_pcp_size);
  object.integer("remote_dcp_size", params.remote_dcp_size);
  object.integer("remote_block_size", params.remote_block_size);
  if (!params.metaserver.empty()) object.text("metaserver", params.metaserver);
  if (params.baton) {
    object.key("baton");
    append_baton(out, *params.baton);
  }
  object.close();
  return out;
}

std::string render_prefill_params(const std::optional<ClientLimits>& client) {
  KvTransferParams params;
  params.do_remote_decode = true;
  if (client) {
    params.baton.emplace();
    params.baton->client = client;
  }
  return render_kv_transfer_params(params);
}

std::string render_metaserver_post(const MetaserverPost& post) {
  std::string out;
  ObjectText object(out);
  object.text("request_id", post.request_id);
  object.raw("token_ids", "[]");
  object.raw("do_remote_prefill", "false");
  object.raw("do_remote_decode", "true");
  object.key("remote_block_ids");
  append_block_ids(out, {post.block_ids});
  object.raw("remote_block_size", fmt::format("[{}]", post.landing.block_size));
  object.text("remote_engine_id", post.engine_id);
  object.text("remote_host", post.host);
  object.integer("remote_port", post.port);
  object.integer("remote_tp_size", post.tensor_parallel_size);
  object.integer("remote_pcp_size", 1);
  object.integer("remote_dcp_size", 1);
  object.integer("remote_cached_tokens", post.landing.cached_tokens);
  object.key("baton");
  BatonParams baton;
  baton.landing = post.landing;
  append_baton(out, baton);
  object.close();
  return out;
}

std::string render_metaserver_params(std::string_view metaserver) {
  std::string out;
  ObjectText object(out);
  object.raw("do_remote_decode", "false");
  object.raw("do_remote_prefill", "true");
  object.text("metaserver", metaserver);
  object.close();
  return out;
}

}  // namespace baton::api
