#include "api/response.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <limits>

#include "api/identity.h"
#include "api/json.h"
#include "api/metrics.h"
#include "api/testing.h"

namespace baton::api {
namespace {

const ResponseHead kHead{"cmpl-1", 1700000000, "m"};

PositionLogprobs position() { return {{5, "a", -0.5F, 2}, {{6, "b", -0.25F, 1}, {5, "a", -0.5F, 2}}}; }

TEST(Completion, HasOpenAiShapeWithVllmAdditions) {
  Choice choice{.index = 0, .text = "a", .finish_reason = FinishReason::kStop, .stop_reason = TokenId{7}};
  choice.logprobs = {{{.chosen = {1, "p"}, .known = false}, position()}};
  choice.prompt_logprobs = {{{.known = false}, position()}};
  choice.prompt_token_ids = {{1, 2}};
  choice.token_ids = {{5}};
  const Usage usage{.prompt_tokens = 2, .completion_tokens = 1, .cached_tokens = 1};
  const std::string text = render_completion(kHead, {&choice, 1}, usage, R"({"x":1})");
  EXPECT_EQ(
      text,
      R"({"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"m","choices":[{"index":0,"text":"a",)"
      R"("logprobs":{"text_offset":[0,1],"token_logprobs":[null,-0.5],"tokens":["p","a"],"top_logprobs":[null,)"
      R"({"a":-0.5,"b":-0.25}]},"finish_reason":"stop","stop_reason":7,"prompt_logprobs":[null,{"5":{"logprob":-0.5,)"
      R"("rank":2,"decoded_token":"a"},"6":{"logprob":-0.25,"rank":1,"decoded_token":"b"}}],"prompt_token_ids":[1,2],)"
      R"("token_ids":[5]}],"usage":{"prompt_tokens":2,"total_tokens":3,"completion_tokens":1,"prompt_tokens_details":)"
      R"({"cached_tokens":1}},"kv_transfer_params":{"x":1}})");
}

TEST(Chat, PutsWhatBelongsToThePromptBesideTheChoices) {
  Choice choice{
      .index = 0, .text = "a\n", .finish_reason = FinishReason::kLength, .stop_reason = std::string("s")};
  choice.logprobs = {{position()}};
  choice.prompt_token_ids = {{1}};
  const std::string text = render_chat({"chatcmpl-1", 1, "m", true}, {&choice, 1}, {});
  EXPECT_EQ(
      text,
      R"({"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":)"
      R"({"role":"assistant","content":"a\n"},"logprobs":{"content":[{"token":"token_id:5","logprob":-0.5,)"
      R"("bytes":[116,111,107,101,110,95,105,100,58,53],"top_logprobs":[{"token":"token_id:6","logprob":-0.25,)"
      R"("bytes":[116,111,107,101,110,95,105,100,58,54]},{"token":"token_id:5","logprob":-0.5,)"
      R"("bytes":[116,111,107,101,110,95,105,100,58,53]}]}]},"finish_reason":"length","stop_reason":"s"}],)"
      R"("prompt_token_ids":[1],"usage":{"prompt_tokens":0,"total_tokens":0,"completion_tokens":0},"kv_transfer_params":null})");
}

TEST(Chat, BytesAreTheTokensOwnWhereItsTextIsPartOfACharacter) {
  Choice choice;
  choice.logprobs = {{{.chosen = {5, "\xE2\x82", -std::numeric_limits<float>::infinity(), 1}}}};
  const std::string text = render_chat(kHead, {&choice, 1}, {});
  EXPECT_NE(text.find("\"token\":\"\uFFFD\",\"logprob\":-9999,\"bytes\":[226,130]"), std::string::npos)
      << text;
}

TEST(Stream, EventsAreWholeAndParse) {
  for (const auto kind : {ChunkWriter::Kind::kCompletion, ChunkWriter::Kind::kChat}) {
    const bool chat = kind == ChunkWriter::Kind::kChat;
    const ChunkWriter writer(kind, kHead);
    const std::vector<PositionLogprobs> logprobs{position()};
    const std::vector<TokenId> ids{5};
    const Usage usage{.prompt_tokens = 1, .completion_tokens = 1, .cached_tokens = {}};
    std::string out;
    if (chat) writer.append_role(out, {.index = 1, .prompt_token_ids = &ids});
    writer.append_delta(out, {.index = 1,
                              .text = "h\"i",
                              .logprobs = &logprobs,
                              .text_offset = 4,
                              .token_ids = &ids,
                              .usage = &usage});
    writer.append_delta(out, {.index = 1, .finish_reason = FinishReason::kStop});
    writer.append_usage(out, usage);
    append_error_event(out, {Code::kUnavailable, "gone"});
    append_done(out);
    size_t events = 0;
    for (size_t at = 0; at < out.size(); ++events) {
      const size_t end = out.find("\n\n", at);
      ASSERT_NE(end, std::string::npos);
      const std::string event = out.substr(at, end - at);
      ASSERT_TRUE(event.starts_with("data: "));
      if (event != "data: [DONE]") {
        EXPECT_TRUE(parse_json_object(event.substr(6))) << event;
      }
      at = end + 2;
    }
    EXPECT_EQ(events, chat ? 6U : 5U);
    EXPECT_EQ(out.find("\"object\":\"chat.completion.chunk\"") != std::string::npos, chat);
    EXPECT_NE(out.find(chat ? R"("delta":{"content":"h\"i"})" : R"("text":"h\"i")"), std::string::npos)
        << out;
    EXPECT_NE(out.find(R"("finish_reason":"stop","stop_reason":null)"), std::string::npos) << out;
  }
}

TEST(Errors, HaveOneStatusPerCode) {
  EXPECT_EQ(render_error({Code::kInvalid, "n: 0", "n"}),
            R"({"error":{"message":"n: 0","type":"BadRequestError","param":"n","code":400}})");
  EXPECT_EQ(render_error({Code::kExhausted, "full"}),
            R"({"error":{"message":"full","type":"RateLimitError","param":null,"code":429}})");
  // Statuses that no Code has: never a server's error for what a client did.
  EXPECT_NE(render_error({Code::kInvalid, "gzip"}, 415).find("UnsupportedMediaTypeError"), std::string::npos);
  EXPECT_NE(render_error({Code::kInvalid, "tea"}, 418).find("BadRequestError"), std::string::npos);
  for (const auto& [code, status] : std::vector<std::pair<Code, int>>{{Code::kInvalid, 400},
                                                                      {Code::kNotFound, 404},
                                                                      {Code::kExhausted, 429},
                                                                      {Code::kUnavailable, 503},
                                                                      {Code::kTimeout, 504},
                                                                      {Code::kCancelled, 499},
                                                                      {Code::kIo, 500},
                                                                      {Code::kCorrupt, 502},
                                                                      {Code::kDenied, 401}}) {
    EXPECT_EQ(http_status(code), status);
  }
}

TEST(Lists, AreVllms) {
  const ModelCard card{"m", "/m", 1, 40};
  EXPECT_EQ(
      render_models({&card, 1}),
      R"({"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"baton","root":"/m","parent":null,"max_model_len":40}]})");
  const std::vector<TokenId> ids{1, 2};
  const std::vector<std::string> texts{"a", "b"};
  EXPECT_EQ(render_tokenize(ids, 9), R"({"count":2,"max_model_len":9,"tokens":[1,2],"token_strs":null})");
  EXPECT_EQ(render_tokenize(ids, 9, &texts),
            R"({"count":2,"max_model_len":9,"tokens":[1,2],"token_strs":["a","b"]})");
  EXPECT_EQ(render_detokenize("a\"b"), R"({"prompt":"a\"b"})");
}

TEST(Identity, IsReadBackFromTheListOfModels) {
  const InstanceIdentity one = identity_of(Role::kBoth);
  const ModelCard card{"m", "/m", 1, 100};
  EXPECT_EQ(parse_models_identity(render_models({&card, 1}, render_identity(one))).value().value(), one);
  EXPECT_FALSE(parse_models_identity(R"({"object":"list","data":[]})").value());
  EXPECT_EQ(parse_models_identity(R"({"baton":{"role":"x"}})").error().message,
            "role: \"x\", expected prefill, decode or both");
}

TEST(Identity, PairsOnlyWhatFits) {
  const InstanceIdentity p = identity_of(Role::kBoth);
  EXPECT_EQ(pairing_mismatch(p, p), "");
  const auto with = [&p](auto change) {
    InstanceIdentity d = p;
    change(d);
    return pairing_mismatch(p, d);
  };
  EXPECT_EQ(with([](auto& d) { d.fingerprint = "beef"; }),
            "fingerprint: f on the prefill instance, beef on the decode instance");
  EXPECT_EQ(with([](auto& d) { d.max_model_len = 4095; }),
            "max_model_len: 4096 on the prefill instance, 4095 on the decode instance");
  EXPECT_EQ(with([](auto& d) { d.max_model_len = 4097; }), "");
  EXPECT_EQ(with([](auto& d) { d.block_size = 32; }), "");
  EXPECT_NE(with([](auto& d) { d.protocol = 2; }), "");
  EXPECT_NE(with([](auto& d) { d.kv_dtype = "float32"; }), "");
  EXPECT_NE(with([](auto& d) { d.role = Role::kPrefill; }), "");
  EXPECT_NE(with([](auto& d) { d.hands_over = false; }), "");
}

TEST(Metrics, HistogramsAreCumulative) {
  Exposition text;
  Histogram histogram(inter_token_buckets_s());
  histogram.observe(0.01);
  histogram.observe(0.02, 2);
  histogram.observe(1000);
  text.family("x", Exposition::Type::kHistogram, "help");
  text.histogram({{"model_name", "a\"\\\n"}}, histogram);
  const std::string out = text.take();
  EXPECT_TRUE(out.starts_with(
      "# HELP x help\n# TYPE x histogram\nx_bucket{model_name=\"a\\\"\\\\\\n\",le=\"0.01\"} 1\n"))
      << out;
  EXPECT_NE(out.find("le=\"0.025\"} 3\n"), std::string::npos);
  EXPECT_NE(out.find("le=\"1.0\"} 3\n"), std::string::npos);
  EXPECT_NE(out.find("le=\"+Inf\"} 4\n"), std::string::npos);
  EXPECT_NE(out.find("x_sum{model_name=\"a\\\"\\\\\\n\"} 1000.05\n"), std::string::npos) << out;
}

// All that vllm/v1/metrics/loggers.py of 0.11 registers for what Baton has, and all that the dashboards
// beside it (examples/online_serving) draw.
TEST(Metrics, HaveEveryFamilyThatVllmsDashboardsDraw) {
  const std::string out = render_metrics(ServeMetrics{});
  const std::pair<std::string_view, std::string_view> families[] = {
      {"num_requests_running", "gauge"},
      {"num_requests_waiting", "gauge"},
      {"gpu_cache_usage_perc", "gauge"},
      {"kv_cache_usage_perc", "gauge"},
      {"cache_config_info", "gauge"},
      {"gpu_prefix_cache_queries_total", "counter"},
      {"gpu_prefix_cache_hits_total", "counter"},
      {"prefix_cache_queries_total", "counter"},
      {"prefix_cache_hits_total", "counter"},
      {"num_preemptions_total", "counter"},
      {"prompt_tokens_total", "counter"},
      {"generation_tokens_total", "counter"},
      {"request_success_total", "counter"},
      {"request_prompt_tokens", "histogram"},
      {"request_generation_tokens", "histogram"},
      {"iteration_tokens_total", "histogram"},
      {"request_max_num_generation_tokens", "histogram"},
      {"request_params_n", "histogram"},
      {"request_params_max_tokens", "histogram"},
      {"time_to_first_token_seconds", "histogram"},
      {"time_per_output_token_seconds", "histogram"},
      {"inter_token_latency_seconds", "histogram"},
      {"request_time_per_output_token_seconds", "histogram"},
      {"time_per_prefill_token_request_seconds", "histogram"},
      {"e2e_request_latency_seconds", "histogram"},
      {"request_queue_time_seconds", "histogram"},
      {"request_inference_time_seconds", "histogram"},
      {"request_prefill_time_seconds", "histogram"},
      {"request_decode_time_seconds", "histogram"}};
  for (const auto& [name, type] : families) {
    EXPECT_NE(out.find(fmt::format("# TYPE vllm:{} {}\n", name, type)), std::string::npos) << name;
  }
}

TEST(Metrics, BearVllmsNamesAndLabels) {
  ServeMetrics metrics;
  metrics.model_name = "m";
  metrics.requests_running = 3;
  metrics.finished["stop"] = 2;
  metrics.handovers["done"] = 1;
  metrics.block_tokens = 16;
  metrics.kv_blocks_total = 64;
  const std::string out = render_metrics(metrics);
  for (const std::string_view line :
       {"vllm:num_requests_running{model_name=\"m\",engine=\"0\"} 3\n",
        "vllm:num_requests_waiting{",
        "vllm:kv_cache_usage_perc{",
        "vllm:prompt_tokens_total{",
        "vllm:generation_tokens_total{",
        "vllm:time_to_first_token_seconds_bucket{",
        "vllm:time_per_output_token_seconds_sum{",
        "vllm:inter_token_latency_seconds_count{",
        "vllm:e2e_request_latency_seconds_bucket{",
        "vllm:request_queue_time_seconds_bucket{",
        "vllm:request_prefill_time_seconds_bucket{",
        "vllm:request_decode_time_seconds_bucket{",
        "vllm:prefix_cache_queries_total{",
        "vllm:prefix_cache_hits_total{",
        "vllm:num_preemptions_total{",
        "vllm:request_success_total{model_name=\"m\",engine=\"0\",finished_reason=\"stop\"} 2\n",
        "vllm:request_success_total{model_name=\"m\",engine=\"0\",finished_reason=\"abort\"} 0\n",
        "vllm:cache_config_info{model_name=\"m\",engine=\"0\",block_size=\"16\",num_gpu_blocks=\"64\","
        "enable_prefix_caching=\"True\"} 1\n",
        "vllm:request_params_n_bucket{model_name=\"m\",engine=\"0\",le=\"20.0\"} 0\n"
        "vllm:request_params_n_bucket{model_name=\"m\",engine=\"0\",le=\"+Inf\"} 0\n",
        "baton:handovers_total{model_name=\"m\",engine=\"0\",outcome=\"done\"} 1\n",
        "baton:kv_blocks_held{"}) {
    EXPECT_NE(out.find(line), std::string::npos) << line;
  }
  ProxyMetrics proxy;
  proxy.instances.push_back({.address = "a:1", .role = "prefill", .up = true});
  EXPECT_NE(
      render_metrics(proxy).find("baton:proxy_instance_up{instance_address=\"a:1\",role=\"prefill\"} 1\n"),
      std::string::npos);
}

}  // namespace
}  // namespace baton::api
