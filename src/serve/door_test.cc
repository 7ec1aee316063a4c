// The routes of an instance, over real sockets.
#include "serve/door_testing.h"

namespace baton::serve {
namespace {

TEST(Routes, RefuseInOpenAisShape) {
  Door door(says("abc"));
  door.loop().call([&] {
    door.options().api_keys = {"k1", "k2"};
    door.options().admin_key = "boss";
  });
  const std::string key = "Authorization: Bearer k2\r\n";
  struct Row {
    const char* method;
    const char* path;
    const char* body;
    std::string headers;
    int status;
    const char* word;
  };
  const Row rows[] = {
      {"POST", "/v1/completions", R"({"prompt":"x"})", "", 401, "API key"},
      {"POST", "/v1/completions", R"({"prompt":"x"})", "Authorization: Bearer k3\r\n", 401, "API key"},
      {"POST", "/v1/completions", R"({"prompt":"x"})", "Authorization: Bearer boss\r\n", 401, "API key"},
      {"POST", "/v1/completions", R"({"prompt":"x"})", key, 200, "abc"},
      {"GET", "/v1/models", "", "", 401, "API key"},
      {"POST", "/abort_request", R"({"request_id":"x"})", key, 401, "admin-key"},
      {"GET", "/debug/requests", "", "", 401, "admin-key"},
      {"POST", "/v1/completions", "{", key, 400, "message"},
      {"POST", "/v1/completions", R"({"prompt":"x","model":"gpt"})", key, 404, "gpt"},
      {"POST", "/v1/chat/completions", "{}", key, 400, "messages"},
      {"POST", "/tokenize", "{}", key, 400, "prompt"},
      {"POST", "/detokenize", R"({"tokens":[5000]})", key, 400, "5000"},
      {"POST", "/abort_request", "{}", "Authorization: Bearer boss\r\n", 400, "request_id"},
      {"GET", "/v1/completions", "", key, 405, "GET"},
      {"GET", "/nowhere", "", key, 404, "/nowhere"},
  };
  for (const Row& row : rows) {
    const Reply reply = door.ask(row.method, row.path, row.body, row.headers);
    EXPECT_EQ(reply.status, row.status) << row.path << reply.body;
    EXPECT_NE(reply.body.find(row.word), std::string::npos) << row.path << reply.body;
    if (row.status == 200) continue;
    const json::object error = reply.whole().at("error").as_object();
    EXPECT_EQ(error.at("code"), row.status);
    EXPECT_TRUE(error.at("type").is_string() && error.contains("param"));
  }
}

TEST(Routes, AMethodThatIsNotServedIsToldWhichAre) {
  Door door(says("abc"));
  for (const auto& [path, allowed] : {std::pair{"/v1/completions", "POST"}, std::pair{"/health", "GET, HEAD"},
                                      std::pair{"/ping", "GET, HEAD, POST"}}) {
    const Reply reply = door.ask("DELETE", path);
    EXPECT_EQ(reply.status, 405) << path;
    EXPECT_NE(reply.head.find(std::string("\r\nAllow: ") + allowed + "\r\n"), std::string::npos)
        << reply.head;
  }
}

TEST(Routes, HeadIsGetWithoutItsBody) {
  Door door(says("abc"));
  for (const char* path : {"/health", "/v1/models", "/metrics"}) {
    const Reply head = door.ask("HEAD", path);
    EXPECT_EQ(head.status, 200) << path;
    EXPECT_EQ(head.body, "");
  }
  EXPECT_EQ(door.ask("HEAD", "/v1/completions").status, 405);
}

TEST(Routes, ABodyInACodingThatIsNotReadIsRefusedByName) {
  Door door(says("abc"));
  const std::string body = R"({"prompt":"x"})";
  const Reply packed = door.ask("POST", "/v1/completions", body, "Content-Encoding: gzip\r\n");
  EXPECT_EQ(packed.status, 415);
  EXPECT_NE(packed.body.find("Content-Encoding: gzip, expected none or identity"), std::string::npos)
      << packed.body;
  EXPECT_EQ(door.ask("POST", "/v1/completions", body, "Content-Encoding: identity\r\n").status, 200);
}

TEST(Routes, SayWhenTheModelIsNotThereOrTheInstanceEnds) {
  Door door(says("abc"));
  door.loop().call([&] { door.desk().draining = true; });
  EXPECT_EQ(door.ask("GET", "/health").status, 503);
  EXPECT_EQ(door.complete(R"("prompt":"x")").status, 503);
  EXPECT_EQ(door.ask("GET", "/v1/models").status, 200);
  door.loop().call([&] {
    door.desk().draining = false;
    door.desk().model = nullptr;
  });
  EXPECT_EQ(door.ask("GET", "/health").status, 503);
  EXPECT_EQ(door.ask("GET", "/v1/models").status, 503);
  EXPECT_EQ(door.ask("GET", "/version").status, 200);
  door.loop().call([&] { door.desk().model = &door.model(); });
  EXPECT_EQ(door.ask("GET", "/health").status, 200);
}

TEST(Routes, AbortRequestEndsARequestByItsName) {
  Door door([](const engine::Request&) { return std::vector<engine::Answer>{}; });
  http::RawClient waiting(door.at());
  const std::string body = R"({"prompt":"x","request_id":"mine"})";
  waiting.send("POST /v1/completions HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) +
               "\r\n\r\n" + body);
  while (door.posted().empty()) std::this_thread::yield();
  EXPECT_EQ(door.ask("POST", "/abort_request", R"({"request_id":["other","mine"]})").body,
            R"({"aborted":1})");
  const auto posted = door.posted();
  const auto* abort = std::get_if<engine::Abort>(&posted.back());
  ASSERT_NE(abort, nullptr);
  door.deliver({engine::FailedEvent{.request = abort->request, .error = {Code::kCancelled, "aborted"}}});
  EXPECT_TRUE(waiting.read_to_end().starts_with("HTTP/1.1 499"));
}

TEST(Routes, TokenizeAndDetokenizeAreInverseAndMessagesGoThroughTheTemplate) {
  Door door;
  const json::value text =
      door.ask("POST", "/tokenize", R"({"prompt":"a café","return_token_strs":true})").whole();
  EXPECT_EQ(text.at("count"), text.at("tokens").as_array().size());
  EXPECT_EQ(text.at("max_model_len"), kTestModelLen);
  EXPECT_EQ(text.at("token_strs").as_array().size(), text.at("tokens").as_array().size());
  const auto back = [&](const json::value& answer) {
    return door.ask("POST", "/detokenize", R"({"tokens":)" + json::serialize(answer.at("tokens")) + "}")
        .whole()
        .at("prompt");
  };
  EXPECT_EQ(back(text), "a café");
  const std::string chat = R"({"messages":[{"role":"user","content":"hi"}])";
  EXPECT_EQ(back(door.ask("POST", "/tokenize", chat + "}").whole()),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(back(door.ask("POST", "/tokenize", chat + R"(,"add_generation_prompt":false})").whole()),
            "<|im_start|>user\nhi<|im_end|>\n");
  // Counting is also for what is too long to be answered.
  const Reply longest = door.ask(
      "POST", "/tokenize", R"({"messages":[{"role":"user","content":")" + std::string(4000, '7') + "\"}]}");
  EXPECT_EQ(longest.status, 200) << longest.body;
}

TEST(Routes, ModelsListEveryNameAndTheIdentity) {
  Door door;
  const json::value models = door.ask("GET", "/v1/models").whole();
  ASSERT_EQ(models.at("data").as_array().size(), 2U);
  EXPECT_EQ(models.at("data").at(1).at("id"), "alias");
  EXPECT_EQ(models.at("data").at(0).at("max_model_len"), kTestModelLen);
  EXPECT_TRUE(models.as_object().contains("baton"));
}

TEST(Routes, ThePrefixCacheIsForgottenOnDemand) {
  Door door;
  const std::string ask = R"("max_tokens":2,"prompt":")" + std::string(150, '7') + "\"";
  const auto cached = [&] {
    return door.complete(ask)
        .whole()
        .at("usage")
        .at("prompt_tokens_details")
        .at("cached_tokens")
        .to_number<int>();
  };
  EXPECT_EQ(cached(), 0);
  EXPECT_GT(cached(), 0);
  EXPECT_EQ(door.ask("POST", "/reset_prefix_cache").status, 200);
  EXPECT_EQ(cached(), 0);
}

TEST(Routes, MetricsAndDebugRequestsTellOfWhatRan) {
  Door door;
  ASSERT_EQ(door.complete(R"("prompt":"x","max_tokens":3,"ignore_eos":true,"request_id":"seen")").status,
            200);
  const std::string text = door.ask("GET", "/metrics").body;
  for (const char* name :
       {"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:num_preemptions_total",
        "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total", "vllm:request_success_total",
        "vllm:time_to_first_token_seconds_bucket", "vllm:inter_token_latency_seconds_count",
        "vllm:e2e_request_latency_seconds_sum", "vllm:request_queue_time_seconds_bucket",
        "vllm:request_prefill_time_seconds_bucket", "vllm:request_decode_time_seconds_bucket",
        "vllm:request_params_n_bucket"}) {
    EXPECT_NE(text.find(name), std::string::npos) << name;
  }
  const json::value debug = door.ask("GET", "/debug/requests").whole();
  EXPECT_TRUE(debug.at("requests").as_array().empty());
  EXPECT_EQ(debug.at("recent").at(0).at("request_id"), "seen");
  EXPECT_EQ(debug.at("recent").at(0).at("output_tokens"), 3);
  EXPECT_EQ(debug.at("kv_blocks").at("free"), debug.at("kv_blocks").at("total"));
}

}  // namespace
}  // namespace baton::serve
