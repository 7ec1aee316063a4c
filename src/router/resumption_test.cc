// Answers that go on at another D, as traces: what the shell reports, "=> " what the flow says, one step a
// line. An event of D is written "INDEX:IDS TEXT", with "!" behind the ids of one that ends its choice; its
// note and its bytes are made of that.
#include "router/resumption.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>
#include <sstream>

#include "api/testing.h"
#include "router/layerwise_flow.h"
#include "router/pull_flow.h"

namespace baton::router {
namespace {

constexpr Time kNow{std::chrono::seconds(1)};
constexpr std::string_view kHead =
    R"("head":{"id":"cmpl-a","created":5,"seed":7,"cached_tokens":0,"digest":"00000000000000ff"},)";
const std::string kHeld =
    R"({"choices":[{"index":0}],"usage":{},"kv_transfer_params":{"do_remote_prefill":true,"remote_request_id":"held"}})";

// One P and three D (d:1 to d:3) that can resume.
class Play {
 public:
  explicit Play(api::HandoverOrder order, std::string_view body = R"({"stream":true})",
                int32_t resume = api::kResumeProtocol)
      : is_pull_(order == api::HandoverOrder::kPull) {
    auto identity = api::identity_of(api::Role::kPrefill);
    identity.order = order;
    identity.resume = resume;
    registry_.on_probe_ok(registry_.add(Side::kPrefill, "p", 1, kNow), identity, kNow);
    for (uint16_t i = 1; i <= 3; ++i) {
      identity.role = api::Role::kDecode;
      identity.incarnation = random_id<Incarnation>();
      d_.push_back(registry_.add(Side::kDecode, "d", i, kNow));
      registry_.on_probe_ok(d_.back(), identity, kNow);
    }
    auto client = *read_client_body(Route::kCompletions, body);
    if (is_pull_) {
      flow_ = std::make_unique<PullFlow>(registry_, FlowLimits{}, std::move(client), "id", 7);
    } else {
      flow_ = std::make_unique<LayerwiseFlow>(registry_, FlowLimits{}, std::move(client), "id", 7,
                                              [](const Instance&) { return "http://proxy"; });
    }
  }

  // Until D answers.
  void begin() {
    flow_->start(kNow);
    if (auto* pull = dynamic_cast<PullFlow*>(flow_.get())) pull->on_prefill(UpstreamAnswer{200, kHeld}, kNow);
    flow_->on_decode_head();
  }
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

  Registry& registry() { return registry_; }
  AnswerFlow& flow() { return *flow_; }
  InstanceId d(size_t number) const { return d_[number - 1]; }
  std::string asked;  // the last resume request

 private:
  std::string step(const std::string& input) {
    std::istringstream words(input);
    std::string who, what, rest;
    words >> who >> what;
    std::getline(words >> std::ws, rest);
    if (who == "event") return event(what, rest);
    if (who == "usage") return bytes(R"({"choices":[],"usage":{"a":1}})", R"({"choices":[]})");
    if (who == "done") return bytes("[DONE]", "");
    if (who == "bare") return bytes(R"({"choices":[{"index":0}]})", "");
    if (who == "error") return bytes(R"({"error":{}})", "");
    if (who == "end") return told(flow_->on_stream_end({}, kNow));
    if (who == "cut") return told(flow_->on_stream_end(fail(Code::kUnavailable, "cut"), kNow));
    if (who == "head") return told(flow_->on_decode_head());
    if (who == "lost") return told(flow_->on_decode_whole(fail(Code::kUnavailable, "refused"), kNow));
    if (who == "status")
      return told(flow_->on_decode_whole(UpstreamAnswer{std::stoi(what), R"({"error":{}})"}, kNow));
    if (who == "pause") return told(flow_->on_pause_done(kNow));
    if (who == "gone") return flow_->on_client_gone(), flow_->outcome();
    if (who == "returned") {
      std::string out;
      flow_->on_event(": baton returned\n\n", "", out);
      return out + told(flow_->on_stream_end({}, kNow));
    }
    return "what is " + input + "?";
  }
  // "0:17,4!" and a text.
  std::string event(const std::string& what, const std::string& text) {
    const size_t colon = what.find(':');
    std::string ids = what.substr(colon + 1);
    const bool ends = ids.ends_with('!');
    if (ends) ids.pop_back();
    const std::string note = fmt::format(R"({{{}"choices":[{{"index":{},"ids":[{}]{}}}]}})",
                                         std::exchange(is_first_, false) ? kHead : "", what.substr(0, colon),
                                         ids, ends ? R"(,"finished":true)" : "");
    return bytes(fmt::format(R"({{"choices":[{{"text":"{}"}}]}})", text), note);
  }
  std::string bytes(const std::string& data, const std::string& note) {
    std::string raw = note.empty() ? "" : ": baton " + note + "\n";
    raw += "data: " + data + "\n\n";
    std::string out;
    flow_->on_event(raw, data, out);
    if (out == "data: " + data + "\n\n") return "passed on";
    return out.empty() ? "nothing" : out;
  }

  std::string told(const Step& step) {
    if (const auto* ask = std::get_if<AskDecode>(&step)) {
      asked = ask->body;
      const size_t at = asked.find("\"baton_resume\":");
      is_first_ = at == asked.npos;  // else D has the head
      std::string said = at == asked.npos ? asked : asked.substr(asked.find("\"choices\":", at));
      said.pop_back();
      return fmt::format("ask {} {} {}{}", registry_.find(ask->instance)->address(), flow_->request_id(),
                         ask->notes ? "" : "without notes ", said);
    }
    if (const auto* pause = std::get_if<Pause>(&step))
      return fmt::format("pause {}ms", pause->duration.count() / 1000000);
    if (const auto* reply = std::get_if<Reply>(&step)) return fmt::format("reply {}", reply->status);
    if (std::holds_alternative<Relay>(step)) return "relay";
    if (const auto* end = std::get_if<End>(&step)) {
      return say(end->events) + flow_->outcome();
    }
    return fmt::format("step {}", step.index());
  }
  static std::string say(std::string_view events) {
    if (events.empty() || events == "data: [DONE]\n\n") return events.empty() ? "" : "[DONE] ";
    const auto event = api::parse_json_object(events.substr(6, events.size() - 8));
    const auto& error = event->at("error").as_object();
    return fmt::format("{} ({} {}, {}) ", std::string_view(error.at("message").as_string()),
                       std::string_view(error.at("phase").as_string()),
                       std::string_view(error.at("instance").as_string()),
                       error.at("retry").as_bool() ? "try again" : "no use");
  }
  std::string cleanups() {
    std::string out;
    for (const Cleanup& cleanup : flow_->take_cleanups())
      out += fmt::format("; abort {}:{} {}", cleanup.host, cleanup.port, fmt::join(cleanup.ids, " "));
    return out;
  }

  bool is_pull_;
  Registry registry_;
  std::vector<InstanceId> d_;
  std::unique_ptr<AnswerFlow> flow_;
  bool is_first_ = true;
};

void plays(Play& play, std::string_view script) {
  EXPECT_EQ(play.play(script), script);
  play.expect_all_released();
}

// What is lost in the middle is the same in both orders.
class InBothOrders : public testing::TestWithParam<api::HandoverOrder> {
 protected:
  void plays_on(std::string_view body, std::string_view script) {
    Play play(GetParam(), body);
    play.begin();
    plays(play, script);
  }
};
INSTANTIATE_TEST_SUITE_P(Resumption, InBothOrders,
                         testing::Values(api::HandoverOrder::kPull, api::HandoverOrder::kLayerwise),
                         [](const auto& order) { return std::string(api::order_name(order.param)); });

TEST_P(InBothOrders, AnAnswerGoesOnAtAnotherDWithTheIdsOfTheEventsThatTheClientHas) {
  plays_on(R"({"stream":true})",
           R"(event 0:17 a => passed on
event 0:4,5 b => passed on
cut => ask d:2 id.r1 "choices":[{"token_ids":[17,4,5],"begun":true,"finished":false}],"usage_sent":false}; abort d:1 id
head => relay
event 0:6! c => passed on
done => passed on
end => ok
)");
}

TEST_P(InBothOrders, TheRequestIsTheClientsOwnAndWhatWasSaid) {
  Play play(GetParam(), R"({"prompt":"x","stream":true,"max_tokens":9,"baton_resume":{"evil":1}})");
  play.begin();
  play.play("event 0:17 a\nend");
  EXPECT_EQ(play.asked,
            R"({"prompt":"x","stream":true,"max_tokens":9,"seed":7,"baton_resume":)"
            R"({"head":{"id":"cmpl-a","created":5,"seed":7,"cached_tokens":0,"digest":"00000000000000ff"},)"
            R"("choices":[{"token_ids":[17],"begun":true,"finished":false}],"usage_sent":false}})");
  play.flow().on_client_gone();
  play.expect_all_released();
}

TEST_P(InBothOrders, EveryChoiceGoesOnFromWhereItStands) {
  plays_on(R"({"stream":true,"n":3})",
           R"(event 0: a => passed on
event 1:8! b => passed on
cut => ask d:2 id.r1 "choices":[{"token_ids":[],"begun":true,"finished":false},{"token_ids":[8],"begun":true,"finished":true}],"usage_sent":false}; abort d:1 id
head => relay
event 2:1 c => passed on
cut => ask d:3 id.r2 "choices":[{"token_ids":[],"begun":true,"finished":false},{"token_ids":[8],"begun":true,"finished":true},{"token_ids":[1],"begun":true,"finished":false}],"usage_sent":false}; abort d:2 id.r1
gone => client_gone
)");
}

TEST_P(InBothOrders, ADThatDoesNotGoOnIsReplacedToo) {
  plays_on(R"({"stream":true})",
           R"(event 0:17 a => passed on
cut => ask d:2 id.r1 "choices":[{"token_ids":[17],"begun":true,"finished":false}],"usage_sent":false}; abort d:1 id
status 503 => ask d:3 id.r2 "choices":[{"token_ids":[17],"begun":true,"finished":false}],"usage_sent":false}; abort d:2 id.r1
lost => ask d:2 id.r3 "choices":[{"token_ids":[17],"begun":true,"finished":false}],"usage_sent":false}; abort d:3 id.r2
head => relay
end => the answer is not complete: decode instance d:2: its stream ended without [DONE]; the answer has gone on elsewhere 3 times already (decode d:2, try again) d_failed; abort d:2 id.r3
)");
}

TEST_P(InBothOrders, ARefusalToGoOnEndsTheStreamAndARetryMakesNoSense) {
  plays_on(R"({"stream":true})",
           R"(event 0:17 a => passed on
cut => ask d:2 id.r1 "choices":[{"token_ids":[17],"begun":true,"finished":false}],"usage_sent":false}; abort d:1 id
status 400 => the answer is not complete: decode instance d:2: it does not go on with the answer: 400 {"error":{}} (decode d:2, no use) d_failed
)");
}

TEST_P(InBothOrders, WhereOnlyTheEndIsMissingNobodyIsAsked) {
  plays_on(R"({"stream":true,"n":2})",
           R"(event 1:8! b => passed on
event 0:17! a => passed on
cut => [DONE] ok; abort d:1 id
)");
  plays_on(R"({"stream":true,"stream_options":{"include_usage":true}})",
           R"(event 0:17! a => passed on
usage => passed on
cut => [DONE] ok; abort d:1 id
)");
  plays_on(R"({"stream":true,"stream_options":{"include_usage":true}})",
           R"(event 0:17! a => passed on
cut => ask d:2 id.r1 "choices":[{"token_ids":[17],"begun":true,"finished":true}],"usage_sent":false}; abort d:1 id
head => relay
usage => passed on
done => passed on
cut => ok
)");
}

TEST_P(InBothOrders, AnEventWithoutANoteAndAnErrorOfDAreNotGoneOnFrom) {
  plays_on(R"({"stream":true})",
           R"(event 0:17 a => passed on
bare => passed on
cut => the answer is not complete: decode instance d:1: cut (decode d:1, try again) d_failed; abort d:1 id
)");
  plays_on(R"({"stream":true})",
           R"(event 0:17 a => passed on
error => passed on
cut => d_failed
)");
}

TEST_P(InBothOrders, ARequestThatIsGivenBackGoesOnElsewhereAndIsNobodysFailure) {
  Play play(GetParam());
  play.begin();
  plays(play,
        R"(event 0:17 a => passed on
returned => ask d:2 id.r1 "choices":[{"token_ids":[17],"begun":true,"finished":false}],"usage_sent":false}
head => relay
returned => pause 1ms
pause => ask d:3 id.r2 "choices":[{"token_ids":[17],"begun":true,"finished":false}],"usage_sent":false}
head => relay
event 0:4 b => passed on
returned => ask d:1 id.r3 "choices":[{"token_ids":[17,4],"begun":true,"finished":false}],"usage_sent":false}
head => relay
event 0:5! c => passed on
done => passed on
end => ok
)");
  for (const size_t number : {1U, 2U, 3U}) EXPECT_EQ(play.registry().find(play.d(number))->failures, 0U);
}

TEST_P(InBothOrders, ARequestThatIsGivenBackBeforeItsFirstWordBeginsElsewhere) {
  plays_on(R"({"stream":true})",
           R"(returned => ask d:2 id.r1 {"stream":true,"seed":7
head => relay
event 0:17! a => passed on
done => passed on
end => ok
)");
}

TEST_P(InBothOrders, WhoGivesBackWithoutEndIsNotAskedForEver) {
  Play play(GetParam());
  play.begin();
  play.play("event 0:17 a\nreturned\n");
  std::string last;
  for (int32_t i = 0; i < kReturnsMax; ++i) last = play.play("head\nreturned\npause");
  EXPECT_NE(last.find("it has no memory for the request"), std::string::npos) << last;
  EXPECT_EQ(play.flow().outcome(), "d_failed");
}

TEST_P(InBothOrders, OnlyADThatReadsAndDrawsTheSameGoesOn) {
  Play play(GetParam());
  play.begin();
  auto other = *play.registry().find(play.d(2))->identity;
  other.fingerprint = "another";
  play.registry().on_probe_ok(play.d(2), other, kNow);
  play.registry().on_probe_ok(play.d(3), std::nullopt, kNow);
  plays(play,
        R"(event 0:17 a => passed on
cut => the answer is not complete: decode instance d:1: cut; no decode instance can go on with it (d:1: cut; d:2: fingerprint: another, expected f as where the answer began; d:3: it is no Baton instance) (decode d:1, try again) d_failed; abort d:1 id
)");
}

TEST(Resumption, AnInstanceThatCannotIsNotAskedForNotes) {
  for (const int32_t resume : {0, api::kResumeProtocol}) {
    Play play(api::HandoverOrder::kPull, R"({"stream":true})", resume);
    play.flow().start(kNow);
    auto& flow = dynamic_cast<PullFlow&>(play.flow());
    const Step ask = flow.on_prefill(UpstreamAnswer{200, kHeld}, kNow);
    EXPECT_EQ(std::get<AskDecode>(ask).notes, resume != 0);
    flow.on_client_gone();
  }
  Play whole(api::HandoverOrder::kLayerwise, "{}");
  EXPECT_FALSE(std::get<AskDecode>(whole.flow().start(kNow)).notes);
  whole.flow().on_client_gone();
}

TEST(Resumption, WhatIsKeptBackForPOfAnAnswerThatIsLostHasNotGoneOut) {
  Play play(api::HandoverOrder::kLayerwise, R"({"stream":true,"stream_options":{"include_usage":true}})");
  auto& flow = dynamic_cast<LayerwiseFlow&>(play.flow());
  play.begin();
  const auto post = *read_metaserver_post(
      fmt::format(R"({{"request_id":"cmpl-id-0","baton":{{"protocol":{},"landing":{{"transfer_id":"{}",)"
                  R"("incarnation":"{}"}}}}}})",
                  api::kHandoverProtocol, TransferId{{9}}.hex(),
                  play.registry().find(play.d(1))->identity->incarnation.hex()));
  ASSERT_TRUE(flow.on_post(post, true, kNow).begins);
  EXPECT_EQ(play.play("event 0:17! a"), "event 0:17! a => passed on\n");
  std::string out;
  const std::string usage = R"({"choices":[],"usage":{"prompt_tokens_details":{"cached_tokens":9}}})";
  flow.on_event(": baton {\"choices\":[]}\ndata: " + usage + "\n\n", usage, out);
  ASSERT_TRUE(flow.waits());
  EXPECT_EQ(
      play.play("cut"),
      R"(cut => ask d:2 id.r1 "choices":[{"token_ids":[17],"begun":true,"finished":true}],"usage_sent":false}; abort d:1 id)"
      "\n");
  EXPECT_FALSE(flow.waits());
  EXPECT_EQ(flow.post_id(), "");
  // P's answer is still good for its part.
  ASSERT_TRUE(
      std::get<PrefillOver>(
          flow.on_prefill(
              UpstreamAnswer{200, R"({"choices":[],"usage":{"prompt_tokens_details":{"cached_tokens":4}}})"},
              kNow))
          .ok);
  flow.on_decode_head();
  flow.on_event(": baton {\"choices\":[]}\ndata: " + usage + "\n\n", usage, out);
  EXPECT_EQ(out, "data: {\"choices\":[],\"usage\":{\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n");
  EXPECT_EQ(play.play("cut"), "cut => [DONE] ok; abort d:2 id.r1\n");
  play.expect_all_released();
}

TEST(Notes, AreTakenOutOfAnEventWhereverTheyStandAndNothingElseIs) {
  struct Row {
    std::string_view raw, left, note;
  };
  for (const Row& row : {
           Row{"data: {}\n\n", "data: {}\n\n", ""},
           Row{": baton {}\ndata: {}\n\n", "data: {}\n\n", ": baton {}"},
           Row{": baton {}\r\ndata: {}\r\n\r\n", "data: {}\r\n\r\n", ": baton {}"},
           Row{": baton returned\n\n", "", ": baton returned"},
           Row{": ping\n\n", ": ping\n\n", ""},
           Row{": batons\ndata: : baton {}\n\n", ": batons\ndata: : baton {}\n\n", ""},
           Row{"data: {}\n: baton {}\n\n", "data: {}\n\n", ""},
           Row{": baton a\n: baton b\ndata: {}\n\n", "data: {}\n\n", ": baton a"},
       }) {
    std::string kept;
    const HeardEvent event = without_notes(row.raw, kept);
    EXPECT_EQ(event.raw, row.left) << row.raw;
    EXPECT_EQ(event.note, row.note) << row.raw;
  }
}

}  // namespace
}  // namespace baton::router
