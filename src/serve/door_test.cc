// The whole door over real sockets: routes and sessions before a scripted engine, or a true one on a hash
// model.
#include <gtest/gtest.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <functional>

#include "engine/recorder.h"
#include "http/server.h"
#include "http/testing.h"
#include "model/testing.h"
#include "serve/engine_thread.h"
#include "serve/request_spans.h"
#include "serve/routes.h"
#include "serve/testing.h"

namespace baton::serve {
namespace {
namespace json = boost::json;

// What the scripted engine answers to a Submit, in bursts.
using Script = std::function<std::vector<engine::Answer>(const engine::Request&)>;

struct Reply {
  int status = 0;
  std::string head;
  std::string body;

  json::value whole() const { return json::parse(body); }
  std::vector<std::string> events() const {
    std::vector<std::string> out;
    for (size_t at = 0; at < body.size();) {
      const size_t end = body.find("\n\n", at);
      if (!body.substr(at).starts_with("data: ") || end == std::string::npos)
        return {"not SSE: " + body.substr(at)};
      out.push_back(body.substr(at + 6, end - at - 6));
      at = end + 2;
    }
    return out;
  }
  // All events but the last, which must be [DONE].
  std::vector<json::value> chunks() const {
    std::vector<std::string> all = events();
    EXPECT_EQ(all.empty() ? "" : all.back(), "[DONE]") << body;
    std::vector<json::value> out;
    for (size_t i = 0; i + 1 < all.size(); ++i) out.push_back(json::parse(all[i]));
    return out;
  }
};

class Door {
 public:
  explicit Door(Script script = {})
      : script_(std::move(script)), model_(test_model()), fake_(fake_options()) {
    options_.served_model_names = {"m"};
    arena_ = std::move(*kv::KvArena::create(fake_.info().kv_layout, 64, Incarnation{{7}}));
    recorder_ = std::make_unique<engine::Recorder>(::testing::TempDir());
    engine::EngineConfig config;
    config.handover.incarnation = Incarnation{{7}};
    engine_ = std::make_unique<engine::Engine>(config, fake_, *arena_);
    client_ = std::make_unique<EngineClient>(loop_.loop(),
                                             [this](engine::Inbox item) { return post(std::move(item)); });
    thread_ = std::make_unique<EngineThread>(
        *engine_, *recorder_, beacon_,
        EngineThread::Outlets{
            .answers = [this](std::vector<engine::Answer> answers) { deliver(std::move(answers)); },
            .commands = [](const std::vector<transfer::Command>&) {}});
    auto listener = net::listen({"127.0.0.1", 0});
    CHECK(listener.has_value());
    at_ = listener->local;
    loop_.call([&] {
      desk_.loop = &loop_.loop();
      http_client_ = std::make_unique<http::Client>(loop_.loop(), http::ClientOptions{});
      desk_.client = http_client_.get();
      desk_.options = &options_;
      desk_.model = &model_;
      desk_.engine = client_.get();
      desk_.engine_thread = thread_.get();
      desk_.metrics.model_name = "m";
      server_ = std::make_unique<http::Server>(loop_.loop(), std::move(*listener), http::ServerOptions{},
                                               make_handler(desk_));
      server_->start();
    });
  }
  ~Door() {
    thread_->stop();
    loop_.call([&] {
      server_.reset();
      http_client_.reset();
    });
  }

  Reply ask(const std::string& method, const std::string& path, const std::string& body = "",
            const std::string& headers = "") {
    http::RawClient client(at_);
    client.send(method + " " + path + " HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
                headers + "\r\n" + body);
    const std::string all = client.read_to_end();
    const size_t end = all.find("\r\n\r\n");
    if (end == std::string::npos || all.size() < 12) return {0, all, {}};
    return {std::stoi(all.substr(9, 3)), all.substr(0, end), all.substr(end + 4)};
  }
  Reply complete(const std::string& fields) { return ask("POST", "/v1/completions", "{" + fields + "}"); }
  Reply chat(const std::string& fields) {
    return ask(
        "POST", "/v1/chat/completions",
        R"({"messages":[{"role":"user","content":"hi"}])" + (fields.empty() ? "" : "," + fields) + "}");
  }

  ServedModel& model() { return model_; }
  Desk& desk() { return desk_; }
  options::ServeOptions& options() { return options_; }
  http::LoopThread& loop() { return loop_; }
  const net::Endpoint& at() const { return at_; }
  std::vector<engine::Inbox> posted() {
    return loop_.call([&] { return posted_; });
  }
  void deliver(std::vector<engine::Answer> answers) {
    auto shared = std::make_shared<std::vector<engine::Answer>>(std::move(answers));
    loop_.loop().post([this, shared] { client_->deliver(std::move(*shared)); });
  }

 private:
  static model::FakeModelOptions fake_options() {
    model::FakeModelOptions options;
    options.vocab_size = kTestVocab;
    options.max_position = kTestModelLen;
    return options;
  }
  bool post(engine::Inbox item) {
    if (!script_) return thread_->post(std::move(item));
    if (const auto* submit = std::get_if<engine::Submit>(&item)) {
      for (engine::Answer& answer : script_(submit->request)) deliver({std::move(answer)});
    }
    posted_.push_back(std::move(item));
    return true;
  }

  Script script_;
  ServedModel model_;
  options::ServeOptions options_;
  model::FakeModel fake_;
  std::unique_ptr<kv::KvArena> arena_;
  std::unique_ptr<engine::Recorder> recorder_;
  std::unique_ptr<engine::Engine> engine_;
  Beacon beacon_;
  Desk desk_;
  std::vector<engine::Inbox> posted_;  // of a scripted door; io thread
  std::unique_ptr<EngineClient> client_;
  net::Endpoint at_;
  http::LoopThread loop_;
  std::unique_ptr<EngineThread> thread_;
  std::unique_ptr<http::Client> http_client_;
  std::unique_ptr<http::Server> server_;
};

// Answers every choice with `text`, one token a step, then the end token.
Script says(std::string_view text, uint32_t cached = 0) {
  return [text = std::string(text), cached](const engine::Request& request) {
    static const ServedModel model = test_model();
    std::vector<TokenId> ids = ids_of(model, text);
    ids.push_back(kTestEos);
    engine::PromptEvent prompt;
    prompt.request = request.id;
    prompt.cached_tokens = cached;
    std::vector<engine::Answer> out{prompt};
    for (size_t i = 0; i < ids.size(); ++i) {
      for (uint32_t choice = 0; choice < request.sampling.n; ++choice) {
        engine::DrawnToken token;
        token.token = ids[i];
        if (request.sampling.logprobs)
          token.logprobs = engine::PositionLogprobs{.self = {ids[i], -1.0F, 1}, .top = {}};
        if (i + 1 == ids.size()) token.finish = engine::FinishReason::kStop;
        out.emplace_back(engine::TokensEvent{.request = request.id, .choice = choice, .tokens = {token}});
      }
    }
    out.emplace_back(
        engine::FinishedEvent{.request = request.id,
                              .output_tokens = static_cast<uint32_t>(ids.size()) * request.sampling.n,
                              .timeline = {}});
    return out;
  };
}

const json::object& choice_of(const json::value& chunk) {
  return chunk.as_object().at("choices").as_array().at(0).as_object();
}
bool has_usage(const json::value& chunk) { return chunk.as_object().contains("usage"); }
int64_t counted(const json::value& chunk, const char* key) {
  return chunk.as_object().at("usage").as_object().at(key).to_number<int64_t>();
}

TEST(ChatStream, BeginsWithTheRoleEndsWithTheUsageAndDone) {
  Door door(says("a\u20acb", 2));
  const auto chunks = door.chat(R"("stream":true,"stream_options":{"include_usage":true})").chunks();
  ASSERT_GE(chunks.size(), 4U);
  EXPECT_EQ(json::serialize(choice_of(chunks[0]).at("delta")), R"({"role":"assistant","content":""})");
  std::string text;
  for (size_t i = 1; i + 1 < chunks.size(); ++i) {
    EXPECT_FALSE(choice_of(chunks[i]).at("delta").as_object().contains("role"));
    EXPECT_FALSE(has_usage(chunks[i]));
    text += choice_of(chunks[i]).at("delta").as_object().at("content").as_string();
    EXPECT_EQ(chunks[i].at("object"), "chat.completion.chunk");
    EXPECT_EQ(chunks[i].at("id"), chunks[0].at("id"));
    EXPECT_EQ(choice_of(chunks[i]).at("finish_reason").is_string(), i + 2 == chunks.size());
  }
  EXPECT_EQ(text, "a\u20acb");
  EXPECT_TRUE(chunks.back().at("choices").as_array().empty());
  const auto tokens = static_cast<int64_t>(ids_of(door.model(), "a\u20acb").size()) + 1;
  EXPECT_EQ(counted(chunks.back(), "completion_tokens"), tokens);
  EXPECT_EQ(chunks.back().at("usage").at("prompt_tokens_details").at("cached_tokens"), 2);
  for (const auto& chunk : door.chat(R"("stream":true)").chunks()) EXPECT_FALSE(has_usage(chunk));
}

TEST(Stream, ContinuousUsageCountsTheChunksOwnChoice) {
  Door door(says("abc"));
  const auto chunks =
      door.chat(
              R"("stream":true,"n":2,"stream_options":{"include_usage":true,"continuous_usage_stats":true})")
          .chunks();
  std::map<int64_t, int64_t> tokens;  // by choice
  for (size_t i = 0; i + 1 < chunks.size(); ++i) {
    const auto index = choice_of(chunks[i]).at("index").to_number<int64_t>();
    const bool is_role = choice_of(chunks[i]).at("delta").as_object().contains("role");
    EXPECT_EQ(counted(chunks[i], "completion_tokens"), is_role ? 0 : ++tokens[index]) << i;
  }
  const auto each = static_cast<int64_t>(ids_of(door.model(), "abc").size()) + 1;
  EXPECT_EQ(tokens, (std::map<int64_t, int64_t>{{0, each}, {1, each}}));
  EXPECT_EQ(counted(chunks.back(), "completion_tokens"), 2 * each);
}

TEST(Stream, JoinedItIsTheWholeAnswer) {
  Door door(says("a\u20acb\u00e9"));
  const std::string fields = R"("prompt":["x","y"],"n":2,"logprobs":0,"return_token_ids":true)";
  const json::value whole = door.complete(fields).whole();
  std::map<int64_t, json::object> joined;
  const auto append = [](json::value& to, const json::value& more) {
    if (to.is_null()) to = json::array();
    for (const auto& entry : more.as_array()) to.as_array().push_back(entry);
  };
  for (const auto& chunk : door.complete(fields + R"(,"stream":true)").chunks()) {
    const json::object& choice = choice_of(chunk);
    json::object& sum = joined[choice.at("index").to_number<int64_t>()];
    sum["text"] = (sum.contains("text") ? std::string(sum["text"].as_string()) : "") +
                  std::string(choice.at("text").as_string());
    append(sum["token_ids"], choice.at("token_ids"));
    for (const auto& [key, value] : choice.at("logprobs").as_object()) append(sum[key], value);
    if (choice.contains("prompt_token_ids")) append(sum["prompt_token_ids"], choice.at("prompt_token_ids"));
  }
  ASSERT_EQ(whole.at("choices").as_array().size(), 4U);
  for (const auto& value : whole.at("choices").as_array()) {
    const json::object& choice = value.as_object();
    json::object& sum = joined[choice.at("index").to_number<int64_t>()];
    EXPECT_EQ(sum["text"], choice.at("text"));
    EXPECT_EQ(sum["token_ids"], choice.at("token_ids"));
    EXPECT_EQ(sum["prompt_token_ids"], choice.at("prompt_token_ids"));
    for (const char* key : {"text_offset", "tokens", "token_logprobs"}) {
      EXPECT_EQ(sum[key], choice.at("logprobs").at(key)) << key;
    }
  }
}

TEST(Logprobs, OffsetsCountCharactersAndAPartPointsAtItsCharacter) {
  Door door(says("a\u20acb"));
  const auto pieces = ids_of(door.model(), "\u20ac").size();
  json::array expected{0};
  for (size_t i = 0; i < pieces; ++i) expected.emplace_back(1);
  expected.emplace_back(2);
  expected.emplace_back(3);  // of the end token
  const json::value whole = door.complete(R"("prompt":"x","logprobs":0)").whole();
  EXPECT_EQ(json::serialize(whole.at("choices").at(0).at("logprobs").at("text_offset")),
            json::serialize(expected));
}

TEST(Echo, GivesThePromptOfACompletionAndTheBegunMessageOfAChat) {
  Door door(says("abc"));
  EXPECT_EQ(door.complete(R"("prompt":"x y","echo":true)").whole().at("choices").at(0).at("text"), "x yabc");
  const auto streamed = door.complete(R"("prompt":"x y","echo":true,"stream":true)").chunks();
  EXPECT_TRUE(choice_of(streamed.front()).at("text").as_string().starts_with("x y"));
  const auto chat = [&](const std::string& messages) {
    const json::value answer =
        door.ask("POST", "/v1/chat/completions", R"({"echo":true,"messages":)" + messages + "}").whole();
    return std::string(answer.at("choices").at(0).at("message").at("content").as_string());
  };
  EXPECT_EQ(chat(R"([{"role":"user","content":"hi"}])"), "abc");
  EXPECT_EQ(chat(R"([{"role":"user","content":"hi"},{"role":"assistant","content":"so "}])"), "so abc");
}

// As in vLLM: one token is drawn all the same, and needs its place.
TEST(Echo, OfAPromptThatFillsTheContextIsRefusedThoughNothingElseIsAskedFor) {
  Door door;
  const auto echo = [&](int32_t tokens) {
    std::string ids = "7";
    for (int32_t i = 1; i < tokens; ++i) ids += ",7";
    return door.complete(R"("echo":true,"max_tokens":0,"prompt":[)" + ids + "]");
  };
  const Reply whole = echo(kTestModelLen - 1);
  ASSERT_EQ(whole.status, 200) << whole.body;
  EXPECT_EQ(whole.whole().at("usage").at("completion_tokens"), 0);
  const Reply refused = echo(kTestModelLen);
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ(refused.whole().at("error").at("message"),
            "prompt: 256 tokens, expected fewer than the model's maximum context length of 256 tokens");
}

TEST(StopString, EndsTheTextAndTheEnginesWork) {
  Door door(says("abcd"));
  const json::value whole = door.complete(R"("prompt":"x","stop":"c")").whole();
  EXPECT_EQ(whole.at("choices").at(0).at("text"), "ab");
  EXPECT_EQ(whole.at("choices").at(0).at("finish_reason"), "stop");
  EXPECT_EQ(whole.at("choices").at(0).at("stop_reason"), "c");
  size_t stops = 0;
  for (const auto& item : door.posted()) stops += std::holds_alternative<engine::StopChoice>(item) ? 1 : 0;
  EXPECT_EQ(stops, 1U);
}

TEST(Failure, BeforeTheFirstByteHasItsStatusAndAfterItIsAnEvent) {
  struct Row {
    Code code;
    int status;
    const char* type;
  };
  for (const Row& row :
       {Row{Code::kInvalid, 400, "BadRequestError"}, Row{Code::kExhausted, 429, "RateLimitError"},
        Row{Code::kTimeout, 504, "TimeoutError"}, Row{Code::kUnavailable, 503, "ServiceUnavailableError"},
        Row{Code::kCorrupt, 500, "InternalServerError"}}) {  // logits that are no numbers
    for (const bool begun : {false, true}) {
      Door door([&](const engine::Request& request) {
        std::vector<engine::Answer> out = says("abc")(request);
        out.resize(begun ? 2 : 1);
        out.emplace_back(engine::FailedEvent{.request = request.id, .error = {row.code, "it broke"}});
        return out;
      });
      const Reply reply = door.complete(R"("prompt":"x","stream":true)");
      EXPECT_EQ(reply.status, begun ? 200 : row.status);
      const json::value error = begun ? reply.chunks().back() : reply.whole();
      EXPECT_EQ(error.at("error").at("message"), "it broke");
      EXPECT_EQ(error.at("error").at("type"), row.type);
      EXPECT_EQ(error.at("error").at("code"), row.status);
      EXPECT_EQ(door.complete(R"("prompt":"x")").status, row.status);
    }
  }
}

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

TEST(ChatContent, ThatIsMissingIsEmptyAsToolCallsComeBackWithoutAny) {
  Door door(says("abc"));
  const Reply reply = door.ask(
      "POST", "/v1/chat/completions",
      R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"4"}]})");
  EXPECT_EQ(reply.status, 200) << reply.body;
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

// ---- before a true engine ----

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

// ---- timelines ----

int64_t sum_of_parts(const json::value& timings) {
  int64_t sum = 0;
  for (const json::value& part : timings.at("parts").as_array()) sum += part.at("ns").as_int64();
  return sum;
}

TEST(Timings, OfAnAnswerAreAPartitionAndGivenToWhoAsks) {
  Door door;
  const std::string asked = R"("prompt":"x","max_tokens":5,"ignore_eos":true)";
  EXPECT_FALSE(door.complete(asked).whole().as_object().contains("timings"));
  const json::value whole = door.complete(asked + R"(,"timings":true)").whole();
  std::vector<json::value> found{whole.at("timings")};
  for (const char* options : {"", R"(,"stream_options":{"include_usage":true})"}) {
    const auto chunks =
        door.chat(R"("max_tokens":5,"stream":true,"timings":true)" + std::string(options)).chunks();
    for (size_t i = 0; i + 1 < chunks.size(); ++i) EXPECT_FALSE(chunks[i].as_object().contains("timings"));
    EXPECT_TRUE(chunks.back().at("choices").as_array().empty());
    EXPECT_EQ(has_usage(chunks.back()), *options != '\0');
    found.push_back(chunks.back().at("timings"));
  }
  found.push_back(door.complete(R"("prompt":["a","b"],"max_tokens":2,"timings":true)").whole().at("timings"));
  for (const json::value& timings : found) {
    EXPECT_EQ(sum_of_parts(timings), timings.at("total_ns").as_int64());
    EXPECT_EQ(timings.at("parts").at(0).at("phase"), "tokenise");
    EXPECT_EQ(timings.at("parts").at(0).at("at"), "instance");
    EXPECT_EQ(timings.at("parts").as_array().back().at("phase"), "deliver");
  }
}

double metric(const std::string& text, const std::string& line) {
  const size_t at = text.find("\n" + line + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + line.size() + 2));
}

TEST(Routes, MetricsCountEachRequestsLongestChoiceAndItsPrefillByToken) {
  Door door;
  ASSERT_EQ(door.complete(R"("prompt":"x","max_tokens":3,"ignore_eos":true,"n":2)").status, 200);
  const std::string text = door.ask("GET", "/metrics").body;
  const std::string labels = R"({model_name="m",engine="0"})";
  EXPECT_EQ(metric(text, "vllm:request_generation_tokens_sum" + labels), 6);
  EXPECT_EQ(metric(text, "vllm:request_max_num_generation_tokens_sum" + labels), 3);
  const double prefill = metric(text, "vllm:request_prefill_time_seconds_sum" + labels);
  const double prompt = metric(text, "vllm:request_prompt_tokens_sum" + labels);
  EXPECT_NEAR(metric(text, "vllm:time_per_prefill_token_request_seconds_sum" + labels), prefill / prompt,
              1e-12);
}

TEST(Timings, InTheMetricsThePhasesOfRequestsAddUpToTheirLatency) {
  Door door;
  for (int i = 0; i < 5; ++i) ASSERT_EQ(door.chat(R"("max_tokens":4,"ignore_eos":true)").status, 200);
  const std::string text = door.ask("GET", "/metrics").body;
  const std::string labels = R"(model_name="m",engine="0")";
  double sum = 0;
  for (size_t phase = 0; phase < kPhases; ++phase) {
    const double part = metric(text, fmt::format("baton:request_phase_seconds_sum{{{},phase=\"{}\"}}", labels,
                                                 phase_name(static_cast<Phase>(phase))));
    EXPECT_GE(part, 0) << phase;
    sum += part;
  }
  EXPECT_GT(sum, 0);
  EXPECT_NEAR(sum, metric(text, "vllm:e2e_request_latency_seconds_sum{" + labels + "}"), 1e-9);
  EXPECT_EQ(metric(text, "vllm:request_queue_time_seconds_count{" + labels + "}"), 5);
}

TEST(Spans, OfARequestAreBelowItsSendersAndItsPhasesBelowThem) {
  const std::optional<traces::TraceContext> sender =
      traces::parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  Timeline line(Phase::kTokenise, {Duration(10)});
  line.enter(Phase::kPrefill, {Duration(30)});
  line.end({Duration(90)});
  engine::SamplingParams sampling;
  sampling.n = 2;
  EndedRequest ended{.name = "r",
                     .model = "m",
                     .at = "decode",
                     .timeline = &line,
                     .sampling = &sampling,
                     .prompt_tokens = 3,
                     .output_tokens = 4,
                     .first_token = Duration(50)};
  const auto spans = request_spans(ended, sender);
  ASSERT_EQ(spans.size(), 3U);
  EXPECT_EQ(spans[0].name, "llm_request");
  EXPECT_EQ(spans[0].parent, sender->span);
  EXPECT_EQ(spans[0].place.trace, sender->trace);
  EXPECT_EQ(spans[1].parent, spans[0].place.span);
  EXPECT_EQ(spans[1].begin, spans[0].begin);
  EXPECT_EQ(spans[2].name, "prefill");
  EXPECT_EQ(spans[2].end, spans[0].end);
  const auto has = [&](std::string_view key, const traces::AttributeValue& value) {
    return std::ranges::count(spans[0].attributes, traces::Attribute{std::string(key), value}) == 1;
  };
  EXPECT_TRUE(has("gen_ai.usage.prompt_tokens", int64_t{3}));
  EXPECT_TRUE(has("gen_ai.usage.completion_tokens", int64_t{4}));
  EXPECT_TRUE(has("gen_ai.request.n", int64_t{2}));
  EXPECT_TRUE(has("gen_ai.request.id", std::string("r")));
  EXPECT_TRUE(has("gen_ai.latency.time_to_first_token", 50e-9));
  EXPECT_TRUE(has("gen_ai.latency.time_in_model_prefill", 60e-9));
  ended.has_parts = false;
  EXPECT_EQ(request_spans(ended, sender).size(), 1U);
  traces::TraceContext unrecorded = *sender;
  unrecorded.flags = 0;
  EXPECT_TRUE(request_spans(ended, unrecorded).empty());
  EXPECT_EQ(request_spans(ended, std::nullopt)[0].parent, 0U);
}

TEST(HangUp, FreesEveryBlockOfTheRequest) {
  Door door;
  for (int i = 0; i < 8; ++i) {
    http::RawClient client(door.at());
    const std::string body = R"({"prompt":"x","stream":true,"max_tokens":200,"ignore_eos":true})";
    client.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
                "\r\n\r\n" + body);
    if (i % 2 == 0) client.read_until("data: ");
    client.close();
  }
  const Time patience = SteadyClock().now() + std::chrono::seconds(20);
  json::value debug;
  do {
    debug = door.ask("GET", "/debug/requests").whole();
  } while ((!debug.at("requests").as_array().empty() ||
            debug.at("kv_blocks").at("free") != debug.at("kv_blocks").at("total")) &&
           SteadyClock().now() < patience);
  EXPECT_TRUE(debug.at("requests").as_array().empty());
  EXPECT_EQ(debug.at("kv_blocks").at("free"), debug.at("kv_blocks").at("total"));
}

// ---- layer-wise order ----

// Becomes true, or patience ends.
template <class Task>
bool becomes(Task holds) {
  for (int i = 0; i < 2000; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// A metaserver that answers with `status`, or never.
class Metaservers {
 public:
  explicit Metaservers(int status) {
    auto listener = net::listen({"127.0.0.1", 0});
    CHECK(listener.has_value());
    url = "http://" + net::to_string(listener->local) + "/v1/metaserver";
    thread_.call([&] {
      server_ = std::make_unique<http::Server>(
          thread_.loop(), std::move(*listener), http::ServerOptions{},
          [this, status](http::Request& request, http::ResponseWriter& writer) -> http::Awaitable<void> {
            return answer(status, request, writer);
          });
      server_->start();
    });
  }
  ~Metaservers() {
    thread_.call([this] { server_.reset(); });
  }
  std::vector<std::string> heard() {
    return thread_.call([this] { return heard_; });
  }
  int left() {
    return thread_.call([this] { return left_; });
  }

  std::string url;

 private:
  http::Awaitable<void> answer(int status, http::Request& request, http::ResponseWriter& writer) {
    heard_.push_back(request.body);
    if (status != 0) {
      writer.send(status, "application/json", R"({"detail":"from the metaserver"})");
      co_return;
    }
    http::Wake never(thread_.loop());
    const auto woken = co_await never.wait();
    left_ += woken ? 0 : 1;
  }

  http::LoopThread thread_;
  std::unique_ptr<http::Server> server_;
  std::vector<std::string> heard_;
  int left_ = 0;
};

// Reserves, and leaves the rest to the test.
Script reserves() {
  return [](const engine::Request& request) {
    return std::vector<engine::Answer>{
        engine::ReservedEvent{.request = request.id,
                              .transfer = request.transfer,
                              .blocks = {BlockId{4}},
                              .tokens = static_cast<uint32_t>(request.prompt.size()),
                              .tokens_present = 0,
                              .prompt_hash = request.remote ? request.remote->prompt_hash : ""}};
  };
}

void make_layerwise(Door& door) {
  door.model().identity.hands_over = true;
  door.model().identity.order = api::HandoverOrder::kLayerwise;
  door.desk().advertised_host = "10.0.0.2";
  door.desk().side_channel_port = 30200;
}

std::string to_metaserver(const std::string& url) {
  return R"("kv_transfer_params":{"do_remote_decode":false,"do_remote_prefill":true,"metaserver":")" + url +
         "\"}";
}

TEST(Layerwise, DPostsWhatItReservedUnderTheRequestsNameAndHangsUpWhenTheRequestEnds) {
  for (const bool chat : {false, true}) {
    Metaservers metaserver(0);
    Door door(reserves());
    make_layerwise(door);
    http::RawClient client(door.at());
    const std::string body = chat ? R"({"messages":[{"role":"user","content":"hi"}],"stream":true,)" +
                                        to_metaserver(metaserver.url) + "}"
                                  : R"({"prompt":"hi","stream":true,)" + to_metaserver(metaserver.url) + "}";
    client.send(std::string("POST ") + (chat ? "/v1/chat/completions" : "/v1/completions") +
                " HTTP/1.1\r\nHost: x\r\nX-Request-Id: r7\r\nContent-Length: " + std::to_string(body.size()) +
                "\r\n\r\n" + body);
    ASSERT_TRUE(becomes([&] { return !metaserver.heard().empty(); }));
    const json::value post = json::parse(metaserver.heard()[0]);
    EXPECT_EQ(post.at("request_id"), chat ? "chatcmpl-r7" : "cmpl-r7-0");
    EXPECT_EQ(post.at("remote_host"), "10.0.0.2");
    EXPECT_EQ(post.at("remote_port"), 30200);
    EXPECT_EQ(json::serialize(post.at("remote_block_ids")), "[[4]]");
    const auto posted = door.posted();
    const auto& submit = std::get<engine::Submit>(posted.at(0));
    EXPECT_EQ(post.at("baton").at("landing").at("transfer_id").as_string(), submit.request.transfer.hex());
    EXPECT_EQ(metaserver.left(), 0);
    client.close();
    EXPECT_TRUE(becomes([&] { return metaserver.left() == 1; }));
  }
}

TEST(Layerwise, AStreamDoesNotWaitForTheMetaserversAnswerAndHasNoHeadBeforeItsFirstToken) {
  Metaservers metaserver(0);
  Door door(reserves());
  make_layerwise(door);
  const std::string body = R"({"prompt":"hi","stream":true,)" + to_metaserver(metaserver.url) + "}";
  const std::string request =
      "POST /v1/completions HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  http::RawClient streams(door.at());
  streams.send(request);
  ASSERT_TRUE(becomes([&] { return metaserver.heard().size() == 1; }));
  door.deliver(says("ok")(std::get<engine::Submit>(door.posted()[0]).request));
  const std::string answer = streams.read_to_end();
  EXPECT_EQ(answer.substr(9, 3), "200");
  EXPECT_NE(answer.find("[DONE]"), std::string::npos) << answer;
  EXPECT_EQ(answer.find("X-Baton-Kv-Unused"), std::string::npos) << answer;
  EXPECT_TRUE(becomes([&] { return metaserver.left() == 1; }));

  http::RawClient fails(door.at());
  fails.send(request);
  ASSERT_TRUE(becomes([&] { return metaserver.heard().size() == 2; }));
  const RequestId id = std::get<engine::Submit>(door.posted().back()).request.id;
  door.deliver({engine::FailedEvent{.request = id, .error = {Code::kUnavailable, "hand-over: no"}}});
  EXPECT_EQ(fails.read_to_end().substr(9, 3), "503");
}

TEST(Layerwise, AMetaserverThatSendsNobodyIsToldToTheEngineAndItsWordsStayHere) {
  Metaservers metaserver(404);
  Door door(reserves());
  make_layerwise(door);
  http::RawClient client(door.at());
  const std::string body = R"({"prompt":"hi",)" + to_metaserver(metaserver.url) + "}";
  client.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n" + body);
  ASSERT_TRUE(becomes([&] { return door.posted().size() == 2; }));
  const auto posted = door.posted();
  const auto* refused = std::get_if<engine::ReservationRefused>(&posted[1]);
  ASSERT_NE(refused, nullptr);
  EXPECT_EQ(refused->transfer, std::get<engine::Submit>(posted[0]).request.transfer);
  EXPECT_NE(refused->error.message.find("it answers 404"), std::string::npos) << refused->error.message;
  EXPECT_EQ(refused->error.message.find("from the metaserver"), std::string::npos) << refused->error.message;
}

}  // namespace
}  // namespace baton::serve
