// The layer-wise order as traces: what the shell reports, "=> " what the flow says, one step a line.
#include "router/layerwise_flow.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <sstream>

namespace baton::router {
namespace {

constexpr Time kNow{std::chrono::seconds(1)};
constexpr Incarnation kIncarnations[] = {Incarnation{{1, 1}}, Incarnation{{2, 2}}};

api::InstanceIdentity identity(api::Role role, Incarnation incarnation) {
  api::InstanceIdentity one;
  one.protocol = api::kHandoverProtocol;
  one.role = role;
  one.hands_over = true;
  one.incarnation = incarnation;
  one.order = api::HandoverOrder::kLayerwise;
  return one;
}

std::string post_of(std::string_view id, std::optional<Incarnation> incarnation) {
  std::string text = fmt::format(R"({{"request_id":"{}","do_remote_decode":true,"remote_block_ids":[1,2],)"
                                 R"("remote_host":"d","remote_port":7)",
                                 id);
  if (incarnation) {
    text += fmt::format(R"(,"baton":{{"protocol":{},"landing":{{"transfer_id":"{}","incarnation":"{}"}}}})",
                        api::kHandoverProtocol, TransferId{{9}}.hex(), incarnation->hex());
  }
  return text + "}";
}

// Two P (p:1, p:2) and two D (d:1, d:2).
class Play {
 public:
  Play(bool baton, Route route, std::string_view body, int32_t attempts = 3) : baton_(baton) {
    for (uint16_t i = 0; i < 2; ++i) {
      const auto p = registry_.add(Side::kPrefill, "p", static_cast<uint16_t>(1 + i), kNow);
      const auto d = registry_.add(Side::kDecode, "d", static_cast<uint16_t>(1 + i), kNow);
      const auto says = [&](api::Role role) {
        return baton ? std::optional(identity(role, kIncarnations[i])) : std::nullopt;
      };
      registry_.on_probe_ok(p, says(api::Role::kPrefill), kNow);
      registry_.on_probe_ok(d, says(api::Role::kDecode), kNow);
    }
    flow_ = std::make_unique<LayerwiseFlow>(registry_, FlowLimits{.attempts = attempts},
                                            *read_client_body(route, body), "id", 7,
                                            [](const Instance& d) { return "http://proxy/" + d.address(); });
  }

  Registry& registry() { return registry_; }
  LayerwiseFlow& flow() { return *flow_; }
  std::string asked;  // the body of the last request

  // Plays the left side of each line; returns the lines with what the flow said.
  std::string play(std::string_view script) {
    std::istringstream lines{std::string(script)};
    std::string line, told;
    while (std::getline(lines, line)) {
      const std::string input = line.substr(0, line.find(" => "));
      told += input + " => " + step(input) + cleanups() + "\n";
    }
    return told;
  }

  void expect_all_released() {
    for (const auto& instance : registry_.instances()) {
      EXPECT_EQ(instance->in_flight, 0U) << instance->address();
      EXPECT_EQ(instance->active_tokens, 0) << instance->address();
      EXPECT_EQ(instance->active_kv, 0) << instance->address();
    }
  }

 private:
  std::string step(const std::string& input) {
    std::istringstream words(input);
    std::string who, what;
    words >> who >> what;
    std::string rest;
    std::getline(words >> std::ws, rest);
    if (who == "start") return told(flow_->start(kNow));
    if (who == "gone") return flow_->on_client_gone(), flow_->outcome();
    if (who == "post") return post(what, rest);
    if (who == "P") return told(prefill(what, rest));
    if (who == "D") return decode(what, rest);
    return "what is " + input + "?";
  }

  std::string post(const std::string& id, const std::string& from) {
    std::optional<Incarnation> incarnation;
    if (baton_ && from != "nameless") incarnation = kIncarnations[from == "d:2" ? 1 : 0];
    const PostVerdict verdict =
        flow_->on_post(*read_metaserver_post(post_of(id, incarnation)), from != "stranger", kNow);
    if (verdict.begins) return told(*verdict.begins);
    return fmt::format("{} {}", verdict.status, verdict.detail);
  }

  PrefillStep prefill(const std::string& what, const std::string& rest) {
    if (what == "pause") return flow_->on_prefill_pause_done(kNow);
    if (what == "asked")
      return flow_->prefill_for_prompt(kNow).value_or(PrefillOver{false, "nobody need be asked"});
    if (what == "lost") return flow_->on_prefill(fail(Code::kUnavailable, "reset"), kNow);
    return flow_->on_prefill(UpstreamAnswer{std::stoi(what), rest}, kNow);
  }

  std::string decode(const std::string& what, const std::string& rest) {
    std::string out;
    if (what == "pause") return told(flow_->on_pause_done(kNow));
    if (what == "head") return told(flow_->on_decode_head());
    if (what == "lost") return told(flow_->on_decode_whole(fail(Code::kUnavailable, "reset"), kNow));
    if (what == "empty") return told(flow_->on_stream_end({}, kNow));
    if (what == "awaited") return told(flow_->on_prefill_over(kNow));
    if (what == "late") return flow_->on_prefill_late(), told(flow_->on_prefill_over(kNow));
    if (what == "event") {
      flow_->on_event("data: " + rest + "\n\n", rest, out);
      return flow_->waits() ? "waits" : one_line(out);
    }
    if (what == "resume") {
      const auto resumed = flow_->resume(out);
      return resumed ? (flow_->waits() ? "waits" : one_line(out)) : resumed.error().message;
    }
    if (what == "end") {
      return told(flow_->on_stream_end(
          rest == "cut" ? Result<void>(fail(Code::kUnavailable, "cut")) : Result<void>(), kNow));
    }
    return told(flow_->on_decode_whole(UpstreamAnswer{std::stoi(what), rest}, kNow));
  }

  static std::string one_line(std::string text) {
    for (size_t at = 0; (at = text.find("\n\n")) != std::string::npos;) text.replace(at, 2, "|");
    return text;
  }

  std::string address(InstanceId id) const { return registry_.find(id)->address(); }
  template <class Variant>
  std::string told(const Variant& step) {
    return std::visit([this](const auto& one) { return this->say(one); }, step);
  }
  std::string say(const AskDecode& ask) {
    asked = ask.body;
    return fmt::format("ask {} {}", address(ask.instance), flow_->post_id());
  }
  std::string say(const AskPrefill& ask) {
    asked = ask.body;
    const bool lands = ask.body.find("remote_host") != std::string::npos;
    return fmt::format("ask {} {}", address(ask.instance), lands ? "landing" : "prompt");
  }
  std::string say(const Pause& pause) { return fmt::format("pause {}ms", pause.duration.count() / 1000000); }
  std::string say(const Reply& reply) { return fmt::format("reply {} {}", reply.status, reply.body); }
  std::string say(const Relay&) { return "relay"; }
  std::string say(const Split&) { return "split"; }
  std::string say(const Wait&) { return "wait"; }
  std::string say(const AwaitPrefill&) { return "await"; }
  std::string say(const End& end) { return one_line(end.events) + flow_->outcome(); }
  std::string say(const PrefillOver& over) { return over.ok ? "ok" : "over: " + over.detail; }
  std::string cleanups() {
    std::string out;
    for (const Cleanup& cleanup : flow_->take_cleanups())
      out += fmt::format("; abort {}:{} {}", cleanup.host, cleanup.port, fmt::join(cleanup.ids, " "));
    return out;
  }

  bool baton_;
  Registry registry_;
  std::unique_ptr<LayerwiseFlow> flow_;
};

// Every line says what it is followed by.
void plays(Play& play, std::string_view script) {
  EXPECT_EQ(play.play(script), script);
  play.expect_all_released();
}
void plays(bool baton, std::string_view body, std::string_view script, int32_t attempts = 3) {
  Play play(baton, Route::kCompletions, body, attempts);
  plays(play, script);
}

TEST(LayerwiseFlow, NoDReservesBlocksThatNoPHasRoomToFill) {
  Registry registry({.in_flight_max = 1, .waiting_max = 1});
  registry.on_probe_ok(registry.add(Side::kPrefill, "p", 1, kNow),
                       identity(api::Role::kPrefill, kIncarnations[0]), kNow);
  for (const uint16_t port : std::array<uint16_t, 2>{1, 2}) {
    registry.on_probe_ok(registry.add(Side::kDecode, "d", port, kNow),
                         identity(api::Role::kDecode, kIncarnations[1]), kNow);
  }
  std::vector<std::unique_ptr<LayerwiseFlow>> flows;
  int woken = 0;
  for (const char* id : {"a", "b", "c"}) {
    flows.push_back(std::make_unique<LayerwiseFlow>(registry, FlowLimits{},
                                                    *read_client_body(Route::kCompletions, "{}"), id, 7,
                                                    [](const Instance&) { return "http://proxy"; }));
    flows.back()->set_wake([&woken] { ++woken; });
  }
  EXPECT_TRUE(std::holds_alternative<AskDecode>(flows[0]->start(kNow)));
  EXPECT_EQ(std::get<Wait>(flows[1]->start(kNow)).duration, FlowLimits{}.queue_timeout);
  EXPECT_EQ(std::get<Reply>(flows[2]->start(kNow)).status, 429);
  // P is taken now, not only promised.
  const auto post = *read_metaserver_post(post_of(flows[0]->post_id(), kIncarnations[1]));
  EXPECT_TRUE(std::holds_alternative<AskPrefill>(*flows[0]->on_post(post, true, kNow).begins));
  EXPECT_TRUE(std::holds_alternative<Wait>(flows[1]->on_room(kNow)));
  EXPECT_EQ(woken, 0);
  const PrefillStep over = flows[0]->on_prefill(UpstreamAnswer{200, R"({"choices":[]})"}, kNow);
  EXPECT_TRUE(std::get<PrefillOver>(over).ok);
  EXPECT_EQ(woken, 1);
  EXPECT_TRUE(std::holds_alternative<AskDecode>(flows[1]->on_room(kNow)));
  EXPECT_EQ(registry.queue().size(), 0U);
}

TEST(LayerwiseFlow, DIsAskedFirstAndItsPostBringsP) {
  plays(true, R"({"stream":true})",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-0 d:1 => ask p:1 landing
D head => relay
P 200 {"choices":[],"usage":{}} => ok
D event {"choices":[{}]} => data: {"choices":[{}]}|
D event [DONE] => data: [DONE]|
D end => ok
)");
}

TEST(LayerwiseFlow, DHearsOfTheMetaserverAndPOfThePostWithTheClientsLimits) {
  Play play(true, Route::kChat, R"({"messages":[],"max_tokens":50,"stream":true,"top_logprobs":1})");
  EXPECT_EQ(play.play("start => ask d:1 chatcmpl-id\n"), "start => ask d:1 chatcmpl-id\n");
  EXPECT_EQ(
      play.asked,
      R"({"messages":[],"max_tokens":50,"stream":true,"top_logprobs":1,"kv_transfer_params":)"
      R"({"do_remote_decode":false,"do_remote_prefill":true,"metaserver":"http://proxy/d:1"},"seed":7})");
  play.play("post chatcmpl-id d:1");
  EXPECT_NE(play.asked.find(R"("stream":false,"max_tokens":1,"min_tokens":1)"), std::string::npos)
      << play.asked;
  EXPECT_NE(play.asked.find(R"("remote_block_ids":[1,2],"remote_host":"d")"), std::string::npos)
      << play.asked;
  EXPECT_NE(play.asked.find(R"("client_max_tokens":50,"client_min_tokens":0)"), std::string::npos)
      << play.asked;
  EXPECT_NE(play.asked.find(R"("seed":7)"), std::string::npos) << play.asked;
}

TEST(LayerwiseFlow, AForeignPairGetsThePostAsItCameAndNoPromptLogprobsAtD) {
  Play play(false, Route::kCompletions, R"({"prompt":"x","prompt_logprobs":1})");
  play.play("start");
  EXPECT_EQ(play.asked, R"({"prompt":"x","kv_transfer_params":{"do_remote_decode":false,)"
                        R"("do_remote_prefill":true,"metaserver":"http://proxy/d:1"}})");
  play.play("post cmpl-id-0 d:1");
  EXPECT_EQ(play.asked, R"({"prompt":"x","prompt_logprobs":1,"kv_transfer_params":)" +
                            post_of("cmpl-id-0", std::nullopt) +
                            R"(,"stream":false,"max_tokens":1,"min_tokens":1})");
}

TEST(LayerwiseFlow, APostMustNameTheRequestAndComeFromTheChosenD) {
  plays(true, "{}",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-1 d:1 => 404 request_id: nobody waits for cmpl-id-1
post chatcmpl-id d:1 => 404 request_id: nobody waits for chatcmpl-id
post cmpl-id-0 d:2 => 403 incarnation: 02020000000000000000000000000000, expected 01010000000000000000000000000000 of the decode instance d:1
post cmpl-id-0 nameless => 403 incarnation: none, expected 01010000000000000000000000000000 of the decode instance d:1
gone => client_gone
post cmpl-id-0 d:1 => 404 request_id: nobody waits for cmpl-id-0
)");
  plays(false, "{}",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-0 stranger => 403 expected a post of the decode instance d:1
post cmpl-id-0 d:1 => ask p:1 landing
gone => client_gone
)");
}

TEST(LayerwiseFlow, ARepeatedPostHasTheResultOfTheFirstUnlessThatFailed) {
  plays(true, "{}",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-0 d:1 => ask p:1 landing
post cmpl-id-0 d:1 => 200 
P 200 {"choices":[]} => ok
post cmpl-id-0 d:1 => 200 
D 200 {"choices":[{}]} => reply 200 {"choices":[{}]}
)");
  plays(true, "{}",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-0 d:1 => ask p:1 landing
P 400 {} => over: prefill instance p:1: it answers 400
post cmpl-id-0 d:1 => ask p:2 landing
P 200 {"choices":[]} => ok
D 200 {"choices":[{}]} => reply 200 {"choices":[{}]}
)");
}

TEST(LayerwiseFlow, AnotherPIsTriedWhileDHasNotBegun) {
  plays(true, "{}",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-0 d:1 => ask p:1 landing
P lost => pause 1ms; abort p:1 id
P pause => ask p:2 landing
P 503 => over: prefill instance p:2: it answers 503
D 200 {"choices":[{}]} => reply 200 {"choices":[{}]}
)",
        2);
  plays(true, R"({"stream":true})",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-0 d:1 => ask p:1 landing
D head => relay
D event {"choices":[{}]} => data: {"choices":[{}]}|
P lost => over: prefill instance p:1: reset; abort p:1 id
D event [DONE] => data: [DONE]|
D end => ok
)");
}

TEST(LayerwiseFlow, WithoutAnyPABatonDGoesOnAlone) {
  Play play(true, Route::kCompletions, "{}");
  play.play("start");
  for (const auto& instance : play.registry().instances()) {
    if (instance->side == Side::kPrefill) play.registry().on_probe_failed(instance->id, "refused", kNow);
  }
  EXPECT_EQ(play.play("post cmpl-id-0 d:1"),
            "post cmpl-id-0 d:1 => over: no prefill instance can take the request (p:1: refused; p:2: "
            "refused)\n");
  EXPECT_FALSE(play.flow().gives_up_decode());
  plays(play, R"(D 200 {"choices":[{}]} => reply 200 {"choices":[{}]}
)");
}

TEST(LayerwiseFlow, AForeignDWouldWaitForEverAndIsLeftWithPsStatus) {
  Play play(false, Route::kCompletions, R"({"stream":true})", 1);
  EXPECT_EQ(play.play("start\nD head\npost cmpl-id-0 d:1\nP 400 {\"error\":{}}"),
            R"(start => ask d:1 cmpl-id-0
D head => relay
post cmpl-id-0 d:1 => ask p:1 landing
P 400 {"error":{}} => over: prefill instance p:1: it answers 400
)");
  EXPECT_TRUE(play.flow().gives_up_decode());
  EXPECT_EQ(play.play("D lost"), "D lost => reply 400 {\"error\":{}}\n");
  EXPECT_EQ(play.flow().outcome(), "p_failed");
  play.expect_all_released();
}

TEST(LayerwiseFlow, ADThatFailsBeforeItsFirstByteMeansANewRoundUnderAnotherName) {
  plays(true, "{}",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-0 d:1 => ask p:1 landing
D lost => pause 1ms; abort d:1 id; abort p:1 id
post cmpl-id-0 d:1 => ask p:2 landing
gone => client_gone; abort p:2 id
)");
}

TEST(LayerwiseFlow, APostOfARoundThatIsOverFindsNobody) {
  plays(true, R"({"stream":true})",
        R"(start => ask d:1 cmpl-id-0
D 503 busy => pause 1ms
D pause => ask d:2 cmpl-id.2-0
post cmpl-id-0 d:1 => 404 request_id: nobody waits for cmpl-id-0
post cmpl-id.2-0 d:2 => ask p:1 landing
D head => relay
P 200 {"choices":[]} => ok
D empty => pause 2ms
D pause => ask d:1 cmpl-id.3-0
D 500 {"error":1} => reply 500 {"error":1}
)");
}

TEST(LayerwiseFlow, DsRefusalHasItsTrueStatusAndPIsStopped) {
  plays(true, "{}",
        R"(start => ask d:1 cmpl-id-0
D 400 {"error":{}} => reply 400 {"error":{}}
)");
  plays(true, "{}",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-0 d:1 => ask p:1 landing
D 429 {} => reply 429 {}; abort p:1 id
)",
        1);
}

TEST(LayerwiseFlow, WhatADThatCannotBeResumedHasBegunEndsWithAnError) {
  plays(true, R"({"stream":true})",
        R"(start => ask d:1 cmpl-id-0
D head => relay
D event {"choices":[{}]} => data: {"choices":[{}]}|
D end cut => data: {"error":{"message":"the answer is not complete: decode instance d:1: cut","type":"ServiceUnavailableError","param":null,"code":503,"phase":"decode","instance":"d:1","retry":true}}|d_failed; abort d:1 id
)");
}

TEST(LayerwiseFlow, AClientThatLeavesEndsP) {
  plays(true, "{}",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-0 d:1 => ask p:1 landing
gone => client_gone; abort p:1 id
P lost => over: the request has gone another way
P pause => over: the request has gone another way
gone => client_gone
)");
}

TEST(LayerwiseFlow, PsCachedTokensAreWaitedForAndSoIsTheEndButNotForLong) {
  plays(true, R"({"stream":true})",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-0 d:1 => ask p:1 landing
D head => relay
D event {"choices":[{}]} => data: {"choices":[{}]}|
D event {"choices":[{}],"usage":{"prompt_tokens_details":{"cached_tokens":9}}} => waits
D resume => waits
P 200 {"choices":[],"usage":{"prompt_tokens_details":{"cached_tokens":4}}} => ok
D resume => data: {"choices":[{}],"usage":{"prompt_tokens_details":{"cached_tokens":4}}}|
D event [DONE] => data: [DONE]|
D end cut => ok
)");
  plays(true, R"({"stream":true,"timings":true})",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-0 d:1 => ask p:1 landing
D head => relay
D event {"choices":[{}],"timings":{}} => waits
P 200 {"choices":[],"usage":{}} => ok
D resume => data: {"choices":[{}],"timings":{}}|
D event [DONE] => data: [DONE]|
D end => ok
)");
  Play play(true, Route::kCompletions, "{}");
  play.play("start\npost cmpl-id-0 d:1");
  EXPECT_EQ(play.play("D 200 {\"choices\":[{}]}"), "D 200 {\"choices\":[{}]} => await\n");
  EXPECT_EQ(play.flow().prefill_wait(), LayerwiseFlow::kUsageWait);
  plays(play, "D late => reply 200 {\"choices\":[{}]}; abort p:1 id\n");
}

constexpr std::string_view kPsPrompt =
    R"({"choices":[{"logprobs":{"tokens":["a","b"],"token_logprobs":[null,-1],"top_logprobs":[null,{}],"text_offset":[0,1]}}],"usage":{"prompt_tokens":1}})";

TEST(LayerwiseFlow, AnEchoedPromptIsWaitedForBeforeTheFirstEvent) {
  Play play(true, Route::kCompletions, R"({"stream":true,"echo":true,"logprobs":1})");
  play.play("start\npost cmpl-id-0 d:1\nD head");
  EXPECT_EQ(play.flow().prefill_wait(), std::nullopt);
  plays(
      play,
      fmt::format(
          R"(D event {{"choices":[{{"index":0,"logprobs":{{"tokens":["c"],"token_logprobs":[-3]}}}}]}} => waits
P 200 {} => ok
D resume => data: {{"choices":[{{"index":0,"logprobs":{{"tokens":["a","c"],"token_logprobs":[null,-3],"text_offset":[0],"top_logprobs":[null]}}}}]}}|
D event [DONE] => data: [DONE]|
D end => ok
)",
          kPsPrompt));
}

TEST(LayerwiseFlow, ADThatNeededNobodyHasPAskedForThePromptAlone) {
  Play play(true, Route::kCompletions, R"({"stream":true,"echo":true,"logprobs":1})");
  plays(play, fmt::format(R"(start => ask d:1 cmpl-id-0
D head => relay
D event {{"choices":[{{"index":0,"logprobs":{{"token_logprobs":[-3]}}}}]}} => waits
P asked => ask p:1 prompt
P lost => pause 1ms; abort p:1 id
P pause => ask p:2 prompt
P 200 {} => ok
D resume => data: {{"choices":[{{"index":0,"logprobs":{{"token_logprobs":[null,-3],"text_offset":[0],"tokens":["a"],"top_logprobs":[null]}}}}]}}|
D event [DONE] => data: [DONE]|
D end => ok
)",
                          kPsPrompt));
  EXPECT_EQ(play.asked.find("kv_transfer_params"), std::string::npos) << play.asked;
  plays(true, R"({"prompt_logprobs":1})",
        R"(start => ask d:1 cmpl-id-0
D 200 {"choices":[{"index":0}]} => await
P asked => ask p:1 prompt
P 200 {"choices":[{"prompt_logprobs":[null]}]} => ok
D awaited => reply 200 {"choices":[{"index":0,"prompt_logprobs":[null]}]}
)");
}

TEST(LayerwiseFlow, ADThatComputedThePromptNeedsNoPForIt) {
  plays(true, R"({"prompt_logprobs":1})",
        R"(start => ask d:1 cmpl-id-0
post cmpl-id-0 d:1 => ask p:1 landing
P 400 {} => over: prefill instance p:1: it answers 400
D 200 {"choices":[{"prompt_logprobs":[null]}]} => reply 200 {"choices":[{"prompt_logprobs":[null]}]}
)");
  plays(true, R"({"stream":true,"echo":true,"logprobs":1})",
        R"(start => ask d:1 cmpl-id-0
D head => relay
D event {"choices":[{"logprobs":{"token_logprobs":[null,-3]}}]} => data: {"choices":[{"logprobs":{"token_logprobs":[null,-3]}}]}|
D event [DONE] => data: [DONE]|
D end => ok
)");
}

TEST(LayerwiseFlow, WhatTheClientAskedAboutThePromptIsNeverLeftOut) {
  Play play(true, Route::kCompletions, R"({"stream":true,"echo":true,"logprobs":1})", 1);
  EXPECT_EQ(play.play("start\nD head\nD event {\"choices\":[{\"index\":0}]}\nP asked\nP 500\nD resume"),
            R"(start => ask d:1 cmpl-id-0
D head => relay
D event {"choices":[{"index":0}]} => waits
P asked => ask p:1 prompt
P 500 => over: prefill instance p:1: it answers 500
D resume => the prompt's logprobs: no prefill instance answers
)");
  EXPECT_EQ(play.play("D empty").substr(0, 20), "D empty => reply 502");
  play.expect_all_released();
  plays(true, R"({"prompt_logprobs":1})",
        R"(start => ask d:1 cmpl-id-0
D 200 {"choices":[{"index":0}]} => await
P asked => ask p:1 prompt
P 500 {"error":2} => over: prefill instance p:1: it answers 500
D awaited => reply 502 {"error":2}
)",
        1);
}

TEST(LayerwiseFlow, ChoicesOfAForeignDAreSplitOrComputedByDAlone) {
  plays(false, R"({"n":2})",
        R"(start => split
)");
  plays(false, R"({"n":2,"best_of":2})",
        R"(start => ask d:1 
post cmpl-id-0 d:1 => 404 request_id: nobody waits for cmpl-id-0
D 200 {"choices":[{}]} => reply 200 {"choices":[{}]}
)");
  plays(true, R"({"n":2})",
        R"(start => ask d:1 cmpl-id-0
gone => client_gone
)");
}

TEST(LayerwiseFlow, WithoutAPairTheStatusIs503AndSaysWhy) {
  Play play(false, Route::kCompletions, "{}");
  for (const auto& instance : play.registry().instances()) {
    if (instance->side == Side::kPrefill) play.registry().on_probe_failed(instance->id, "refused", kNow);
  }
  const std::string told = play.play("start");
  EXPECT_TRUE(told.starts_with("start => reply 503")) << told;
  EXPECT_NE(told.find("no prefill instance fits it: p:1: refused; p:2: refused"), std::string::npos) << told;
}

TEST(MetaserverPost, NamesWhatIsWrongWithIt) {
  const std::pair<std::string_view, std::string_view> rows[] = {
      {"[]", "body"},
      {"{}", "request_id: missing"},
      {R"({"request_id":7})", "request_id: 7"},
      {R"({"request_id":"x","remote_port":70000})", "remote_port"},
      {R"({"request_id":"x","baton":{"protocol":1}})", "protocol: 1, expected 2"},
  };
  for (const auto& [body, word] : rows) {
    const auto post = read_metaserver_post(body);
    ASSERT_FALSE(post) << body;
    EXPECT_NE(post.error().message.find(word), std::string::npos) << post.error().message;
  }
}

TEST(Registry, EqualEngineIdsAreAWarningAndNoMore) {
  Registry registry;
  auto same = identity(api::Role::kBoth, kIncarnations[0]);
  same.engine_id = "0";
  registry.on_probe_ok(registry.add(Side::kPrefill, "p", 1, kNow), same, kNow);
  EXPECT_TRUE(registry.warnings().empty());
  registry.on_probe_ok(registry.add(Side::kDecode, "d", 1, kNow), same, kNow);
  EXPECT_EQ(
      registry.warnings(),
      std::vector<std::string>{"engine_id: 0 on p:1 and on d:1, expected one of its own on each instance"});
  EXPECT_TRUE(registry.ready(kNow));
}

TEST(Registry, TheOrderIsTheOperatorsWordOrWhatAllInstancesSay) {
  Registry registry;
  EXPECT_FALSE(registry.order());
  const auto p = registry.add(Side::kPrefill, "p", 1, kNow);
  const auto d = registry.add(Side::kDecode, "d", 1, kNow);
  EXPECT_NE(registry.order().error().message.find("it has not answered yet"), std::string::npos);
  registry.on_probe_ok(p, identity(api::Role::kPrefill, kIncarnations[0]), kNow);
  EXPECT_EQ(*registry.order(), api::HandoverOrder::kLayerwise);
  registry.on_probe_ok(d, std::nullopt, kNow);
  EXPECT_EQ(registry.order().error().message,
            "order: layerwise on p:1, pull on d:1, expected one order on all instances (or --order)");
  EXPECT_EQ(registry.refused_pairs().size(), 1U);
  registry.on_probe_failed(p, "gone", kNow);
  EXPECT_EQ(*registry.order(), api::HandoverOrder::kPull);
  registry.ask_order(api::HandoverOrder::kLayerwise);
  EXPECT_EQ(*registry.order(), api::HandoverOrder::kLayerwise);
  auto pull = identity(api::Role::kBoth, kIncarnations[1]);
  pull.order = api::HandoverOrder::kPull;
  registry.on_probe_ok(p, pull, kNow);
  registry.on_probe_ok(d, pull, kNow);
  ASSERT_EQ(registry.refused_pairs().size(), 1U);
  EXPECT_EQ(registry.refused_pairs()[0].reason, "order: pull on both instances, --order layerwise");
}

}  // namespace
}  // namespace baton::router
