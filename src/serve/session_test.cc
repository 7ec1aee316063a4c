// Completions and chats from their body to their last byte, over real sockets.
#include "serve/door_testing.h"

#include <map>

namespace baton::serve {
namespace {

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

TEST(ChatContent, ThatIsMissingIsEmptyAsToolCallsComeBackWithoutAny) {
  Door door(says("abc"));
  const Reply reply = door.ask(
      "POST", "/v1/chat/completions",
      R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"4"}]})");
  EXPECT_EQ(reply.status, 200) << reply.body;
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

}  // namespace
}  // namespace baton::serve
