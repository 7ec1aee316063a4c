// A decode instance that says 200 and then nothing that is an answer: whoever asked is told so, with a true
// status where nothing has gone out yet.
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "api/testing.h"
#include "router/pull_flow.h"

namespace baton::router {
namespace {

constexpr Time kNow{std::chrono::seconds(1)};
const std::string kHeld =
    R"({"choices":[{"index":0}],"usage":{},"kv_transfer_params":{"remote_request_id":"held-1"}})";
const std::string kAnswer = R"({"choices":[{"index":0,"text":"x"}]})";
const std::vector<std::string> kNoAnswers = {"hello",
                                             "[]",
                                             "{}",
                                             R"({"text":"x"})",
                                             R"({"choices":"x"})",
                                             R"({"choices":{}})",
                                             R"({"choices":null})",
                                             R"({"choices":[1]})",
                                             R"({"choices":[{"index":0},"x"]})"};

// One request on its way to the second of two foreign D's, after the first one was asked.
class BrokenAnswer : public testing::Test {
 protected:
  void SetUp() override {
    registry_.emplace();
    d_.clear();
    const InstanceId p = registry_->add(Side::kPrefill, "p", 1, kNow);
    for (uint16_t port = 1; port <= 2; ++port) d_.push_back(registry_->add(Side::kDecode, "d", port, kNow));
    for (const InstanceId id : {p, d_[0], d_[1]}) registry_->on_probe_ok(id, std::nullopt, kNow);
  }
  PullFlow flow_of(std::string_view body, int32_t attempts) {
    return {*registry_, {.attempts = attempts}, *read_client_body(Route::kCompletions, body), "id", 7};
  }
  static void ask(PullFlow& flow) {
    EXPECT_TRUE(std::holds_alternative<AskPrefill>(flow.start(kNow)));
    EXPECT_TRUE(std::holds_alternative<AskDecode>(flow.on_prefill(UpstreamAnswer{200, kHeld}, kNow)));
  }
  static void hear(PullFlow& flow, const std::string& data, std::string& out) {
    flow.on_event("data: " + data + "\n\n", data, out);
  }
  void expect_all_released() {
    for (const auto& instance : registry_->instances()) EXPECT_EQ(instance->in_flight, 0U);
  }

  std::optional<Registry> registry_;
  std::vector<InstanceId> d_;
};

TEST_F(BrokenAnswer, OfOneWholeBodyIsA502ThatNamesTheInstance) {
  std::vector<std::string> bodies = kNoAnswers;
  bodies.emplace_back(R"({"choices":[]})");
  for (const std::string& body : bodies) {
    SetUp();
    PullFlow flow = flow_of(R"({"prompt":"x"})", 1);
    ask(flow);
    const Step end = flow.on_decode_whole(UpstreamAnswer{200, body}, kNow);
    ASSERT_TRUE(std::holds_alternative<Reply>(end)) << body;
    EXPECT_EQ(std::get<Reply>(end).status, 502) << body;
    const std::string& told = std::get<Reply>(end).body;
    EXPECT_NE(told.find("decode instance d:"), std::string::npos) << told;
    EXPECT_NE(told.find("BadGatewayError"), std::string::npos) << told;
    EXPECT_NE(told.find("expected"), std::string::npos) << told;
    EXPECT_EQ(flow.outcome(), "d_failed");
    expect_all_released();
  }
}

TEST_F(BrokenAnswer, OfAStreamGoesElsewhereWhileTheClientHasNothing) {
  for (const std::string& event : kNoAnswers) {
    SetUp();
    PullFlow flow = flow_of(R"({"prompt":"x","stream":true})", 2);
    ask(flow);
    flow.on_decode_head();
    std::string out;
    hear(flow, event, out);
    EXPECT_TRUE(flow.is_broken()) << event;
    hear(flow, kAnswer, out);  // too late
    EXPECT_EQ(out, "") << event;
    EXPECT_TRUE(std::holds_alternative<Pause>(flow.on_stream_end({}, kNow))) << event;
    EXPECT_TRUE(std::holds_alternative<AskDecode>(flow.on_pause_done(kNow)));
    flow.on_decode_head();
    hear(flow, event, out);
    const Step end = flow.on_stream_end({}, kNow);
    ASSERT_TRUE(std::holds_alternative<Reply>(end)) << event;
    EXPECT_EQ(std::get<Reply>(end).status, 502);
    EXPECT_NE(std::get<Reply>(end).body.find("decode instance d:"), std::string::npos)
        << event << std::get<Reply>(end).body;
    expect_all_released();
  }
}

TEST_F(BrokenAnswer, BehindAKeepAliveOrAUsageIsATypedErrorEvent) {
  for (const std::string& event : {std::string("hello"), std::string("[DONE]")}) {
    PullFlow flow = flow_of(R"({"prompt":"x","stream":true})", 2);
    ask(flow);
    flow.on_decode_head();
    std::string out;
    flow.on_event(": ping\n\n", "", out);
    hear(flow, R"({"choices":[],"usage":{}})", out);
    hear(flow, event, out);
    const Step end = flow.on_stream_end({}, kNow);
    ASSERT_TRUE(std::holds_alternative<End>(end)) << event;
    out += std::get<End>(end).events;
    EXPECT_TRUE(out.starts_with(": ping\n\ndata: {\"choices\":[],\"usage\":{}}\n\ndata: {\"error\":")) << out;
    EXPECT_NE(out.find(R"("phase":"decode","instance":"d:)"), std::string::npos) << out;
    EXPECT_EQ(out.find("data: [DONE]"), std::string::npos) << out;
    expect_all_released();
  }
}

TEST_F(BrokenAnswer, IsNoneOnceItHasBegun) {
  PullFlow flow = flow_of(R"({"prompt":"x","stream":true})", 1);
  ask(flow);
  flow.on_decode_head();
  std::string out;
  for (const std::string& data : {kAnswer, std::string(R"({"later":1})"), std::string("[DONE]")})
    hear(flow, data, out);
  EXPECT_FALSE(flow.is_broken());
  EXPECT_EQ(out, "data: " + kAnswer + "\n\ndata: {\"later\":1}\n\ndata: [DONE]\n\n");
  EXPECT_TRUE(std::holds_alternative<End>(flow.on_stream_end({}, kNow)));
  EXPECT_EQ(flow.outcome(), "ok");
}

}  // namespace
}  // namespace baton::router
