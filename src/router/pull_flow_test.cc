#include "router/pull_flow.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "api/testing.h"

namespace baton::router {
namespace {

constexpr Time kNow{std::chrono::seconds(1)};
const std::string kHeld =
    R"({"choices":[{"index":0}],"usage":{},"kv_transfer_params":{"do_remote_prefill":true,"remote_request_id":"held-1"}})";
const std::string kEnded =
    R"({"choices":[{"index":0,"finish_reason":"stop"}],"usage":{},"kv_transfer_params":null})";

// Two P and two D, all Baton instances unless said otherwise.
class PullFlowTest : public testing::Test {
 protected:
  explicit PullFlowTest(bool baton = true) {
    for (uint16_t i = 0; i < 2; ++i) {
      p_.push_back(registry_.add(Side::kPrefill, "p", static_cast<uint16_t>(1 + i), kNow));
      d_.push_back(registry_.add(Side::kDecode, "d", static_cast<uint16_t>(1 + i), kNow));
      registry_.on_probe_ok(p_.back(), baton ? std::optional(identity_of(api::Role::kPrefill)) : std::nullopt,
                            kNow);
      registry_.on_probe_ok(d_.back(), baton ? std::optional(identity_of(api::Role::kDecode)) : std::nullopt,
                            kNow);
    }
  }
  PullFlow flow(std::string_view body, int32_t attempts = 3) {
    return PullFlow(registry_, {.attempts = attempts}, *read_client_body(Route::kChat, body), "id", 7);
  }
  void expect_all_released() {
    for (const auto& instance : registry_.instances()) {
      EXPECT_EQ(instance->in_flight, 0U) << instance->address();
      EXPECT_EQ(instance->active_tokens, 0) << instance->address();
      EXPECT_EQ(instance->active_kv, 0) << instance->address();
    }
  }
  template <class T>
  static const T& as(const Step& step) {
    EXPECT_TRUE(std::holds_alternative<T>(step)) << "step " << step.index();
    return std::get<T>(step);
  }

  Registry registry_;
  std::vector<InstanceId> p_;
  std::vector<InstanceId> d_;
};

class ForeignPullFlowTest : public PullFlowTest {
 protected:
  ForeignPullFlowTest() : PullFlowTest(false) {}
};

TEST_F(PullFlowTest, AStreamGoesFromPToDAndReleasesBoth) {
  PullFlow f = flow(R"({"stream":true})");
  EXPECT_EQ(as<AskPrefill>(f.start(kNow)).instance, p_[0]);
  const Step ask = f.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
  EXPECT_NE(as<AskDecode>(ask).body.find("held-1"), std::string::npos);
  EXPECT_TRUE(f.relays(200));
  EXPECT_FALSE(f.relays(400));
  as<Relay>(f.on_decode_head());
  std::string out;
  f.on_event("data: {\"choices\":[{}]}\n\n", "{\"choices\":[{}]}", out);
  EXPECT_EQ(registry_.find(p_[0])->in_flight, 0U);  // D has the KV
  f.on_event("data: [DONE]\n\n", "[DONE]", out);
  out += as<End>(f.on_stream_end({}, kNow)).events;
  EXPECT_EQ(out, "data: {\"choices\":[{}]}\n\ndata: [DONE]\n\n");
  EXPECT_EQ(f.outcome(), "ok");
  EXPECT_TRUE(f.take_cleanups().empty());
  expect_all_released();
}

TEST_F(PullFlowTest, AnAnswerThatEndsWithItsFirstTokenNeverGoesToD) {
  PullFlow f = flow("{}");
  f.start(kNow);
  EXPECT_EQ(as<Reply>(f.on_prefill(UpstreamAnswer{200, kEnded}, kNow)).body, kEnded);
  EXPECT_EQ(registry_.find(d_[0])->requests, 0U);
  expect_all_released();
}

TEST_F(PullFlowTest, PsRefusalGoesToTheClientAsItIsAndIsNotTriedAgain) {
  for (const int status : {400, 401, 404, 413, 422}) {
    PullFlow f = flow("{}");
    f.start(kNow);
    const Step step = f.on_prefill(UpstreamAnswer{status, R"({"error":{"message":"no"}})"}, kNow);
    EXPECT_EQ(as<Reply>(step).status, status);
    EXPECT_EQ(as<Reply>(step).body, R"({"error":{"message":"no"}})");
    expect_all_released();
  }
}

TEST_F(PullFlowTest, FailuresOfPAreTriedOnAnotherPAsOftenAsAllowed) {
  PullFlow f = flow("{}", 2);
  const InstanceId first = as<AskPrefill>(f.start(kNow)).instance;
  as<Pause>(f.on_prefill(fail(Code::kUnavailable, "refused"), kNow));
  const Step second = f.on_pause_done(kNow);
  EXPECT_NE(as<AskPrefill>(second).instance, first);
  const Step end = f.on_prefill(UpstreamAnswer{429, ""}, kNow);
  EXPECT_EQ(as<Reply>(end).status, 429);
  EXPECT_EQ(as<Reply>(end).retry_after, "1");
  EXPECT_EQ(f.retries(), 1U);
  expect_all_released();
}

TEST_F(PullFlowTest, PausesDouble) {
  PullFlow f = flow("{}", 4);
  f.start(kNow);
  std::vector<Duration> pauses;
  for (int i = 0; i < 3; ++i) {
    pauses.push_back(as<Pause>(f.on_prefill(UpstreamAnswer{500, ""}, kNow)).duration);
    f.on_pause_done(kNow);
  }
  EXPECT_EQ(pauses, (std::vector<Duration>{std::chrono::milliseconds(1), std::chrono::milliseconds(2),
                                           std::chrono::milliseconds(4)}));
}

TEST_F(PullFlowTest, ADThatFailsBeforeItsFirstByteMeansANewPrefillAndTheOldKvIsGivenUp) {
  PullFlow f = flow("{}");
  f.start(kNow);
  const InstanceId first = as<AskDecode>(f.on_prefill(UpstreamAnswer{200, kHeld}, kNow)).instance;
  as<Pause>(f.on_decode_whole(fail(Code::kUnavailable, "reset"), kNow));
  const auto cleanups = f.take_cleanups();
  ASSERT_EQ(cleanups.size(), 2U);
  EXPECT_EQ(cleanups[1].instance, p_[0]);
  EXPECT_EQ(cleanups[1].ids, (std::vector<std::string>{"held-1"}));
  as<AskPrefill>(f.on_pause_done(kNow));
  EXPECT_NE(as<AskDecode>(f.on_prefill(UpstreamAnswer{200, kHeld}, kNow)).instance, first);
  as<Reply>(f.on_decode_whole(UpstreamAnswer{200, R"({"choices":[{}]})"}, kNow));
  expect_all_released();
}

TEST_F(PullFlowTest, DsRefusalHasItsTrueStatusAndPIsTold) {
  PullFlow f = flow(R"({"stream":true})");
  f.start(kNow);
  f.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
  const Step step = f.on_decode_whole(UpstreamAnswer{400, R"({"error":{"message":"too long"}})"}, kNow);
  EXPECT_EQ(as<Reply>(step).status, 400);
  const auto cleanups = f.take_cleanups();
  ASSERT_EQ(cleanups.size(), 1U);
  EXPECT_EQ(cleanups[0].instance, p_[0]);
  expect_all_released();
}

TEST_F(PullFlowTest, WhatADThatCannotBeResumedHasBegunEndsWithAnErrorAndNothingBehindIt) {
  PullFlow f = flow(R"({"stream":true})");
  f.start(kNow);
  f.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
  f.on_decode_head();
  std::string out;
  f.on_event("data: {\"choices\":[{}]}\n\n", R"({"choices":[{}]})", out);
  out += as<End>(f.on_stream_end(fail(Code::kUnavailable, "connection reset"), kNow)).events;
  EXPECT_EQ(out,
            R"(data: {"choices":[{}]}

data: {"error":{"message":"the answer is not complete: decode instance d:1: connection reset",)"
            R"("type":"ServiceUnavailableError","param":null,"code":503,"phase":"decode","instance":"d:1",)"
            R"("retry":true}})"
            "\n\n");
  EXPECT_EQ(f.outcome(), "d_failed");
  expect_all_released();
}

TEST_F(PullFlowTest, AStreamWithoutDoneIsAnErrorAndADOwnErrorIsNotDoubled) {
  PullFlow cut = flow(R"({"stream":true})");
  cut.start(kNow);
  cut.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
  cut.on_decode_head();
  std::string out;
  cut.on_event("data: {\"choices\":[{}]}\n\n", R"({"choices":[{}]})", out);
  out += as<End>(cut.on_stream_end({}, kNow)).events;
  EXPECT_NE(out.find("without [DONE]"), std::string::npos) << out;

  PullFlow own = flow(R"({"stream":true})");
  own.start(kNow);
  own.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
  own.on_decode_head();
  std::string events;
  own.on_event("data: {\"error\":{}}\n\n", "{\"error\":{}}", events);
  own.on_event("data: [DONE]\n\n", "[DONE]", events);
  events += as<End>(own.on_stream_end({}, kNow)).events;
  EXPECT_EQ(events, "data: {\"error\":{}}\n\ndata: [DONE]\n\n");
  EXPECT_EQ(own.outcome(), "d_failed");
  expect_all_released();
}

TEST_F(PullFlowTest, AClientThatLeavesIsToldToWhoeverWorksForIt) {
  PullFlow during_prefill = flow("{}");
  during_prefill.start(kNow);
  during_prefill.on_client_gone();
  auto cleanups = during_prefill.take_cleanups();
  ASSERT_EQ(cleanups.size(), 1U);
  EXPECT_EQ(cleanups[0].ids, std::vector<std::string>{"id"});

  PullFlow between = flow("{}");
  between.start(kNow);
  between.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
  between.on_client_gone();
  between.on_client_gone();
  cleanups = between.take_cleanups();
  ASSERT_EQ(cleanups.size(), 1U);
  EXPECT_EQ(cleanups[0].ids.back(), "held-1");
  EXPECT_EQ(between.outcome(), "client_gone");
  expect_all_released();
}

TEST_F(PullFlowTest, APWhoseKvWasNotFetchedIsToldOnce) {
  PullFlow f = flow("{}");
  f.start(kNow);
  f.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
  f.on_kv_unused();
  const auto cleanups = f.take_cleanups();
  ASSERT_EQ(cleanups.size(), 1U);
  EXPECT_EQ(cleanups[0].ids, std::vector<std::string>{"held-1"});
  EXPECT_EQ(as<Reply>(f.on_decode_whole(UpstreamAnswer{200, R"({"choices":[{}]})"}, kNow)).status, 200);
  EXPECT_TRUE(f.take_cleanups().empty());
  expect_all_released();
}

TEST_F(PullFlowTest, AnInstanceThatLeavesWithItsLastRequestIsStillToldThatItsClientLeft) {
  PullFlow f = flow("{}");
  f.start(kNow);
  f.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
  registry_.remove(Side::kPrefill, "p", 1);
  f.on_client_gone();
  EXPECT_EQ(registry_.find(p_[0]), nullptr);
  const auto cleanups = f.take_cleanups();
  ASSERT_EQ(cleanups.size(), 1U);
  EXPECT_EQ(cleanups[0].host, "p");
  EXPECT_EQ(cleanups[0].port, 1);
  EXPECT_EQ(cleanups[0].ids, std::vector<std::string>{"held-1"});
}

TEST_F(PullFlowTest, AnInstancesRetryAfterIsPassedOn) {
  PullFlow f = flow("{}", 1);
  f.start(kNow);
  const Step step = f.on_prefill(UpstreamAnswer{.status = 429, .body = "", .retry_after = "17"}, kNow);
  EXPECT_EQ(as<Reply>(step).status, 429);
  EXPECT_EQ(as<Reply>(step).retry_after, "17");
}

TEST_F(PullFlowTest, WhatBreaksAfterDoneIsNobodysBusiness) {
  PullFlow f = flow(R"({"stream":true})");
  f.start(kNow);
  f.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
  f.on_decode_head();
  std::string out;
  f.on_event("data: {\"choices\":[{}]}\n\n", R"({"choices":[{}]})", out);
  f.on_event("data: [DONE]\n\n", "[DONE]", out);
  out += as<End>(f.on_stream_end(fail(Code::kUnavailable, "connection reset"), kNow)).events;
  EXPECT_EQ(out, "data: {\"choices\":[{}]}\n\ndata: [DONE]\n\n");
  EXPECT_EQ(f.outcome(), "ok");
  EXPECT_TRUE(f.take_cleanups().empty());
  EXPECT_EQ(registry_.find(*f.decode_instance())->health, Health::kUp);
  expect_all_released();
}

TEST_F(PullFlowTest, AWholeAnswerThatIsNoneIsTriedElsewhereAndNeverA200) {
  for (const std::string_view body : {"", "oops", "[1]", "{\"choices\":"}) {
    PullFlow f = flow("{}", 2);
    f.start(kNow);
    const InstanceId first = as<AskDecode>(f.on_prefill(UpstreamAnswer{200, kHeld}, kNow)).instance;
    as<Pause>(f.on_decode_whole(UpstreamAnswer{200, std::string(body)}, kNow));
    EXPECT_NE(as<AskDecode>(f.on_pause_done(kNow)).instance, first);
    const Step end = f.on_decode_whole(UpstreamAnswer{200, std::string(body)}, kNow);
    EXPECT_EQ(as<Reply>(end).status, 502);
    EXPECT_NE(as<Reply>(end).body.find("decode instance d:"), std::string::npos) << as<Reply>(end).body;
    EXPECT_EQ(registry_.find(first)->health, Health::kUp);
    expect_all_released();
  }
}

TEST_F(PullFlowTest, AStreamThatEndsBeforeItsFirstEventIsTriedAgain) {
  PullFlow f = flow(R"({"stream":true})", 2);
  f.start(kNow);
  f.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
  f.on_decode_head();
  as<Pause>(f.on_stream_end({}, kNow));
  as<AskDecode>(f.on_pause_done(kNow));
  f.on_decode_head();
  const Step end = f.on_stream_end({}, kNow);
  EXPECT_EQ(as<Reply>(end).status, 502);
  EXPECT_NE(as<Reply>(end).body.find("before its first event"), std::string::npos) << as<Reply>(end).body;
  expect_all_released();
}

TEST_F(PullFlowTest, ErrorEventsAreKnownInEveryShapeAndTextIsNotTakenForOne) {
  const std::vector<std::pair<std::string, std::string>> rows = {
      {R"({"error":{"message":"x"}})", "d_failed"},
      {R"({ "error" : {"message":"x"}})", "d_failed"},
      {R"({"object":"error","message":"x"})", "d_failed"},
      {R"({"choices":[{"text":"{\"error\":1}"}]})", "ok"},
      {R"({"choices":[{}],"error":null})", "ok"},
  };
  for (const auto& [data, outcome] : rows) {
    PullFlow f = flow(R"({"stream":true})");
    f.start(kNow);
    f.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
    f.on_decode_head();
    std::string out;
    f.on_event("data: " + data + "\n\n", data, out);
    f.on_event("data: [DONE]\n\n", "[DONE]", out);
    out += as<End>(f.on_stream_end({}, kNow)).events;
    EXPECT_EQ(f.outcome(), outcome) << data;
  }
}

TEST_F(ForeignPullFlowTest, AForeignPIsFreedThroughD) {
  PullFlow f = flow("{}");
  f.start(kNow);
  f.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
  f.on_client_gone();
  const auto cleanups = f.take_cleanups();
  ASSERT_EQ(cleanups.size(), 1U);
  EXPECT_NE(cleanups[0].decode_body.find("held-1"), std::string::npos);
  expect_all_released();
}

TEST_F(ForeignPullFlowTest, AForeignPWithoutParametersLetsDPrefill) {
  PullFlow f = flow(R"({"kv_transfer_params":{"remote_host":"evil"}})");
  f.start(kNow);
  const Step step = f.on_prefill(UpstreamAnswer{200, kEnded}, kNow);
  EXPECT_EQ(as<AskDecode>(step).body, "{}");
}

TEST_F(ForeignPullFlowTest, ParametersOfAnEarlierRoundAreNotUsedAgain) {
  PullFlow f = flow("{}");
  f.start(kNow);
  EXPECT_NE(as<AskDecode>(f.on_prefill(UpstreamAnswer{200, kHeld}, kNow)).body.find("held-1"),
            std::string::npos);
  as<Pause>(f.on_decode_whole(fail(Code::kUnavailable, "reset"), kNow));
  as<AskPrefill>(f.on_pause_done(kNow));
  EXPECT_EQ(as<AskDecode>(f.on_prefill(UpstreamAnswer{200, kEnded}, kNow)).body, "{}");
  as<Reply>(f.on_decode_whole(UpstreamAnswer{200, R"({"choices":[{}]})"}, kNow));
  expect_all_released();
}

TEST_F(PullFlowTest, WhatBeginsAgainHasAnotherNameThatALateAbortDoesNotKnow) {
  PullFlow f = flow("{}");
  as<AskPrefill>(f.start(kNow));
  const std::string first = f.request_id();
  as<Pause>(f.on_prefill(fail(Code::kUnavailable, "reset"), kNow));
  const auto told = f.take_cleanups();
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].ids, std::vector{first});
  as<AskPrefill>(f.on_pause_done(kNow));
  EXPECT_EQ(f.request_id(), first + ".2");
  f.on_client_gone();
  EXPECT_EQ(f.take_cleanups().at(0).ids, std::vector{first + ".2"});
}

TEST_F(PullFlowTest, SeveralChoicesAreOneHandOverOnBatonInstances) {
  PullFlow f = flow(R"({"n":3})");
  EXPECT_NE(as<AskPrefill>(f.start(kNow)).body.find(R"("n":3)"), std::string::npos);
}

TEST_F(ForeignPullFlowTest, SeveralChoicesAreToBeSplitBeforeAnythingIsAsked) {
  for (const std::string_view body : {R"({"n":3})", R"({"n":"2"})", R"({"n":2.0})"}) {
    PullFlow f = flow(body);
    as<Split>(f.start(kNow));
    EXPECT_EQ(f.outcome(), "split");
    expect_all_released();
  }
  for (const std::string_view body :
       {R"({"n":1})", R"({"n":3,"use_beam_search":true})", R"({"n":2,"best_of":5})"}) {
    PullFlow f = flow(body);
    as<AskPrefill>(f.start(kNow));
  }
}

TEST_F(ForeignPullFlowTest, AForcedToolCallThatPFailsOnIsNotTriedAgainAndDAnswersAlone) {
  const std::string no = R"({"error":{"message":"Expecting value"}})";
  for (const std::string_view choice : {R"("required")", R"({"type":"function","function":{"name":"f"}})"}) {
    const std::string body = fmt::format(R"({{"tools":[{{}}],"tool_choice":{},"stream":true}})", choice);
    PullFlow f = flow(body);
    const InstanceId asked = as<AskPrefill>(f.start(kNow)).instance;
    const Step step = f.on_prefill(UpstreamAnswer{500, no}, kNow);
    EXPECT_EQ(as<AskDecode>(step).body, body);
    EXPECT_EQ(f.retries(), 0U);
    as<Relay>(f.on_decode_head());
    std::string out;
    f.on_event("data: {\"choices\":[{}],\"usage\":{\"cached_tokens\":9}}\n\n",
               "{\"choices\":[{}],\"usage\":{\"cached_tokens\":9}}", out);
    f.on_event("data: [DONE]\n\n", "[DONE]", out);
    out += as<End>(f.on_stream_end({}, kNow)).events;
    EXPECT_EQ(out, "data: {\"choices\":[{}],\"usage\":{\"cached_tokens\":9}}\n\ndata: [DONE]\n\n");
    EXPECT_EQ(f.outcome(), "ok");
    EXPECT_TRUE(registry_.find(asked)->fails_forced_tools);
    expect_all_released();
  }
  // Both are known by now, and are not asked for what strands their blocks; other requests they still get.
  PullFlow known = flow(R"({"tool_choice":"required"})");
  as<AskDecode>(known.start(kNow));
  known.on_client_gone();
  PullFlow other = flow(R"({"tool_choice":"auto"})");
  as<AskPrefill>(other.start(kNow));
  as<Pause>(other.on_prefill(UpstreamAnswer{500, no}, kNow));
}

TEST_F(PullFlowTest, A500ThatSaysThatTheRequestIsWrongIsNotTriedAgain) {
  const std::vector<std::pair<std::string, bool>> rows = {
      {R"({"error":{"message":"x","type":"BadRequestError","code":500}})", false},
      {R"({"error":{"message":"x","type":"invalid_request_error"}})", false},
      {R"({"object":"error","message":"x","code":400})", false},
      {R"({"error":{"message":"x","type":"InternalServerError","code":500}})", true},
      {"Internal Server Error", true},
      {"", true},
  };
  for (const auto& [body, again] : rows) {
    PullFlow p = flow("{}");
    p.start(kNow);
    EXPECT_EQ(std::holds_alternative<Pause>(p.on_prefill(UpstreamAnswer{500, body}, kNow)), again) << body;
    PullFlow d = flow("{}");
    d.start(kNow);
    d.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
    EXPECT_EQ(std::holds_alternative<Pause>(d.on_decode_whole(UpstreamAnswer{500, body}, kNow)), again)
        << body;
  }
}

TEST_F(PullFlowTest, OnlyWhatNoRequestCanBeToBlameForOpensABreaker) {
  struct Row {
    int status;
    std::string_view body;
    bool opens;
  };
  const std::string_view no = R"({"error":{"message":"no"}})";
  for (const Row& row : {Row{400, no, false}, Row{404, no, false}, Row{429, no, false}, Row{500, no, false},
                         Row{501, no, false}, Row{502, no, true}, Row{503, no, true}, Row{504, no, true},
                         Row{200, "garbage", true}}) {
    for (const bool at_d : {false, true}) {
      Registry registry;
      const InstanceId p = registry.add(Side::kPrefill, "p", 1, kNow);
      const InstanceId d = registry.add(Side::kDecode, "d", 1, kNow);
      registry.on_probe_ok(p, identity_of(api::Role::kPrefill), kNow);
      registry.on_probe_ok(d, identity_of(api::Role::kDecode), kNow);
      for (uint32_t i = 0; i < Breaker::kFailuresToOpen; ++i) {
        PullFlow f(registry, {.attempts = 1}, *read_client_body(Route::kChat, "{}"), "id", 7);
        as<AskPrefill>(f.start(kNow));
        const UpstreamAnswer failure{row.status, std::string(row.body)};
        if (at_d) f.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
        if (at_d) as<Reply>(f.on_decode_whole(failure, kNow));
        if (!at_d) f.on_prefill(failure, kNow);  // D may go on alone
        f.on_client_gone();
      }
      const auto state = [&](InstanceId id) { return registry.find(id)->breaker.state(kNow); };
      EXPECT_EQ(state(at_d ? d : p), row.opens ? Breaker::State::kOpen : Breaker::State::kClosed)
          << row.status << (at_d ? " of D" : " of P");
      EXPECT_EQ(state(at_d ? p : d), Breaker::State::kClosed);
    }
  }
}

TEST_F(PullFlowTest, AStreamThatEndsHalfwayCountsAtTheBreakerAndAWholeOneClosesIt) {
  registry_.remove(Side::kDecode, "d", 2);
  const auto stream = [&](bool whole, Time now) {
    PullFlow f = flow(R"({"stream":true})");
    f.start(now);
    as<AskDecode>(f.on_prefill(UpstreamAnswer{200, kHeld}, now));
    f.on_decode_head();
    std::string out;
    f.on_event("data: {\"choices\":[{}]}\n\n", R"({"choices":[{}]})", out);
    if (whole) f.on_event("data: [DONE]\n\n", "[DONE]", out);
    out += as<End>(f.on_stream_end({}, now)).events;
  };
  for (uint32_t i = 0; i < Breaker::kFailuresToOpen; ++i) stream(false, kNow);
  EXPECT_EQ(registry_.find(d_[0])->breaker.state(kNow), Breaker::State::kOpen);
  const Time later = kNow + Breaker::kPauseFirst;
  stream(true, later);
  EXPECT_EQ(registry_.find(d_[0])->breaker.state(later), Breaker::State::kClosed);
}

TEST_F(PullFlowTest, WithoutAnInstanceTheStatusIs503AndSaysWhy) {
  for (const InstanceId id : d_) registry_.on_probe_failed(id, "connection refused", kNow);
  PullFlow f = flow("{}");
  const Step step = f.start(kNow);
  EXPECT_EQ(as<Reply>(step).status, 503);
  EXPECT_NE(as<Reply>(step).body.find("no decode instance fits it"), std::string::npos)
      << as<Reply>(step).body;
}

// ---- the queue ----

// One P and one D with room for one request each; room for two that wait.
class QueueTest : public testing::Test {
 protected:
  QueueTest() {
    registry_.on_probe_ok(registry_.add(Side::kPrefill, "p", 1, kNow), std::nullopt, kNow);
    registry_.on_probe_ok(registry_.add(Side::kDecode, "d", 1, kNow), std::nullopt, kNow);
  }
  PullFlow& flow() {
    flows_.push_back(std::make_unique<PullFlow>(registry_,
                                                FlowLimits{.queue_timeout = std::chrono::seconds(7)},
                                                *read_client_body(Route::kChat, "{}"), "id", 7));
    flows_.back()->set_wake([this, i = flows_.size() - 1] { woken_.push_back(i); });
    return *flows_.back();
  }
  Registry registry_{RegistryOptions{.in_flight_max = 1, .waiting_max = 2}};
  std::vector<size_t> woken_;  // outlives the flows, which wake each other as they go
  std::vector<std::unique_ptr<PullFlow>> flows_;
};

TEST_F(QueueTest, WhoFindsNoRoomWaitsInOrderAndNobodyOvertakes) {
  PullFlow& first = flow();
  PullFlow& second = flow();
  PullFlow& third = flow();
  ASSERT_TRUE(std::holds_alternative<AskPrefill>(first.start(kNow)));
  EXPECT_EQ(std::get<Wait>(second.start(kNow)).duration, std::chrono::seconds(7));
  ASSERT_TRUE(std::holds_alternative<Wait>(third.start(kNow)));
  EXPECT_EQ(registry_.queue().size(), 2U);
  const Time later = kNow + std::chrono::seconds(3);
  EXPECT_EQ(std::get<Wait>(second.on_room(later)).duration, std::chrono::seconds(4));  // woken for nothing
  first.on_client_gone();
  EXPECT_EQ(woken_.front(), 1U);
  PullFlow& late = flow();  // there is room, for those who wait
  ASSERT_TRUE(std::holds_alternative<Reply>(late.start(later)));
  EXPECT_EQ(late.outcome(), "full");
  EXPECT_TRUE(std::holds_alternative<Wait>(third.on_room(later)));
  EXPECT_TRUE(std::holds_alternative<AskPrefill>(second.on_room(later)));
  EXPECT_EQ(woken_.back(), 2U);
  second.on_client_gone();
  EXPECT_TRUE(std::holds_alternative<AskPrefill>(third.on_room(later)));
  EXPECT_TRUE(registry_.queue().empty());
}

TEST_F(QueueTest, AFullQueueAndAWaitThatIsOverAre429WithRetryAfterBeforeAnythingIsAsked) {
  flow().start(kNow);
  PullFlow& waits = flow();
  waits.start(kNow);
  flow().start(kNow);
  const Step refused = flow().start(kNow);
  EXPECT_EQ(std::get<Reply>(refused).status, 429);
  EXPECT_EQ(std::get<Reply>(refused).retry_after, "1");
  EXPECT_NE(std::get<Reply>(refused).body.find("--max-waiting"), std::string::npos)
      << std::get<Reply>(refused).body;
  const Step over = waits.on_wait_over();
  EXPECT_EQ(std::get<Reply>(over).status, 429);
  EXPECT_NE(std::get<Reply>(over).body.find("--max-in-flight-per-instance"), std::string::npos)
      << std::get<Reply>(over).body;
  EXPECT_EQ(waits.outcome(), "full");
  EXPECT_EQ(registry_.queue().size(), 1U);
}

TEST_F(QueueTest, AClientThatLeavesTheQueueMakesTheNextOneFirst) {
  PullFlow& runs = flow();
  runs.start(kNow);
  PullFlow& leaves = flow();
  leaves.start(kNow);
  PullFlow& next = flow();
  next.start(kNow);
  leaves.on_client_gone();
  EXPECT_EQ(woken_.back(), 2U);
  EXPECT_TRUE(std::holds_alternative<Wait>(next.on_room(kNow)));
  runs.on_client_gone();
  EXPECT_TRUE(std::holds_alternative<AskPrefill>(next.on_room(kNow)));
}

TEST_F(QueueTest, AfterAPrefillNothingWaits) {
  PullFlow& f = flow();
  f.start(kNow);
  Demand one;
  const auto taken = registry_.reserve_decode(one, std::nullopt, {}, kNow);  // D is full by now
  EXPECT_TRUE(std::holds_alternative<AskDecode>(f.on_prefill(UpstreamAnswer{200, kHeld}, kNow)));
}

}  // namespace
}  // namespace baton::router
