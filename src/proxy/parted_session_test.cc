// Lists of prompts over sockets: a hand-over each, and one answer.
#include "proxy/parted_session.h"

#include "proxy/testing.h"
#include "router/parts.h"

namespace baton::proxy {
namespace {

ScriptedAnswer whole_of(std::string_view prompt) {
  return {.pieces = {fmt::format(
              R"({{"id":"cmpl-x","choices":[{{"index":0,"text":"{0}0"}},{{"index":1,"text":"{0}1"}}],)"
              R"("usage":{{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}}})",
              prompt)},
          .when = fmt::format("\"prompt\":\"{}\"", prompt)};
}

ScriptedAnswer stream_of(std::string_view prompt) {
  const auto event = [&](std::string_view text) {
    return fmt::format("data: {{\"choices\":[{{\"index\":0,\"text\":\"{}{}\"}}]}}\n\n", prompt, text);
  };
  return {.pieces = {event("0"), event("1"),
                     "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2,\"total_tokens\":2}}\n\n",
                     "data: [DONE]\n\n"},
          .is_stream = true,
          .when = fmt::format("\"prompt\":\"{}\"", prompt)};
}

TEST_F(SessionTest, AListOfPromptsIsAHandOverEachAndOneAnswer) {
  start();
  const std::vector<ScriptedAnswer> prefilled(4, kPrefilled);
  for (FakeInstance* p : {&p1_, &p2_}) p->script(prefilled);
  for (FakeInstance* d : {&d1_, &d2_}) d->script({whole_of("c"), whole_of("b"), whole_of("a")});
  const std::string answer = proxy_->post(R"({"prompt":["a","b","c"],"n":2})");
  EXPECT_EQ(status_of(answer), "200");
  std::string expected = R"({"id":"cmpl-x","choices":[)";
  for (int i = 0; i < 6; ++i)
    expected += fmt::format(R"({}{{"index":{},"text":"{}{}"}})", i == 0 ? "" : ",", i, "abc"[i / 2], i % 2);
  expected += R"(],"usage":{"prompt_tokens":6,"completion_tokens":9,"total_tokens":15,)"
              R"("prompt_tokens_details":{"cached_tokens":3}}})";
  EXPECT_TRUE(answer.ends_with("\r\n\r\n" + expected)) << answer << "\n" << expected;
  EXPECT_EQ(p1_.heard().size() + p2_.heard().size(), 3U);
  EXPECT_EQ(d1_.heard().size() + d2_.heard().size(), 3U);
  EXPECT_FALSE(p2_.heard().empty());
  EXPECT_TRUE(proxy_->is_idle());
  EXPECT_EQ(outcomes(), 1U);
}

TEST_F(SessionTest, TheStreamsOfAListMeetWithTheirOwnNumbersOneUsageAndOneDone) {
  start();
  const std::vector<ScriptedAnswer> prefilled(4, kPrefilled);
  for (FakeInstance* p : {&p1_, &p2_}) p->script(prefilled);
  for (FakeInstance* d : {&d1_, &d2_}) d->script({stream_of("c"), stream_of("b"), stream_of("a")});
  const std::string body = unchunked(
      proxy_->post(R"({"prompt":["a","b","c"],"stream":true,"stream_options":{"include_usage":true}})"));
  std::string rest = body;
  for (int i = 0; i < 3; ++i) {
    size_t after = 0;
    for (int k = 0; k < 2; ++k) {  // each prompt's own order holds
      const auto event =
          fmt::format("data: {{\"choices\":[{{\"index\":{},\"text\":\"{}{}\"}}]}}\n\n", i, "abc"[i], k);
      const size_t at = body.find(event, after);
      ASSERT_NE(at, std::string::npos) << event << body;
      after = at + 1;
      rest.erase(rest.find(event), event.size());
    }
  }
  EXPECT_EQ(
      rest,
      "data: {\"choices\":[],\"usage\":{\"completion_tokens\":6,\"total_tokens\":6}}\n\ndata: [DONE]\n\n");
  EXPECT_TRUE(proxy_->is_idle());
}

TEST_F(SessionTest, AClientThatLeavesEndsEveryPartOfItsList) {
  start();
  const std::vector<ScriptedAnswer> holds(router::kPartsAtOnce, kHolds);
  for (FakeInstance* p : {&p1_, &p2_}) p->script(holds);
  std::string list;
  for (size_t i = 0; i < router::kPartsAtOnce + 4; ++i) list += list.empty() ? "\"a\"" : ",\"a\"";
  http::RawClient client = proxy_->connect();
  client.send(RunningProxy::request("POST", "/v1/completions", fmt::format(R"({{"prompt":[{}]}})", list)));
  const auto heard = [&](const Hub&) {
    return p1_.heard().size() + p2_.heard().size() == router::kPartsAtOnce;
  };
  ASSERT_TRUE(proxy_->becomes(heard));
  client.close();
  EXPECT_TRUE(
      proxy_->becomes([&](const Hub&) { return p1_.left() + p2_.left() == int{router::kPartsAtOnce}; }));
  EXPECT_TRUE(proxy_->is_idle());
  EXPECT_TRUE(hears(p1_, "/abort_request"));
  proxy_->on_hub([](Hub& hub) {
    EXPECT_EQ(hub.metrics.outcomes["client_gone"], 1U);
    return 0;
  });
}

TEST_F(SessionTest, TheFirstPartThatFailsEndsTheOthersAndGivesTheStatus) {
  for (const bool stream : {false, true}) {
    start();
    const std::string no = R"({"error":{"message":"no"}})";
    for (FakeInstance* p : {&p1_, &p2_})
      p->script({{.holds = true, .when = R"("prompt":"a")"},
                 {.status = 400, .pieces = {no}, .when = R"("prompt":"b")"}});
    const std::string answer = proxy_->post(fmt::format(R"({{"prompt":["a","b"],"stream":{}}})", stream));
    EXPECT_EQ(status_of(answer), "400");
    EXPECT_TRUE(answer.ends_with(no)) << answer;
    EXPECT_TRUE(proxy_->becomes([&](const Hub&) { return p1_.left() + p2_.left() == 1; }));
    EXPECT_TRUE(proxy_->is_idle());
    EXPECT_EQ(outcomes(), 1U);
  }
}

TEST_F(SessionTest, APartThatFailsAfterTheFirstByteEndsTheStreamWithAnErrorEvent) {
  const std::vector<ScriptedAnswer> failures = {
      {.pieces = {"data: {\"choices\":[{\"index\":0}]}\n\n"}, .is_stream = true, .cut = true},
      {.pieces = {"data: {\"error\":{\"message\":\"no\"}}\n\n", "data: [DONE]\n\n"}, .is_stream = true},
  };
  for (ScriptedAnswer failure : failures) {
    start(options_with(&options::ProxyOptions::attempts, 1));
    failure.when = R"("prompt":"b")";
    const ScriptedAnswer endless{.pieces = {"data: {\"choices\":[{\"index\":0}]}\n\n"},
                                 .is_stream = true,
                                 .holds = true,
                                 .when = R"("prompt":"a")"};
    for (FakeInstance* p : {&p1_, &p2_}) p->script({kPrefilled, kPrefilled});
    for (FakeInstance* d : {&d1_, &d2_}) d->script({endless, failure});
    const std::string body = unchunked(proxy_->post(R"({"prompt":["a","b"],"stream":true})"));
    const size_t error = body.find("data: {\"error\":");
    ASSERT_NE(error, std::string::npos) << body;
    EXPECT_EQ(body.find("data: {\"error\":", error + 1), std::string::npos) << body;
    EXPECT_EQ(body.find("[DONE]"), std::string::npos) << body;
    // The other part has left its instance, if it had got there.
    const auto is_endless = [](const std::string& heard) { return heard.contains(R"("prompt":"a")"); };
    EXPECT_TRUE(proxy_->becomes([&](const Hub&) {
      const auto asked =
          std::ranges::count_if(d1_.heard(), is_endless) + std::ranges::count_if(d2_.heard(), is_endless);
      return d1_.left() + d2_.left() == asked;
    }));
    EXPECT_TRUE(proxy_->is_idle());
    proxy_->on_hub([](Hub& hub) {
      EXPECT_EQ(hub.metrics.outcomes["d_failed"], 1U);
      return 0;
    });
  }
}

}  // namespace
}  // namespace baton::proxy
