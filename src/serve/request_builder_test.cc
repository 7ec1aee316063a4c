// From a client's body to the engine's request: each parameter, each default, each refusal.
#include "serve/request_builder.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <functional>

#include "serve/testing.h"

namespace baton::serve {
namespace {

constexpr uint64_t kDoorSeed = 4711;
const std::vector<TokenId> kPrompt = {10, 11, 12, 13};

const ServedModel& shared_model() {
  static const ServedModel model = test_model();
  return model;
}

DoorDraws draws() {
  return {.seed = kDoorSeed, .handover = HandoverId{{1, 2}}, .transfer = TransferId{{3, 4}}};
}

// The engine's request for a completion with `fields`, on `model`.
Result<engine::Request> build(const ServedModel& model, const std::string& fields,
                              const HandoverPart& part = {}, std::string* why = nullptr) {
  TRY(const api::CompletionRequest request,
      api::parse_completion_request(R"({"prompt":[10,11,12,13])" + (fields.empty() ? "" : "," + fields) + "}",
                                    {.vocab_size = kTestVocab}));
  std::string ignored;
  return build_request(model, request, part, kPrompt, api::kCompletionTokensDefault, draws(),
                       why == nullptr ? ignored : *why);
}

TEST(BuildRequest, WithoutParametersEverythingIsNeutral) {
  const auto built = build(shared_model(), "");
  ASSERT_TRUE(built) << built.error().message;
  engine::SamplingParams expected;
  expected.seed = kDoorSeed;
  expected.max_tokens = 16;
  expected.eos_token_ids = {974, kTestEos};
  EXPECT_EQ(built->sampling, expected);
  EXPECT_EQ(built->prompt, kPrompt);
  EXPECT_EQ(built->priority, 0);
  EXPECT_EQ(built->cache_salt, "");
  EXPECT_FALSE(built->hold || built->remote);
}

TEST(BuildRequest, EachApiParameterChangesItsOwnEngineParameterAlone) {
  using P = engine::SamplingParams;
  struct Row {
    const char* fields;
    std::function<void(P&)> change;
  };
  const Row rows[] = {
      {R"("temperature":0)", [](P& p) { p.temperature = 0; }},
      {R"("temperature":0.25)", [](P& p) { p.temperature = 0.25F; }},
      {R"("top_p":0.5)", [](P& p) { p.top_p = 0.5F; }},
      {R"("top_k":7)", [](P& p) { p.top_k = 7; }},
      {R"("top_k":-1)", [](P& p) { p.top_k = 0; }},
      {R"("min_p":0.125)", [](P& p) { p.min_p = 0.125F; }},
      {R"("repetition_penalty":1.5)", [](P& p) { p.repetition_penalty = 1.5F; }},
      {R"("presence_penalty":-1)", [](P& p) { p.presence_penalty = -1; }},
      {R"("frequency_penalty":2)", [](P& p) { p.frequency_penalty = 2; }},
      {R"("logit_bias":{"9":1,"3":-2})", [](P& p) { p.logit_bias = {{3, -2.0F}, {9, 1.0F}}; }},
      {R"("seed":5)", [](P& p) { p.seed = 5; }},
      {R"("seed":-1)", [](P& p) { p.seed = UINT64_MAX; }},
      {R"("n":3)", [](P& p) { p.n = 3; }},
      {R"("max_tokens":9)", [](P& p) { p.max_tokens = 9; }},
      {R"("max_completion_tokens":8,"max_tokens":9)", [](P& p) { p.max_tokens = 8; }},
      {R"("min_tokens":4)", [](P& p) { p.min_tokens = 4; }},
      {R"("stop_token_ids":[5,6])", [](P& p) { p.stop_token_ids = {5, 6}; }},
      {R"("ignore_eos":true)", [](P& p) { p.ignore_eos = true; }},
      {R"("logprobs":0)", [](P& p) { p.logprobs = 0; }},
      {R"("logprobs":3)", [](P& p) { p.logprobs = 3; }},
      {R"("prompt_logprobs":2)", [](P& p) { p.prompt_logprobs = 2; }},
      // What the door does by itself is none of the engine's business.
      {R"("stop":["x"],"include_stop_str_in_output":true,"skip_special_tokens":false)", [](P&) {}},
      {R"("stream":true,"stream_options":{"include_usage":true},"user":"u","return_token_ids":true)",
       [](P&) {}},
  };
  for (const Row& row : rows) {
    const auto built = build(shared_model(), row.fields);
    ASSERT_TRUE(built) << row.fields << ": " << built.error().message;
    engine::SamplingParams expected;
    expected.seed = kDoorSeed;
    expected.max_tokens = 16;
    expected.eos_token_ids = {974, kTestEos};
    row.change(expected);
    EXPECT_EQ(built->sampling, expected) << row.fields;
  }
}

TEST(BuildRequest, PriorityAndSaltGoBesideTheSampling) {
  const auto built = build(shared_model(), R"("priority":-3,"cache_salt":"s","request_id":"r")");
  ASSERT_TRUE(built) << built.error().message;
  EXPECT_EQ(built->priority, -3);
  EXPECT_EQ(built->cache_salt, "s");
  EXPECT_EQ(built->external_id, "r");
}

TEST(BuildRequest, DefaultsOfTheCheckpointYieldToTheClientAndOnlyMaxNewTokensCaps) {
  ServedModel model = test_model();
  model.defaults = {.temperature = 0.6F,
                    .top_p = 0.95F,
                    .min_p = 0.1F,
                    .repetition_penalty = 1.1F,
                    .top_k = 20,
                    .max_new_tokens = 12};
  struct Row {
    const char* fields;
    float temperature, top_p, min_p, repetition;
    int32_t top_k;
    uint32_t max_tokens;
  };
  const Row rows[] = {
      {"", 0.6F, 0.95F, 0.1F, 1.1F, 20, 12},
      {R"("temperature":0)", 0.0F, 0.95F, 0.1F, 1.1F, 20, 12},
      {R"("top_p":1,"min_p":0)", 0.6F, 1.0F, 0.0F, 1.1F, 20, 12},
      {R"("top_k":0,"repetition_penalty":1)", 0.6F, 0.95F, 0.1F, 1.0F, 0, 12},
      {R"("top_k":-1)", 0.6F, 0.95F, 0.1F, 1.1F, 0, 12},
      {R"("temperature":null)", 0.6F, 0.95F, 0.1F, 1.1F, 20, 12},
      {R"("max_tokens":5)", 0.6F, 0.95F, 0.1F, 1.1F, 20, 5},
      {R"("max_tokens":100)", 0.6F, 0.95F, 0.1F, 1.1F, 20, 12},
  };
  for (const Row& row : rows) {
    const auto built = build(model, row.fields);
    ASSERT_TRUE(built) << row.fields << ": " << built.error().message;
    const engine::SamplingParams& p = built->sampling;
    EXPECT_EQ(p.temperature, row.temperature) << row.fields;
    EXPECT_EQ(p.top_p, row.top_p) << row.fields;
    EXPECT_EQ(p.min_p, row.min_p) << row.fields;
    EXPECT_EQ(p.repetition_penalty, row.repetition) << row.fields;
    EXPECT_EQ(p.top_k, row.top_k) << row.fields;
    EXPECT_EQ(p.max_tokens, row.max_tokens) << row.fields;
  }
}

TEST(BuildRequest, AnAnswerIsNeverLongerThanTheRoomBehindThePrompt) {
  api::CommonRequest request;
  std::string why;
  struct Row {
    std::optional<int32_t> asked, fallback;
    uint32_t expected;
  };
  constexpr auto kRoom = static_cast<uint32_t>(kTestModelLen) - 4;
  for (const Row& row : {Row{std::nullopt, std::nullopt, kRoom}, Row{std::nullopt, 16, 16},
                         Row{100000, 16, kRoom}, Row{7, 16, 7}}) {
    request.sampling.max_tokens = row.asked;
    const auto built = build_request(shared_model(), request, {}, kPrompt, row.fallback, draws(), why);
    ASSERT_TRUE(built) << built.error().message;
    EXPECT_EQ(built->sampling.max_tokens, row.expected);
  }
}

TEST(BuildRequest, OnlyEchoAsksForNoTokenAtAll) {
  const auto built = build(shared_model(), R"("max_tokens":0,"echo":true)");
  ASSERT_TRUE(built) << built.error().message;
  EXPECT_EQ(built->sampling.max_tokens, 1U);
  api::CommonRequest request;
  request.sampling.max_tokens = 0;
  std::string why;
  const auto refused = build_request(shared_model(), request, {}, kPrompt, 16, draws(), why);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().param, "max_tokens");
}

// ---- names and prompts ----

TEST(CheckName, TakesServedNamesNoNameAndWithTheFlagAnyName) {
  ServedModel model = test_model();
  for (const char* name : {"", "m", "alias"}) EXPECT_TRUE(check_name(model, name)) << name;
  const auto refused = check_name(model, "gpt-4");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kNotFound);
  EXPECT_EQ(refused.error().param, "model");
  for (const char* word : {"gpt-4", "m, alias"}) {
    EXPECT_NE(refused.error().message.find(word), std::string::npos) << refused.error().message;
  }
  model.accept_any_name = true;
  EXPECT_TRUE(check_name(model, "gpt-4"));
}

TEST(TokenizePrompt, RefusesWhatTheModelCannotRead) {
  struct Row {
    api::Prompt prompt;
    const char* word;
  };
  const Row rows[] = {
      {std::string(), "no tokens"},
      {std::vector<TokenId>{}, "no tokens"},
      {std::vector<TokenId>{1, kTestVocab}, "1024"},
      {std::vector<TokenId>{-1}, "-1"},
      {std::vector<TokenId>(kTestModelLen, 5), "256"},
      {std::string("\xff"), "UTF-8"},
  };
  for (const Row& row : rows) {
    const auto prompt = tokenize_prompt(shared_model(), row.prompt, true);
    ASSERT_FALSE(prompt) << row.word;
    EXPECT_EQ(prompt.error().code, Code::kInvalid);
    EXPECT_NE(prompt.error().message.find(row.word), std::string::npos) << prompt.error().message;
  }
  EXPECT_TRUE(tokenize_prompt(shared_model(), std::vector<TokenId>(kTestModelLen - 1, 5), true));
}

api::ChatRequest chat(const std::string& fields) {
  auto request = api::parse_chat_request(
      R"({"messages":[{"role":"user","content":"hi"}])" + (fields.empty() ? "" : "," + fields) + "}",
      {.vocab_size = kTestVocab, .trust_chat_template = true});
  CHECK(request.has_value(), "{}", request.error().message);
  return std::move(*request);
}

TEST(TokenizeChat, RendersTheModelsTemplateOrTheRequests) {
  struct Row {
    const char* fields;
    const char* text;
  };
  const Row rows[] = {
      {"", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"},
      {R"("add_generation_prompt":false)", "<|im_start|>user\nhi<|im_end|>\n"},
      {R"("chat_template":"{{ messages[0].content }}{{ x }}","chat_template_kwargs":{"x":"!"})", "hi!"},
  };
  for (const Row& row : rows) {
    const auto prompt = tokenize_chat(shared_model(), chat(row.fields));
    ASSERT_TRUE(prompt) << row.fields << ": " << prompt.error().message;
    EXPECT_EQ(prompt->text, row.text) << row.fields;
    EXPECT_EQ(shared_model().tokenizer.decode(prompt->tokens, false), row.text);
  }
}

TEST(TokenizeChat, SaysWhyThereIsNoTemplate) {
  ServedModel model = test_model();
  model.chat_template.reset();
  model.chat_template_missing = "no chat template in DIR";
  const auto refused = tokenize_chat(model, chat(""));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kInvalid);
  EXPECT_EQ(refused.error().message, "no chat template in DIR");
}

// ---- hand-over ----

api::CommonRequest with_params(std::string_view json) {
  api::CommonRequest request;
  request.kv_transfer_params = boost::json::parse(json);
  return request;
}

TEST(HandoverPart, FollowsTheRoleOfTheInstance) {
  constexpr std::string_view kHold = R"({"do_remote_decode":true,"do_remote_prefill":false})";
  constexpr std::string_view kFetch =
      R"({"do_remote_decode":false,"do_remote_prefill":true,"remote_host":"h","remote_port":1,"remote_engine_id":"e"})";
  struct Row {
    api::Role role;
    bool hands_over;
    std::string_view params;
    bool hold, fetch;
  };
  const Row rows[] = {
      {api::Role::kPrefill, true, kHold, true, false}, {api::Role::kBoth, true, kHold, true, false},
      {api::Role::kDecode, true, kHold, false, false}, {api::Role::kDecode, true, kFetch, false, true},
      {api::Role::kBoth, true, kFetch, false, true},   {api::Role::kPrefill, true, kFetch, false, false},
      {api::Role::kBoth, false, kHold, false, false},  {api::Role::kBoth, false, kFetch, false, false},
      {api::Role::kBoth, true, "null", false, false},
  };
  for (const Row& row : rows) {
    api::InstanceIdentity identity = shared_model().identity;
    identity.role = row.role;
    identity.hands_over = row.hands_over;
    const auto part = handover_part(with_params(row.params), identity);
    ASSERT_TRUE(part) << part.error().message;
    EXPECT_EQ(part->hold, row.hold) << row.params << " " << api::role_name(row.role);
    EXPECT_EQ(part->remote.has_value(), row.fetch) << row.params << " " << api::role_name(row.role);
  }
  api::InstanceIdentity identity = shared_model().identity;
  identity.hands_over = true;
  const auto malformed = handover_part(with_params(R"({"do_remote_prefill":"often"})"), identity);
  ASSERT_FALSE(malformed);
  EXPECT_EQ(malformed.error().code, Code::kInvalid);
}

TEST(BuildRequest, APrefillInstanceDrawsUnderTheClientsTrueLimits) {
  struct Row {
    std::optional<api::ClientLimits> client;
    uint32_t max_tokens, min_tokens;
  };
  constexpr auto kRoom = static_cast<uint32_t>(kTestModelLen) - 4;
  const Row rows[] = {
      {std::nullopt, kRoom, 1},                                     // a foreign proxy: it goes on
      {api::ClientLimits{.max_tokens = 1, .min_tokens = 0}, 1, 0},  // ends with its first token
      {api::ClientLimits{.max_tokens = 50, .min_tokens = 20}, 50, 20},
      {api::ClientLimits{.max_tokens = std::nullopt, .min_tokens = 0}, 16, 0},  // the server's default
  };
  for (const Row& row : rows) {
    const auto built = build(shared_model(), R"("max_tokens":1,"min_tokens":1)",
                             {.hold = true, .client = row.client, .remote = std::nullopt});
    ASSERT_TRUE(built) << built.error().message;
    EXPECT_EQ(built->sampling.max_tokens, row.max_tokens);
    EXPECT_EQ(built->sampling.min_tokens, row.min_tokens);
    EXPECT_EQ(built->hold, draws().handover);
  }
}

// What P answers for kPrompt, drawn with `sampling`, as D reads it.
api::KvTransferParams offer_of(const engine::SamplingParams& sampling) {
  engine::HeldEvent held;
  held.handover = HandoverId{{9}};
  held.blocks = {BlockId{4}, BlockId{2}};
  held.tokens = static_cast<uint32_t>(kPrompt.size());
  held.prompt_hash = engine::prompt_hash(kPrompt);
  held.lease = std::chrono::seconds(30);
  held.first_tokens.digest = engine::sampling_digest(sampling, kPrompt);
  for (uint32_t choice = 0; choice < sampling.n; ++choice) {
    engine::DrawnToken token{
        .token = static_cast<TokenId>(20 + choice), .logprobs = {}, .finish = {}, .stop_token = {}};
    if (sampling.logprobs) {
      token.logprobs =
          engine::PositionLogprobs{.self = {token.token, -0.5F, 1}, .top = {{token.token, -0.5F, 1}}};
    }
    held.first_tokens.choices.push_back(std::move(token));
  }
  const std::string text =
      render_held(held, sampling, {.host = "p.example", .port = 77, .identity = &shared_model().identity},
                  {.prompt_tokens = 4, .completion_tokens = 1, .cached_tokens = 0});
  auto params = api::parse_kv_transfer_params(boost::json::parse(text));
  CHECK(params.has_value() && params->has_value());
  return **params;
}

TEST(BuildRequest, ADecodeInstanceTakesFirstTokensOnlyIfItWouldDrawTheSame) {
  const std::string client = R"("seed":5,"temperature":0.5,"n":2,"logprobs":1,"max_tokens":9)";
  const auto at_p =
      build(shared_model(), client,
            {.hold = true, .client = api::ClientLimits{.max_tokens = 9, .min_tokens = 0}, .remote = {}});
  ASSERT_TRUE(at_p) << at_p.error().message;
  const api::KvTransferParams params = offer_of(at_p->sampling);
  EXPECT_EQ(params.remote_block_ids, (std::vector<std::vector<int64_t>>{{4, 2}}));
  EXPECT_EQ(params.last_token_id, 20);
  struct Row {
    const char* what;
    std::string fields;
    bool taken;
  };
  const Row rows[] = {
      {"the same request", client, true},
      {"another seed", R"("seed":6,"temperature":0.5,"n":2,"logprobs":1,"max_tokens":9)", false},
      {"another temperature", R"("seed":5,"temperature":0.25,"n":2,"logprobs":1,"max_tokens":9)", false},
      {"fewer choices", R"("seed":5,"temperature":0.5,"n":1,"logprobs":1,"max_tokens":9)", false},
      {"no logprobs", R"("seed":5,"temperature":0.5,"n":2,"max_tokens":9)", false},
      {"a bias", R"("seed":5,"temperature":0.5,"n":2,"logprobs":1,"max_tokens":9,"logit_bias":{"3":1})",
       false},
      {"a longer answer", R"("seed":5,"temperature":0.5,"n":2,"logprobs":1,"max_tokens":90)", true},
  };
  for (const Row& row : rows) {
    std::string why;
    const auto at_d =
        build(shared_model(), row.fields, {.hold = false, .client = {}, .remote = params}, &why);
    ASSERT_TRUE(at_d) << at_d.error().message;
    ASSERT_TRUE(at_d->remote) << row.what << ": " << why;
    EXPECT_EQ(why, "");
    EXPECT_EQ(at_d->remote->host, "p.example");
    EXPECT_EQ(at_d->remote->port, 77);
    EXPECT_EQ(at_d->remote->handover, (HandoverId{{9}}));
    EXPECT_EQ(at_d->transfer, draws().transfer);
    EXPECT_EQ(at_d->remote->first_tokens.has_value(), row.taken) << row.what;
    if (!row.taken) continue;
    ASSERT_EQ(at_d->remote->first_tokens->choices.size(), 2U);
    EXPECT_EQ(at_d->remote->first_tokens->choices[1].token, 21);
    EXPECT_EQ(at_d->remote->first_tokens->choices[1].logprobs->self.logprob, -0.5F);
  }
}

TEST(BuildRequest, KvThatCannotBeVouchedForIsComputedHereAndSaysWhy) {
  const api::KvTransferParams good = offer_of([] {
    engine::SamplingParams p;
    p.seed = kDoorSeed;
    return p;
  }());
  struct Row {
    const char* word;
    std::function<void(api::KvTransferParams&)> damage;
  };
  const Row rows[] = {
      {"not a Baton instance", [](api::KvTransferParams& p) { p.baton.reset(); }},
      {"not a Baton instance", [](api::KvTransferParams& p) { p.baton->offer.reset(); }},
      {"not a Baton instance",
       [](api::KvTransferParams& p) {
         p.baton.reset();
         p.remote_block_ids = {{}};
       }},
      {"protocol", [](api::KvTransferParams& p) { p.baton->protocol += 1; }},
      {"another prompt", [](api::KvTransferParams& p) { p.baton->offer->num_tokens = 3; }},
      {"another prompt", [](api::KvTransferParams& p) { p.baton->offer->prompt_hash = "0"; }},
  };
  for (const Row& row : rows) {
    api::KvTransferParams params = good;
    row.damage(params);
    std::string why;
    const auto built = build(shared_model(), "", {.hold = false, .client = {}, .remote = params}, &why);
    ASSERT_TRUE(built) << built.error().message;
    EXPECT_FALSE(built->remote);
    EXPECT_NE(why.find(row.word), std::string::npos) << why;
  }
}

}  // namespace
}  // namespace baton::serve
