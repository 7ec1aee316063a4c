#include "proxy/session.h"

#include "proxy/testing.h"

namespace baton::proxy {
namespace {

const std::string kStream =
    "data: {\"choices\":[{\"index\":0,\"text\":\"\xc3\xa9\"}]}\n\n: note\n\ndata: {\"choices\":[]}\r\n\r\n"
    "data: [DONE]\n\n";

TEST_F(SessionTest, AWholeAnswerHasPsPartAndNamesWhoDidWhat) {
  start();
  p1_.script({kPrefilled});
  d1_.script(
      {{.pieces = {
            R"({"choices":[{"index":0,"text":"y"}],"usage":{"prompt_tokens_details":{"cached_tokens":9}}})"}}});
  const std::string answer = proxy_->post(R"({"prompt":"x","prompt_logprobs":1})");
  EXPECT_EQ(status_of(answer), "200");
  EXPECT_NE(answer.find(R"("prompt_logprobs":[null,{"1":-0.1000000000000000001}])"), std::string::npos)
      << answer;
  EXPECT_NE(answer.find(R"("cached_tokens":1)"), std::string::npos) << answer;
  EXPECT_NE(answer.find(fmt::format("X-Baton-Prefill: 127.0.0.1:{}", p1_.port())), std::string::npos)
      << answer;
  EXPECT_NE(answer.find(fmt::format("X-Baton-Decode: 127.0.0.1:{}", d1_.port())), std::string::npos)
      << answer;
  EXPECT_TRUE(proxy_->is_idle());
  EXPECT_EQ(outcomes(), 1U);
}

TEST_F(SessionTest, AStreamIsTheSameBytesWhereverItsReadsWereCut) {
  start();
  for (size_t cut = 0; cut <= kStream.size(); ++cut) {
    for (FakeInstance* p : {&p1_, &p2_}) p->script({kPrefilled});
    for (FakeInstance* d : {&d1_, &d2_}) {
      std::vector<std::string> pieces;
      for (const std::string& piece : {kStream.substr(0, cut), kStream.substr(cut)})
        if (!piece.empty()) pieces.push_back(piece);
      d->script({{.pieces = pieces, .is_stream = true}});
    }
    const std::string answer = proxy_->post(R"({"prompt":"x","stream":true})");
    ASSERT_EQ(status_of(answer), "200");
    ASSERT_EQ(unchunked(answer), kStream) << "cut at " << cut;
  }
  EXPECT_TRUE(proxy_->is_idle());
}

TEST_F(SessionTest, EchoedLogprobsComeFromPInTheFirstEvent) {
  start();
  p1_.script({kPrefilled});
  d1_.script(
      {{.pieces =
            {"data: {\"choices\":[{\"index\":0,\"logprobs\":{\"tokens\":[\"c\"],\"token_logprobs\":[-3],"
             "\"top_logprobs\":[{}],\"text_offset\":[0]}}]}\n\n",
             "data: [DONE]\n\n"},
        .is_stream = true}});
  const std::string body =
      unchunked(proxy_->post(R"({"prompt":"x","stream":true,"echo":true,"logprobs":1})"));
  EXPECT_NE(body.find(R"("tokens":["a","c"])"), std::string::npos) << body;
  EXPECT_NE(body.find(R"("token_logprobs":[null,-3])"), std::string::npos) << body;
}

TEST_F(SessionTest, AClientThatLeavesDuringPrefillEndsItAndPStaysUp) {
  start();
  p1_.script({kHolds});
  d1_.script({});
  leave(R"({"prompt":"x"})", p1_);
  EXPECT_TRUE(hears(p1_, "/abort_request"));
  EXPECT_TRUE(d1_.heard().empty());
  proxy_->on_hub([](Hub& hub) {
    for (const auto& instance : hub.registry.instances()) {
      EXPECT_EQ(instance->health, router::Health::kUp) << instance->address();
      EXPECT_EQ(instance->failures, 0U);
    }
    EXPECT_EQ(hub.metrics.outcomes["client_gone"], 1U);
    return 0;
  });
}

TEST_F(SessionTest, AClientThatLeavesBeforeDsAnswerEndsDAndPIsTold) {
  for (const std::string_view body : {R"({"prompt":"x"})", R"({"prompt":"x","stream":true})"}) {
    start();
    p1_.script({kPrefilled});
    d1_.script({kHolds});
    leave(body, d1_);
    EXPECT_TRUE(hears(p1_, R"(/abort_request {"request_id":["held-1"]})"));
  }
}

TEST_F(SessionTest, AClientThatLeavesMidStreamEndsDAndPHasNothingLeftToFree) {
  start();
  p1_.script({kPrefilled});
  d1_.script({{.pieces = {"data: {\"choices\":[{}]}\n\n"}, .is_stream = true, .holds = true}});
  http::RawClient client = proxy_->connect();
  client.send(RunningProxy::request("POST", "/v1/completions", R"({"stream":true})"));
  client.read_until("\n\n");
  client.close();
  EXPECT_TRUE(proxy_->becomes([&](const Hub&) { return d1_.left() == 1; }));
  EXPECT_TRUE(proxy_->is_idle());
  EXPECT_EQ(p1_.heard().size(), 1U);
}

TEST_F(SessionTest, StatusesAreTheInstancesOwn) {
  struct Row {
    std::vector<ScriptedAnswer> of_p, of_d;
    std::string status, holds;
  };
  const std::string no = R"({"error":{"message":"no"}})";
  const std::vector<Row> rows = {
      {{{.status = 400, .pieces = {no}}}, {}, "400", no},
      {{{.status = 429, .pieces = {no}, .retry_after = "7"}}, {}, "429", "Retry-After: 7"},
      // D is asked to do P's work, and fails too.
      {{{.status = 503, .pieces = {"busy"}}}, {{.status = 503, .pieces = {"D too"}}}, "503", "D too"},
      {{{.pieces = {"garbage"}}}, {{.status = 503, .pieces = {"D too"}}}, "503", "D too"},
      {{kCut}, {{.status = 503, .pieces = {"D too"}}}, "503", "Retry-After: 1"},
      {{kPrefilled}, {{.status = 400, .pieces = {no}}}, "400", no},
      {{kPrefilled}, {{.status = 429, .pieces = {no}, .retry_after = "9"}}, "429", "Retry-After: 9"},
      {{kPrefilled}, {{.pieces = {""}}}, "502", "0 bytes is not a JSON object"},
      {{kPrefilled}, {{.pieces = {"garbage"}}}, "502", "decode instance"},
      {{kPrefilled}, {kCut}, "503", "decode instance"},
  };
  for (const Row& row : rows) {
    for (const bool stream : {false, true}) {
      if (stream && row.status == "502") continue;  // an empty stream: below
      start(options_with(&options::ProxyOptions::attempts, 1));
      p1_.script(row.of_p);
      d1_.script(row.of_d);
      const std::string answer = proxy_->post(fmt::format(R"({{"prompt":"x","stream":{}}})", stream));
      EXPECT_EQ(status_of(answer), row.status) << answer;
      EXPECT_NE(answer.find(row.holds), std::string::npos) << answer << "\nexpected " << row.holds;
      EXPECT_TRUE(proxy_->is_idle());
    }
  }
}

TEST_F(SessionTest, AFailureBeforeTheFirstByteGoesElsewhere) {
  const std::vector<std::vector<ScriptedAnswer>> firsts = {
      {kCut},
      {{.status = 500}},
      {{.is_stream = true}},
      {{.pieces = {"data: [DONE]\n\n"}, .is_stream = true}},
      {{.pieces = {"data: {\"cho"}, .is_stream = true, .cut = true}},
  };
  for (const auto& first : firsts) {
    start();
    for (FakeInstance* p : {&p1_, &p2_}) p->script({kPrefilled});
    d1_.script(first);
    d2_.script({{.pieces = {kStream}, .is_stream = true}});
    const std::string answer = proxy_->post(R"({"prompt":"x","stream":true})");
    EXPECT_EQ(unchunked(answer), kStream) << answer;
    EXPECT_EQ(d2_.heard().size(), 1U);
    EXPECT_TRUE(proxy_->is_idle());
  }
}

TEST_F(SessionTest, NothingGoesElsewhereAfterTheFirstByte) {
  start();
  p1_.script({kPrefilled});
  d1_.script({{.pieces = {"data: {\"choices\":[{}]}\n\n", "data: {"}, .is_stream = true, .cut = true}});
  d2_.script({});
  const std::string body = unchunked(proxy_->post(R"({"prompt":"x","stream":true})"));
  EXPECT_TRUE(body.starts_with("data: {\"choices\":[{}]}\n\ndata: {\"error\":")) << body;
  EXPECT_EQ(body.find("[DONE]"), std::string::npos) << body;
  EXPECT_TRUE(d2_.heard().empty());
  EXPECT_TRUE(proxy_->is_idle());
}

TEST_F(SessionTest, ARequestWaitsForRoomAndTheNextOneIsRefusedBeforeAnythingIsSpent) {
  options::ProxyOptions options;
  options.max_in_flight_per_instance = 1;
  options.max_waiting = 1;
  start(std::move(options));
  for (FakeInstance* p : {&p1_, &p2_}) p->script({kHolds, kPrefilled});
  for (FakeInstance* d : {&d1_, &d2_}) d->script({kAnswered});
  std::vector<http::RawClient> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(proxy_->connect());
    clients.back().send(RunningProxy::request("POST", "/v1/completions", "{}"));
    const auto asked = static_cast<size_t>(std::min(i + 1, 2));
    ASSERT_TRUE(proxy_->becomes([&](const Hub& hub) {
      return p1_.heard().size() + p2_.heard().size() == asked &&
             hub.registry.queue().size() == (i == 2 ? 1U : 0U);
    }));
  }
  const std::string refused = proxy_->post("{}");
  EXPECT_EQ(status_of(refused), "429");
  EXPECT_NE(refused.find("Retry-After: 1"), std::string::npos) << refused;
  EXPECT_NE(proxy_->ask("GET", "/metrics").find("requests_waiting"), std::string::npos);
  clients[0].close();
  EXPECT_EQ(status_of(clients[2].read_to_end()), "200");
  clients[1].close();
  EXPECT_TRUE(proxy_->is_idle());
}

TEST_F(SessionTest, AWaitThatIsTooLongIs429) {
  options::ProxyOptions options;
  options.max_in_flight_per_instance = 1;
  options.queue_timeout = std::chrono::milliseconds(20);
  start(std::move(options));
  for (FakeInstance* p : {&p1_, &p2_}) p->script({kHolds});
  std::vector<http::RawClient> clients;
  for (size_t i = 0; i < 2; ++i) {
    clients.push_back(proxy_->connect());
    clients.back().send(RunningProxy::request("POST", "/v1/completions", "{}"));
  }
  ASSERT_TRUE(proxy_->becomes([&](const Hub&) { return p1_.heard().size() + p2_.heard().size() == 2; }));
  const std::string refused = proxy_->post("{}");
  EXPECT_EQ(status_of(refused), "429");
  EXPECT_NE(refused.find("--queue-timeout"), std::string::npos) << refused;
  for (http::RawClient& client : clients) client.close();
  EXPECT_TRUE(proxy_->is_idle());
}

TEST_F(SessionTest, AddedInstancesAreLiveAfterTheirFirstProbeOrWaitAndAreGivenUpAsTold) {
  options::ProxyOptions options;
  options.waiting_attempts = 2;
  options.waiting_interval = std::chrono::milliseconds(50);
  start(std::move(options));
  FakeInstance more(identity_of(api::Role::kDecode));
  const std::string live = fmt::format("127.0.0.1:{}", more.port());
  const std::string answer = proxy_->ask(
      "POST", "/instances/add", fmt::format(R"({{"type":"decode","instances":["{}","[::1]:9"]}})", live));
  EXPECT_NE(answer.find(fmt::format(
                "add decode instances: ['{}']. Instances ['[::1]:9'] are waiting to be added.", live)),
            std::string::npos)
      << answer;
  EXPECT_TRUE(proxy_->becomes([](const Hub& hub) { return hub.registry.count(router::Side::kDecode) == 3; }));
  const std::string unknown = proxy_->ask("POST", "/instances/add", R"({"type":"x","instances":"h:1"})");
  EXPECT_EQ(status_of(unknown), "200");
  EXPECT_NE(unknown.find(R"({"error":"type: 'x')"), std::string::npos) << unknown;
  EXPECT_EQ(status_of(proxy_->ask("POST", "/instances/add", R"({"type":"decode","instances":"h"})")), "400");
}

TEST_F(SessionTest, AnAddedPrefillInstanceMayHaveABootstrapServer) {
  start();
  FakeInstance foreign;
  const auto add = [&](std::string_view type, std::string_view port) {
    return proxy_->ask("POST", "/instances/add",
                       fmt::format(R"({{"type":"{}","instances":"127.0.0.1:{}","bootstrap_port":{}}})", type,
                                   foreign.port(), port));
  };
  EXPECT_NE(add("decode", "8998").find("bootstrap_port: 8998, expected none"), std::string::npos);
  EXPECT_NE(add("prefill", "0").find("bootstrap_port: 0, expected an integer from 1 to 65535"),
            std::string::npos);
  EXPECT_EQ(status_of(add("prefill", "8998")), "200");
  EXPECT_EQ(proxy_->on_hub([](Hub& hub) { return hub.registry.instances().back()->bootstrap; }),
            "http://127.0.0.1:8998");
}

TEST_F(SessionTest, AnAddedInstanceThatLoadsForLongJoinsWhenItIsUp) {
  options::ProxyOptions options;
  options.waiting_interval =
      std::chrono::milliseconds(1);  // three of them are over before its first probe is
  start(std::move(options));
  FakeInstance slow(identity_of(api::Role::kDecode));
  slow.set_models_status(503);
  const std::string answer =
      proxy_->ask("POST", "/instances/add",
                  fmt::format(R"({{"type":"decode","instances":"127.0.0.1:{}"}})", slow.port()));
  EXPECT_NE(answer.find("are waiting to be added"), std::string::npos) << answer;
  for (int probes = 0; probes < 4; ++probes) {
    ASSERT_TRUE(proxy_->becomes([&](Hub& hub) {
      const auto& last = *hub.registry.instances().back();
      return last.is_waiting && last.health == router::Health::kDown;
    }));
    proxy_->on_hub([](Hub& hub) {
      hub.probe_now(hub.registry.instances().back()->id);
      return 0;
    });
  }
  slow.set_models_status(200);
  EXPECT_TRUE(proxy_->becomes([](Hub& hub) {
    const auto& last = *hub.registry.instances().back();
    return !last.is_waiting && last.health == router::Health::kUp;
  }));
}

TEST_F(SessionTest, OnlyAStreamIsCalledOne) {
  struct Row {
    std::vector<ScriptedAnswer> of_p, of_d;
    bool stream;
    std::string_view type;
  };
  constexpr std::string_view kSse = "text/event-stream; charset=utf-8";
  const std::string no = R"({"error":{"message":"no"}})";
  const ScriptedAnswer ended{.pieces = {R"({"choices":[{"index":0,"text":"y","finish_reason":"stop"}],)"
                                        R"("usage":{},"kv_transfer_params":null})"}};
  const std::vector<Row> rows = {
      {{kPrefilled}, {kAnswered}, false, "application/json"},
      {{kPrefilled}, {{.pieces = {kStream}, .is_stream = true}}, true, kSse},
      {{ended}, {}, false, "application/json"},
      {{ended}, {}, true, kSse},
      {{{.status = 400, .pieces = {no}}}, {}, true, "application/json"},
      {{kPrefilled}, {{.status = 400, .pieces = {no}}}, true, "application/json"},
  };
  for (const Row& row : rows) {
    start();
    p1_.script(row.of_p);
    d1_.script(row.of_d);
    const std::string answer = proxy_->post(fmt::format(R"({{"prompt":"x","stream":{}}})", row.stream));
    EXPECT_NE(answer.find(fmt::format("\r\nContent-Type: {}\r\n", row.type)), std::string::npos) << answer;
  }
}

TEST_F(SessionTest, ABodyThatIsNoRequestReservesNothing) {
  start();
  for (FakeInstance* p : {&p1_, &p2_}) p->script({});
  for (const std::string_view body : {"", "{", "[]", R"({"stream":"yes"})", "\xff\xfe"}) {
    const std::string answer = proxy_->post(body);
    EXPECT_EQ(status_of(answer), "400") << answer;
    EXPECT_NE(answer.find("\"error\""), std::string::npos) << answer;
    EXPECT_TRUE(proxy_->is_idle());
  }
  EXPECT_TRUE(p1_.heard().empty() && p2_.heard().empty());
  EXPECT_EQ(status_of(proxy_->ask("GET", "/health")), "200");
}

TEST_F(SessionTest, AStreamThatStopsIsEndedAfterTheIdleTimeoutAlthoughItsInstanceAnswersProbes) {
  options::ProxyOptions options;
  options.idle_timeout = std::chrono::milliseconds(50);
  start(std::move(options));
  p1_.script({kPrefilled});
  d1_.script({{.pieces = {"data: {\"choices\":[{}]}\n\n"}, .is_stream = true, .holds = true}});
  const std::string body = unchunked(proxy_->post(R"({"prompt":"x","stream":true})"));
  EXPECT_TRUE(body.starts_with("data: {\"choices\":[{}]}\n\ndata: {\"error\":")) << body;
  EXPECT_EQ(body.find("[DONE]"), std::string::npos) << body;
  EXPECT_TRUE(proxy_->becomes([&](const Hub&) { return d1_.left() == 1; }));
  EXPECT_TRUE(proxy_->is_idle());
}

TEST_F(SessionTest, APWhoseKvDDidNotFetchIsTold) {
  start();
  p1_.script({kPrefilled});
  d1_.script({{.pieces = {R"({"choices":[{}]})"}, .kv_unused = true}});
  EXPECT_EQ(status_of(proxy_->post(R"({"prompt":"x"})")), "200");
  EXPECT_TRUE(hears(p1_, R"(/abort_request {"request_id":["held-1"]})"));
}

TEST_F(SessionTest, AnInstanceWhoseRequestFailedIsProbedAtOnce) {
  start(options_with(&options::ProxyOptions::attempts, 1));
  p1_.script({kCut});
  d1_.script({{.status = 400, .pieces = {"{}"}}});
  EXPECT_EQ(status_of(proxy_->post("{}")), "400");
  EXPECT_TRUE(proxy_->becomes([](const Hub& hub) {
    return std::ranges::all_of(hub.registry.instances(),
                               [](const auto& i) { return i->health == router::Health::kUp; });
  }));
}

TEST_F(SessionTest, WhatIsAboveMaxInFlightIsRefused) {
  start(options_with(&options::ProxyOptions::max_in_flight, 0));
  const std::string answer = proxy_->post("{}");
  EXPECT_EQ(status_of(answer), "429");
  EXPECT_NE(answer.find("Retry-After: 1"), std::string::npos) << answer;
}

TEST_F(SessionTest, AnInstanceThatAsksForAKeyIsNamedWithTheRemedy) {
  for (const bool has_key : {false, true}) {
    options::ProxyOptions options;
    if (has_key) options.backend_api_key = "wrong";
    p1_.set_models_status(401);
    start(std::move(options));
    const std::string health = proxy_->ask("GET", "/healthcheck");
    EXPECT_NE(health.find("GET /v1/models answers 401: it asks for an API key"), std::string::npos) << health;
    EXPECT_NE(health.find(has_key ? "OPENAI_API_KEY is another" : "set the proxy's OPENAI_API_KEY"),
              std::string::npos)
        << health;
    EXPECT_NE(health.find("one is a Baton instance and the other is not"), std::string::npos) << health;
    p1_.set_models_status(200);
    proxy_->on_hub([](Hub& hub) {
      for (const auto& instance : hub.registry.instances()) hub.probe_now(instance->id);
      return 0;
    });
    EXPECT_TRUE(proxy_->becomes([](const Hub& hub) {
      return std::ranges::all_of(hub.registry.instances(),
                                 [](const auto& i) { return i->notice.empty() && i->identity.has_value(); });
    }));
  }
}

TEST_F(SessionTest, HealthSaysWhoIsDownAndReservesNothing) {
  start();
  EXPECT_EQ(status_of(proxy_->ask("GET", "/health")), "200");
  proxy_->on_hub([](Hub& hub) {
    for (const auto& instance : hub.registry.instances()) EXPECT_EQ(instance->requests, 0U);
    return 0;
  });
  for (FakeInstance* d : {&d1_, &d2_}) d->set_models_status(500);
  proxy_->on_hub([](Hub& hub) {
    for (const auto& instance : hub.registry.instances()) hub.probe_now(instance->id);
    return 0;
  });
  EXPECT_TRUE(proxy_->becomes([](const Hub& hub) { return !hub.registry.ready(hub.loop.now()); }));
  const std::string health = proxy_->ask("GET", "/health");
  EXPECT_EQ(status_of(health), "503");
  EXPECT_NE(health.find("GET /v1/models answers 500"), std::string::npos) << health;
  EXPECT_EQ(status_of(proxy_->post("{}")), "503");
}

}  // namespace
}  // namespace baton::proxy
