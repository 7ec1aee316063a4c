#include "serve/request_builder.h"

#include <fmt/format.h>

#include <algorithm>

namespace baton::serve {
namespace {

Result<void> check_prompt(const ServedModel& model, const std::vector<TokenId>& tokens) {
  if (tokens.empty()) return fail(Code::kInvalid, "prompt: no tokens, expected at least one", "prompt");
  if (tokens.size() >= static_cast<size_t>(model.max_model_len)) {
    return fail(
        Code::kInvalid,
        fmt::format("prompt: {} tokens, expected fewer than the model's maximum context length of {} tokens",
                    tokens.size(), model.max_model_len),
        "prompt");
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= model.vocab_size) {
      return fail(Code::kInvalid,
                  fmt::format("prompt: token id {} at position {}, expected ids in [0, {})", tokens[i], i,
                              model.vocab_size),
                  "prompt");
    }
  }
  return {};
}

// The fields by which P says what a first token was drawn with, and D checks that it would draw the same.
api::DrawnWith drawn_with(const engine::SamplingParams& sampling, uint32_t choice, uint64_t digest) {
  return {.temperature = sampling.temperature,
          .top_p = sampling.top_p,
          .top_k = sampling.top_k,
          .min_p = sampling.min_p,
          .repetition_penalty = sampling.repetition_penalty,
          .presence_penalty = sampling.presence_penalty,
          .frequency_penalty = sampling.frequency_penalty,
          .seed = sampling.seed,
          .choice = static_cast<int32_t>(choice),
          .logprobs = sampling.logprobs ? static_cast<int32_t>(*sampling.logprobs) : -1,
          .masks_hash = fmt::format("{:016x}", digest)};
}

api::Candidate bare(const engine::TokenLogprob& entry) {
  return {
      .token = entry.token, .text = {}, .logprob = entry.logprob, .rank = static_cast<int32_t>(entry.rank)};
}
engine::TokenLogprob bare(const api::Candidate& entry) {
  return {.token = entry.token, .logprob = entry.logprob, .rank = static_cast<uint32_t>(entry.rank)};
}

api::FirstToken to_wire(const engine::DrawnToken& token, const api::DrawnWith& with) {
  api::FirstToken out{
      .token = token.token, .drawn_with = with, .logprobs = {}, .finish_reason = {}, .stop_reason = {}};
  if (token.logprobs) {
    out.logprobs.emplace();
    out.logprobs->chosen = bare(token.logprobs->self);
    for (const auto& entry : token.logprobs->top) out.logprobs->top.push_back(bare(entry));
  }
  if (token.finish) {
    out.finish_reason =
        *token.finish == engine::FinishReason::kStop ? api::FinishReason::kStop : api::FinishReason::kLength;
  }
  if (token.stop_token) out.stop_reason = *token.stop_token;
  return out;
}

engine::DrawnToken from_wire(const api::FirstToken& token) {
  engine::DrawnToken out;
  out.token = token.token;
  if (token.logprobs) {
    out.logprobs.emplace();
    out.logprobs->self = bare(token.logprobs->chosen);
    for (const auto& entry : token.logprobs->top) out.logprobs->top.push_back(bare(entry));
  }
  if (token.finish_reason) {
    out.finish = *token.finish_reason == api::FinishReason::kStop ? engine::FinishReason::kStop
                                                                  : engine::FinishReason::kLength;
  }
  if (const auto* stop = std::get_if<TokenId>(&token.stop_reason)) out.stop_token = *stop;
  return out;
}

// P's first tokens, if each of them was drawn with what `sampling` would draw with.
std::optional<engine::FirstTokens> usable_first_tokens(const api::Offer& offer,
                                                       const engine::SamplingParams& sampling,
                                                       const std::vector<TokenId>& prompt) {
  if (offer.first_tokens.size() != sampling.n) return std::nullopt;
  engine::FirstTokens first;
  first.digest = engine::sampling_digest(sampling, prompt);
  for (uint32_t choice = 0; choice < sampling.n; ++choice) {
    const api::FirstToken& token = offer.first_tokens[choice];
    if (token.drawn_with != drawn_with(sampling, choice, first.digest)) return std::nullopt;
    if (sampling.logprobs.has_value() != token.logprobs.has_value()) return std::nullopt;
    first.choices.push_back(from_wire(token));
  }
  return first;
}

Failure refuse_order(std::string_view got, std::string_view expected, std::string_view fix) {
  return fail(Code::kInvalid, fmt::format("kv_transfer_params: {}, expected {}: {}", got, expected, fix),
              "kv_transfer_params");
}

// An instance of the pull order behind a layer-wise proxy.
Result<void> check_pull(const api::KvTransferParams& params) {
  constexpr std::string_view kFix =
      "this instance hands over in the pull order (MooncakeConnector) and the proxy in the layer-wise one; "
      "start "
      "`baton proxy --order pull` or vllm-ascend's load_balance_proxy_server_example.py, or serve with "
      "MooncakeLayerwiseConnector";
  if (params.do_remote_prefill && !params.metaserver.empty()) {
    return refuse_order(fmt::format("do_remote_prefill with metaserver {}", params.metaserver.substr(0, 256)),
                        "the KV of a prefill instance (remote_host, remote_port)", kFix);
  }
  const bool has_landing = params.baton && params.baton->landing;
  if (params.do_remote_decode && (has_landing || !params.remote_host.empty())) {
    return refuse_order(fmt::format("do_remote_decode with blocks reserved at {}:{}",
                                    params.remote_host.substr(0, 256), params.remote_port),
                        "do_remote_decode alone", kFix);
  }
  return {};
}

// An instance of the layer-wise order behind a pull proxy, or beside instances that are no Baton.
Result<void> check_layerwise(const api::KvTransferParams& params) {
  constexpr std::string_view kFix =
      "this instance hands over in the layer-wise order (MooncakeLayerwiseConnector) and the proxy in the "
      "pull one; "
      "start `baton proxy --order layerwise` or vllm-ascend's "
      "load_balance_proxy_layerwise_server_example.py, or "
      "serve with MooncakeConnector";
  if (params.do_remote_prefill && params.metaserver.empty()) {
    return refuse_order(fmt::format("do_remote_prefill with KV at {}:{}", params.remote_host.substr(0, 256),
                                    params.remote_port),
                        "a metaserver", kFix);
  }
  const bool has_landing = params.baton && params.baton->landing;
  if (!params.do_remote_decode || has_landing) return {};
  if (params.remote_host.empty())
    return refuse_order("do_remote_decode with remote_host null",
                        "the blocks that a decode instance reserved", kFix);
  return refuse_order(
      fmt::format("blocks at {}:{} without \"baton\"", params.remote_host.substr(0, 256), params.remote_port),
      "\"baton\" with the landing of a Baton decode instance",
      "KV moves only between Baton instances; serve the decode side with `baton serve` too");
}

// P: whose blocks `prompt` fills. kInvalid when they were reserved for another prompt or model.
Result<engine::RemoteLanding> remote_landing(const ServedModel& model, const api::KvTransferParams& params,
                                             const std::vector<TokenId>& prompt) {
  const api::Landing& landing = *params.baton->landing;
  if (landing.fingerprint != model.identity.fingerprint) {
    return fail(Code::kInvalid,
                fmt::format("kv_transfer_params.baton.landing.fingerprint: {} there, {} here",
                            landing.fingerprint, model.identity.fingerprint),
                "kv_transfer_params");
  }
  const std::string hash = engine::prompt_hash(prompt);
  if (landing.prompt_hash != hash || landing.num_tokens != static_cast<int64_t>(prompt.size())) {
    return fail(
        Code::kInvalid,
        fmt::format("kv_transfer_params.baton.landing: blocks for another prompt: {} tokens with hash {} "
                    "there, {} with hash {} here",
                    landing.num_tokens, landing.prompt_hash, prompt.size(), hash),
        "kv_transfer_params");
  }
  return engine::RemoteLanding{.host = params.remote_host,
                               .port = static_cast<uint16_t>(params.remote_port),
                               .engine_id = params.remote_engine_id,
                               .incarnation = landing.incarnation,
                               .transfer = landing.transfer_id};
}

// D, layer-wise order: nobody has the KV yet.
engine::RemotePrefill awaited_prefill(const std::vector<TokenId>& prompt) {
  engine::RemotePrefill remote;
  remote.is_layerwise = true;
  remote.tokens = static_cast<uint32_t>(prompt.size());
  remote.prompt_hash = engine::prompt_hash(prompt);
  return remote;
}

// What the client's and the server's wishes come to.
engine::SamplingParams resolve_sampling(const ServedModel& model, const api::SamplingFields& fields,
                                        size_t prompt_tokens, std::optional<int32_t> fallback_max_tokens,
                                        uint64_t drawn_seed) {
  const auto room = static_cast<int32_t>(static_cast<size_t>(model.max_model_len) - prompt_tokens);
  const api::Sampling resolved = api::resolve(fields, model.defaults, room, fallback_max_tokens);
  engine::SamplingParams out;
  out.temperature = resolved.temperature;
  out.top_p = resolved.top_p;
  out.top_k = resolved.top_k;
  out.min_p = resolved.min_p;
  out.repetition_penalty = resolved.repetition_penalty;
  out.presence_penalty = fields.presence_penalty;
  out.frequency_penalty = fields.frequency_penalty;
  for (const api::LogitBias& bias : fields.logit_bias) out.logit_bias.emplace_back(bias.token, bias.bias);
  out.seed = fields.seed ? static_cast<uint64_t>(*fields.seed) : drawn_seed;
  out.n = static_cast<uint32_t>(fields.n);
  out.max_tokens = static_cast<uint32_t>(std::max(resolved.max_tokens, 0));
  out.min_tokens = static_cast<uint32_t>(fields.min_tokens);
  out.eos_token_ids = model.eos_token_ids;
  out.stop_token_ids = fields.stop_token_ids;
  out.ignore_eos = fields.ignore_eos;
  if (fields.logprobs) out.logprobs = static_cast<uint32_t>(*fields.logprobs);
  if (fields.prompt_logprobs) out.prompt_logprobs = static_cast<uint32_t>(*fields.prompt_logprobs);
  return out;
}

// P: the first token is drawn under the client's true limits. Without them the answer is taken to go on after
// it, as every proxy of this protocol intends when it writes max_tokens: 1.
void apply_client_limits(const HandoverPart& part, const ServedModel& model, size_t prompt_tokens,
                         std::optional<int32_t> fallback_max_tokens, engine::SamplingParams& sampling) {
  if (!part.hold) return;
  api::SamplingFields fields;
  if (part.client) {
    fields.max_tokens = part.client->max_tokens;
    sampling.min_tokens = static_cast<uint32_t>(std::max(part.client->min_tokens, 0));
  } else {
    fallback_max_tokens.reset();
  }
  const auto room = static_cast<int32_t>(static_cast<size_t>(model.max_model_len) - prompt_tokens);
  sampling.max_tokens =
      static_cast<uint32_t>(api::resolve(fields, model.defaults, room, fallback_max_tokens).max_tokens);
}

// D: where to fetch the KV of `prompt`, or nothing when the parameters name no Baton peer (its KV cannot be
// read here) or another prompt; `why` says which. P's first tokens come along only if they were drawn with
// exactly `sampling`.
std::optional<engine::RemotePrefill> remote_prefill(const api::KvTransferParams& params,
                                                    const engine::SamplingParams& sampling,
                                                    const std::vector<TokenId>& prompt, std::string& why) {
  if (!params.baton || !params.baton->offer) {
    why = "the peer is not a Baton instance";
    return std::nullopt;
  }
  const api::Offer& offer = *params.baton->offer;
  if (params.baton->protocol != api::kHandoverProtocol) {
    why =
        fmt::format("hand-over protocol: {} there, {} here", params.baton->protocol, api::kHandoverProtocol);
    return std::nullopt;
  }
  engine::RemotePrefill remote;
  remote.host = params.remote_host;
  remote.port = static_cast<uint16_t>(params.remote_port);
  remote.engine_id = params.remote_engine_id;
  remote.incarnation = offer.incarnation;
  remote.handover = offer.handover_id;
  remote.tokens = static_cast<uint32_t>(offer.num_tokens);
  remote.prompt_hash = offer.prompt_hash;
  if (remote.tokens != prompt.size() || remote.prompt_hash != engine::prompt_hash(prompt)) {
    why = fmt::format(
        "the offered KV belongs to another prompt: {} tokens with hash {} there, {} with hash {} here",
        remote.tokens, remote.prompt_hash, prompt.size(), engine::prompt_hash(prompt));
    return std::nullopt;
  }
  remote.first_tokens = usable_first_tokens(offer, sampling, prompt);
  return remote;
}

}  // namespace

Result<void> check_name(const ServedModel& model, std::string_view asked) {
  if (asked.empty() || model.accept_any_name) return {};
  if (std::ranges::find(model.names, asked) != model.names.end()) return {};
  return fail(
      Code::kNotFound,
      fmt::format("model: `{}` is not served here, expected one of: {}", asked, fmt::join(model.names, ", ")),
      "model");
}

Result<TokenizedPrompt> encode_chat(const ServedModel& model, const api::ChatRequest& request) {
  TokenizedPrompt prompt;
  text::RenderRequest render;
  render.messages = request.messages;
  if (request.tools) render.tools = *request.tools;
  render.kwargs = request.chat_template_kwargs;
  render.add_generation_prompt = request.add_generation_prompt;
  render.continue_final_message = request.continue_final_message;
  if (!request.chat_template.empty()) {
    TRY(const text::ChatTemplate own,
        text::ChatTemplate::compile(request.chat_template, model.special_tokens));
    TRY(prompt.text, own.render(render));
  } else {
    if (!model.chat_template) return fail(Code::kInvalid, model.chat_template_missing, "messages");
    TRY(prompt.text, model.chat_template->render(render));
  }
  TRY(prompt.tokens, model.tokenizer.encode(prompt.text, request.add_special_tokens));
  return prompt;
}

Result<TokenizedPrompt> tokenize_chat(const ServedModel& model, const api::ChatRequest& request) {
  TRY(TokenizedPrompt prompt, encode_chat(model, request));
  TRY_DO(check_prompt(model, prompt.tokens));
  return prompt;
}

Result<TokenizedPrompt> tokenize_prompt(const ServedModel& model, const api::Prompt& prompt,
                                        bool add_special_tokens) {
  TokenizedPrompt out;
  if (const auto* tokens = std::get_if<std::vector<TokenId>>(&prompt)) {
    out.tokens = *tokens;
  } else {
    out.text = std::get<std::string>(prompt);
    TRY(out.tokens, model.tokenizer.encode(out.text, add_special_tokens));
  }
  TRY_DO(check_prompt(model, out.tokens));
  return out;
}

Result<HandoverPart> handover_part(const api::CommonRequest& request, const api::InstanceIdentity& identity) {
  HandoverPart part;
  if (!request.kv_transfer_params || !identity.hands_over) return part;
  TRY(auto params, api::parse_kv_transfer_params(*request.kv_transfer_params));
  if (!params) return part;
  const bool holds = params->do_remote_decode && identity.role != api::Role::kDecode;
  const bool takes = !holds && params->do_remote_prefill && identity.role != api::Role::kPrefill;
  const bool is_layerwise = identity.order == api::HandoverOrder::kLayerwise;
  if (holds || takes) TRY_DO(is_layerwise ? check_layerwise(*params) : check_pull(*params));
  if (holds) {
    part.hold = true;
    if (params->baton) part.client = params->baton->client;
    if (is_layerwise) part.landing = std::move(params);
  } else if (takes) {
    if (is_layerwise) {
      TRY(part.metaserver, parse_metaserver(params->metaserver));
    }
    part.remote = std::move(params);
  }
  return part;
}

Result<engine::Request> build_request(const ServedModel& model, const api::CommonRequest& request,
                                      const HandoverPart& handover, const std::vector<TokenId>& prompt,
                                      std::optional<int32_t> fallback_max_tokens, const DoorDraws& draws,
                                      std::string& why_computed) {
  engine::Request out;
  out.external_id = request.request_id;
  out.prompt = prompt;
  out.sampling = resolve_sampling(model, request.sampling, prompt.size(), fallback_max_tokens, draws.seed);
  apply_client_limits(handover, model, prompt.size(), fallback_max_tokens, out.sampling);
  // echo with max_tokens 0 asks for the prompt alone; the engine draws one token, which the door drops.
  if (request.echo && request.sampling.max_tokens == 0) out.sampling.max_tokens = 1;
  if (out.sampling.max_tokens == 0) {
    return fail(Code::kInvalid, "max_tokens: 0, expected at least 1 (0 only with echo)", "max_tokens");
  }
  out.priority = request.priority;
  out.cache_salt = request.cache_salt;
  if (handover.hold) out.hold = draws.handover;
  if (handover.landing) {
    TRY(out.remote_landing, remote_landing(model, *handover.landing, prompt));
  }
  if (handover.remote) {
    out.remote = handover.metaserver ? awaited_prefill(prompt)
                                     : remote_prefill(*handover.remote, out.sampling, prompt, why_computed);
    out.transfer = draws.transfer;
  }
  return out;
}

std::string render_held(const engine::HeldEvent& held, const engine::SamplingParams& sampling,
                        const HeldBy& by, const api::Usage& usage) {
  api::KvTransferParams params;
  params.do_remote_prefill = true;
  params.do_remote_decode = false;
  std::vector<int64_t> blocks;
  for (const BlockId block : held.blocks) blocks.push_back(index(block));
  params.remote_block_ids = {std::move(blocks)};
  params.remote_engine_id = by.identity->engine_id;
  params.remote_host = by.host;
  params.remote_port = by.port;
  params.remote_request_id = held.handover.hex();
  if (!held.first_tokens.choices.empty()) params.last_token_id = held.first_tokens.choices.front().token;
  params.num_prompt_blocks = static_cast<int32_t>(held.blocks.size());
  params.remote_ptp_size = by.identity->tensor_parallel_size;
  params.remote_pcp_size = 1;
  params.remote_dcp_size = 1;
  params.remote_block_size = by.identity->block_size;

  api::Offer offer;
  offer.handover_id = held.handover;
  offer.incarnation = by.identity->incarnation;
  offer.fingerprint = by.identity->fingerprint;
  offer.prompt_hash = held.prompt_hash;
  offer.num_tokens = held.tokens;
  offer.block_size = by.identity->block_size;
  offer.lease = held.lease;
  for (uint32_t choice = 0; choice < held.first_tokens.choices.size(); ++choice) {
    offer.first_tokens.push_back(
        to_wire(held.first_tokens.choices[choice], drawn_with(sampling, choice, held.first_tokens.digest)));
  }
  offer.prompt_tokens = usage.prompt_tokens;
  offer.cached_tokens = usage.cached_tokens.value_or(0);
  params.baton.emplace();
  params.baton->offer = std::move(offer);
  return api::render_kv_transfer_params(params);
}

std::string render_reserved(const engine::ReservedEvent& reserved, std::string request_id, const HeldBy& by) {
  api::MetaserverPost post;
  post.request_id = std::move(request_id);
  for (const BlockId block : reserved.blocks) post.block_ids.push_back(index(block));
  post.engine_id = by.identity->engine_id;
  post.host = by.host;
  post.port = by.port;
  post.tensor_parallel_size = by.identity->tensor_parallel_size;
  post.landing = {.transfer_id = reserved.transfer,
                  .incarnation = by.identity->incarnation,
                  .fingerprint = by.identity->fingerprint,
                  .prompt_hash = reserved.prompt_hash,
                  .num_tokens = reserved.tokens,
                  .cached_tokens = reserved.tokens_present,
                  .block_size = by.identity->block_size};
  return api::render_metaserver_post(post);
}

}  // namespace baton::serve
