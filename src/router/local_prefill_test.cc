// Both orders where D computes the prompt: because a hand-over does not pay, or because every P is down.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "api/testing.h"
#include "router/layerwise_flow.h"
#include "router/pull_flow.h"

namespace baton::router {
namespace {

using std::chrono::milliseconds;
constexpr Time kNow{std::chrono::seconds(1)};
const std::string kHeld =
    R"({"choices":[{"index":0}],"usage":{},"kv_transfer_params":{"do_remote_prefill":true,"remote_request_id":"held-1"}})";
const std::string kAnswer =
    R"({"choices":[{}],"usage":{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":0}}})";

// What both orders' flows have in common, step by step as text.
template <class Flow>
class Told {
 public:
  template <class... Args>
  explicit Told(Registry& registry, Args&&... args)
      : flow(registry, std::forward<Args>(args)...), registry_(registry) {}

  template <class... Steps>
  std::string say(const std::variant<Steps...>& step) {
    return std::visit([this](const auto& one) { return this->word(one); }, step);
  }
  Flow flow;
  std::string body;  // of the last request

 private:
  std::string address(InstanceId id) { return registry_.find(id)->address(); }
  std::string word(const AskPrefill& ask) { return body = ask.body, "prefill " + address(ask.instance); }
  std::string word(const AskDecode& ask) {
    body = ask.body;
    const bool is_handover = body.find("kv_transfer_params") != std::string::npos;
    return fmt::format("decode {}{}", address(ask.instance), is_handover ? "" : " alone");
  }
  std::string word(const Pause&) { return "pause"; }
  std::string word(const Reply& reply) { return fmt::format("reply {}", reply.status); }
  std::string word(const Relay&) { return "relay"; }
  std::string word(const End&) { return "end"; }
  std::string word(const Split&) { return "split"; }
  std::string word(const Wait&) { return "wait"; }
  std::string word(const AwaitPrefill&) { return "await"; }

  Registry& registry_;
};

class EitherOrder : public testing::TestWithParam<api::HandoverOrder> {
 protected:
  void build(RegistryOptions options, bool baton = true) {
    registry_.emplace(options);
    for (uint16_t i = 1; i <= 2; ++i) {
      p_.push_back(registry_->add(Side::kPrefill, "p", i, kNow));
      d_.push_back(registry_->add(Side::kDecode, "d", i, kNow));
      is_baton_ = baton;
      up(p_.back(), api::Role::kPrefill);
      up(d_.back(), api::Role::kDecode);
    }
  }
  void up(InstanceId id, api::Role role) {
    auto identity = api::identity_of(role);
    identity.order = GetParam();
    registry_->on_probe_ok(id, is_baton_ ? std::optional(identity) : std::nullopt, kNow);
  }
  void down(const std::vector<InstanceId>& all) {
    for (const InstanceId id : all) registry_->on_probe_failed(id, "refused", kNow);
  }
  void expect_all_released() {
    for (const auto& instance : registry_->instances()) {
      EXPECT_EQ(instance->in_flight, 0U) << instance->address();
      EXPECT_EQ(instance->active_tokens, 0) << instance->address();
      EXPECT_EQ(instance->own_prefill, 0) << instance->address();
    }
    EXPECT_TRUE(registry_->queue().empty());
  }
  // Runs `test` with a flow of the order.
  template <class Test>
  void with(std::string_view body, Test test, int32_t attempts = 3, const std::string& id = "id") {
    auto client = *read_client_body(Route::kCompletions, body);
    const FlowLimits limits{.attempts = attempts};
    if (GetParam() == api::HandoverOrder::kPull) {
      Told<PullFlow> told(*registry_, limits, std::move(client), id, uint64_t{7});
      test(told);
    } else {
      Told<LayerwiseFlow> told(*registry_, limits, std::move(client), id, uint64_t{7},
                               [](const Instance&) { return std::string("http://proxy"); });
      test(told);
    }
  }

  std::optional<Registry> registry_;
  std::vector<InstanceId> p_, d_;
  bool is_baton_ = true;
};

constexpr std::string_view kBody =
    R"({"prompt":"x","kv_transfer_params":{"remote_host":"evil"},"max_tokens":9})";

TEST_P(EitherOrder, DGetsTheClientsRequestAndNobodyElseIsAsked) {
  build({.local_prefill = LocalPrefill::kAlways});
  with(kBody, [&](auto& told) {
    EXPECT_EQ(told.say(told.flow.start(kNow)), "decode d:1 alone");
    EXPECT_EQ(told.body, R"({"prompt":"x","max_tokens":9,"seed":7})");
    EXPECT_FALSE(told.flow.prefill_instance());
    EXPECT_GT(registry_->find(d_[0])->own_prefill, 0);
    ASSERT_TRUE(told.flow.times().placement);
    EXPECT_EQ(told.flow.times().placement->on, api::kAtDecode);
    EXPECT_EQ(told.flow.times().placement->reason, "asked");
    EXPECT_EQ(told.say(told.flow.on_decode_whole(UpstreamAnswer{200, kAnswer}, kNow)), "reply 200");
    EXPECT_TRUE(told.flow.take_cleanups().empty());
  });
  for (const InstanceId p : p_) EXPECT_EQ(registry_->find(p)->requests, 0U);
  expect_all_released();
}

TEST_P(EitherOrder, AStreamIsPassedOnAndDsWorkOnThePromptEndsWithItsFirstEvent) {
  build({.local_prefill = LocalPrefill::kAlways});
  with(R"({"prompt":"x","stream":true})", [&](auto& told) {
    told.flow.start(kNow);
    EXPECT_EQ(told.say(told.flow.on_decode_head()), "relay");
    std::string out;
    EXPECT_GT(registry_->find(d_[0])->own_prefill, 0);
    told.flow.on_event("data: {\"choices\":[{}]}\n\n", "{\"choices\":[{}]}", out);
    EXPECT_EQ(registry_->find(d_[0])->own_prefill, 0);
    EXPECT_EQ(registry_->find(d_[0])->in_flight, 1U);
    told.flow.on_event("data: " + kAnswer + "\n\n", kAnswer, out);
    told.flow.on_event("data: [DONE]\n\n", "[DONE]", out);
    EXPECT_EQ(told.say(told.flow.on_stream_end({}, kNow)), "end");
    EXPECT_EQ(out, "data: {\"choices\":[{}]}\n\ndata: " + kAnswer + "\n\ndata: [DONE]\n\n");
    EXPECT_EQ(told.flow.outcome(), "ok");
  });
  expect_all_released();
}

TEST_P(EitherOrder, WhatDSaysOfThePromptMakesTheNextGuessBetter) {
  build({.local_prefill = LocalPrefill::kAlways});
  const std::string body = fmt::format(R"({{"prompt":"{}"}})", std::string(38, 'x'));
  const auto guess = [&] {
    return registry_->demand_of(*read_client_body(Route::kCompletions, body)).prompt_tokens;
  };
  EXPECT_EQ(guess(), 10);
  for (int i = 0; i < 50; ++i) {
    with(body, [&](auto& told) {
      told.flow.start(kNow);
      told.flow.on_decode_whole(UpstreamAnswer{200, kAnswer}, kNow);
    });
  }
  EXPECT_NEAR(guess(), 5, 0.1);  // eight bytes a token
}

TEST_P(EitherOrder, ADThatFailsIsReplacedByAnotherUnderAnotherName) {
  build({.local_prefill = LocalPrefill::kAlways});
  with("{}", [&](auto& told) {
    EXPECT_EQ(told.say(told.flow.start(kNow)), "decode d:1 alone");
    EXPECT_EQ(told.flow.request_id(), "id");
    EXPECT_EQ(told.say(told.flow.on_decode_whole(fail(Code::kUnavailable, "reset"), kNow)), "pause");
    EXPECT_EQ(told.say(told.flow.on_pause_done(kNow)), "decode d:2 alone");
    EXPECT_EQ(told.flow.request_id(), "id.2");
    EXPECT_EQ(told.say(told.flow.on_decode_whole(UpstreamAnswer{400, "{}"}, kNow)), "reply 400");
  });
  expect_all_released();
}

TEST_P(EitherOrder, WhereAHandoverDoesNotPayDComputesAndElseP) {
  build({});
  for (const auto& side : {p_, d_}) {
    for (const InstanceId id : side) {
      auto identity = *registry_->find(id)->identity;
      identity.speeds = api::Speeds{.prefill_step = milliseconds(10),
                                    .prefill_tokens_per_s = 1000,
                                    .handover = milliseconds(7),
                                    .handover_bytes_per_s = 1e6,
                                    .kv_bytes_per_token = 100};
      registry_->on_probe_ok(id, identity, kNow);
    }
  }
  with(R"({"prompt":"short"})", [&](auto& told) {
    EXPECT_EQ(told.say(told.flow.start(kNow)), "decode d:1 alone");
    EXPECT_EQ(told.flow.times().placement->reason, "local_costs_less");
    told.flow.on_client_gone();
  });
  with(fmt::format(R"({{"prompt":"{}"}})", std::string(4000, 'x')), [&](auto& told) {
    EXPECT_EQ(told.say(told.flow.start(kNow)),
              GetParam() == api::HandoverOrder::kPull ? "prefill p:1" : "decode d:2");
    EXPECT_EQ(told.flow.times().placement->reason, "handover_costs_less");
    ASSERT_TRUE(told.flow.times().placement->estimate);
    EXPECT_NEAR(told.flow.times().placement->estimate->prompt_tokens, 1000, 1);
    told.flow.on_client_gone();
  });
  expect_all_released();
}

TEST_P(EitherOrder, WhereEveryPIsDownABatonDComputesThePrompt) {
  for (const auto asked : {LocalPrefill::kAuto, LocalPrefill::kNever}) {
    p_.clear();
    d_.clear();
    build({.local_prefill = asked});
    down(p_);
    EXPECT_TRUE(registry_->ready(kNow));
    with("{}", [&](auto& told) {
      EXPECT_EQ(told.say(told.flow.start(kNow)), "decode d:1 alone");
      EXPECT_EQ(told.flow.times().placement->reason, "no_prefill_instance");
      EXPECT_EQ(told.say(told.flow.on_decode_whole(UpstreamAnswer{200, kAnswer}, kNow)), "reply 200");
    });
    expect_all_released();
  }
}

TEST_P(EitherOrder, ADThatIsNoBatonIsNotAskedToComputeWhatItWasNotMadeFor) {
  build({}, false);
  down(p_);
  EXPECT_FALSE(registry_->ready(kNow));
  with("{}", [&](auto& told) { EXPECT_EQ(told.say(told.flow.start(kNow)), "reply 503"); });
}

TEST_P(EitherOrder, APThatMayComeUpAndOneThatDoesNotFitAreNoReasonForDToDoItsWork) {
  build({});
  down(p_);
  const InstanceId late = registry_->add(Side::kPrefill, "p", 3, kNow);
  with("{}", [&](auto& told) { EXPECT_EQ(told.say(told.flow.start(kNow)), "reply 503"); });
  auto other = api::identity_of(api::Role::kPrefill);
  other.order = GetParam();
  other.fingerprint = "other";
  registry_->on_probe_ok(late, other, kNow);
  with("{}", [&](auto& told) { EXPECT_EQ(told.say(told.flow.start(kNow)), "reply 503"); });
  registry_->on_probe_failed(late, "refused", kNow);
  with("{}", [&](auto& told) {
    EXPECT_EQ(told.say(told.flow.start(kNow)), "decode d:1 alone");
    told.flow.on_client_gone();
  });
  expect_all_released();
}

TEST_P(EitherOrder, WhoWaitsIsAnsweredWhenTheInstancesGoDownAndNotWhenTheWaitIsOver) {
  build({.in_flight_max = 1});
  down({p_[1], d_[1]});
  with("{}", [&](auto& running) {
    running.flow.start(kNow);
    with("{}", [&](auto& first) {
      int woken = 0;
      first.flow.set_wake([&] { ++woken; });
      EXPECT_EQ(first.say(first.flow.start(kNow)), "wait");
      with("{}", [&](auto& second) {
        int second_woken = 0;
        second.flow.set_wake([&] { ++second_woken; });
        EXPECT_EQ(second.say(second.flow.start(kNow)), "wait");
        down({d_[0]});
        EXPECT_EQ(woken, 1);
        EXPECT_EQ(first.say(first.flow.on_room(kNow)), "reply 503");
        EXPECT_EQ(second_woken, 1);
        EXPECT_EQ(second.say(second.flow.on_room(kNow)), "reply 503");
        down({d_[0]});  // again: nothing new
        EXPECT_EQ(woken, 1);
      });
    });
    running.flow.on_client_gone();
  });
  expect_all_released();
}

TEST_P(EitherOrder, WhereEveryPIsDownAndDIsFullTheRequestWaitsForD) {
  build({.in_flight_max = 1});
  down(p_);
  down({d_[1]});
  with("{}", [&](auto& running) {
    EXPECT_EQ(running.say(running.flow.start(kNow)), "decode d:1 alone");
    with("{}", [&](auto& waits) {
      EXPECT_EQ(waits.say(waits.flow.start(kNow)), "wait");
      running.flow.on_client_gone();
      EXPECT_EQ(waits.say(waits.flow.on_room(kNow)), "decode d:1 alone");
      waits.flow.on_client_gone();
    });
  });
  expect_all_released();
}

INSTANTIATE_TEST_SUITE_P(Orders, EitherOrder,
                         testing::Values(api::HandoverOrder::kPull, api::HandoverOrder::kLayerwise),
                         [](const auto& one) { return std::string(api::order_name(one.param)); });

// ---- the pull order alone: P was asked, and does not answer ----

class PullWithoutP : public testing::Test {
 protected:
  PullWithoutP() {
    for (uint16_t i = 1; i <= 2; ++i) {
      for (const auto& [side, role] :
           {std::pair(Side::kPrefill, api::Role::kPrefill), std::pair(Side::kDecode, api::Role::kDecode)})
        registry_.on_probe_ok(registry_.add(side, side == Side::kPrefill ? "p" : "d", i, kNow),
                              api::identity_of(role), kNow);
    }
  }
  Told<PullFlow> flow(int32_t attempts) {
    return Told<PullFlow>(registry_, FlowLimits{.attempts = attempts},
                          *read_client_body(Route::kCompletions, "{}"), "id", uint64_t{7});
  }
  Registry registry_;
};

TEST_F(PullWithoutP, OfAPThatFailsAsOftenAsAllowedDTakesTheWork) {
  const auto failures = {
      Result<UpstreamAnswer>(fail(Code::kUnavailable, "reset")),
      Result<UpstreamAnswer>(UpstreamAnswer{500, "oops"}),
      Result<UpstreamAnswer>(UpstreamAnswer{503, R"({"error":{}})"}),
      Result<UpstreamAnswer>(UpstreamAnswer{200, "no JSON"}),
  };
  for (const auto& failure : failures) {
    Told<PullFlow> told = flow(2);
    EXPECT_EQ(told.say(told.flow.start(kNow)).substr(0, 7), "prefill");
    EXPECT_EQ(told.say(told.flow.on_prefill(failure, kNow)), "pause");
    EXPECT_EQ(told.say(told.flow.on_pause_done(kNow)).substr(0, 7), "prefill");
    const std::string step = told.say(told.flow.on_prefill(failure, kNow));
    EXPECT_EQ(step.substr(0, 8) + step.substr(step.size() - 6), "decode d alone");
    EXPECT_EQ(told.flow.times().placement->reason, "prefill_failed");
    EXPECT_EQ(told.flow.request_id(), "id.3");
    EXPECT_EQ(told.say(told.flow.on_decode_whole(UpstreamAnswer{200, kAnswer}, kNow)), "reply 200");
    for (const auto& instance : registry_.instances()) {
      EXPECT_EQ(instance->in_flight, 0U);
      registry_.on_probe_ok(instance->id, instance->identity, kNow);
    }
  }
}

TEST_F(PullWithoutP, ADThatRefusesThenIsReplacedAndCountsNoLonger) {
  Told<PullFlow> told = flow(1);
  told.flow.start(kNow);
  EXPECT_EQ(told.say(told.flow.on_prefill(UpstreamAnswer{500, "oops"}, kNow)), "decode d:1 alone");
  EXPECT_EQ(told.say(told.flow.on_decode_whole(UpstreamAnswer{503, "{}"}, kNow)), "reply 503");

  Told<PullFlow> patient = flow(2);
  patient.flow.start(kNow);
  patient.flow.on_prefill(UpstreamAnswer{500, "oops"}, kNow);
  patient.flow.on_pause_done(kNow);
  const std::string first = patient.say(patient.flow.on_prefill(UpstreamAnswer{500, "oops"}, kNow));
  const std::string second = patient.say(patient.flow.on_decode_whole(UpstreamAnswer{503, "{}"}, kNow));
  EXPECT_NE(first, second);
  EXPECT_EQ(second.substr(0, 8) + second.substr(second.size() - 6), "decode d alone");
  patient.flow.on_client_gone();
  for (const auto& instance : registry_.instances()) {
    EXPECT_EQ(instance->in_flight, 0U);
    EXPECT_EQ(instance->own_prefill, 0);
  }
}

TEST_F(PullWithoutP, ARefusalOrABusyPIsNotTakenForAFailure) {
  for (const int status : {400, 404, 408, 429}) {
    Told<PullFlow> told = flow(1);
    told.flow.start(kNow);
    EXPECT_EQ(told.say(told.flow.on_prefill(UpstreamAnswer{status, "{}"}, kNow)),
              fmt::format("reply {}", status));
  }
}

TEST_F(PullWithoutP, WithoutADThatCanTheClientHasPsWord) {
  for (const auto& instance : registry_.instances()) {
    if (instance->side == Side::kDecode) registry_.on_probe_ok(instance->id, std::nullopt, kNow);
    if (instance->side == Side::kPrefill) registry_.on_probe_ok(instance->id, std::nullopt, kNow);
  }
  Told<PullFlow> told = flow(1);
  told.flow.start(kNow);
  EXPECT_EQ(told.say(told.flow.on_prefill(UpstreamAnswer{500, "oops"}, kNow)), "reply 500");
}

TEST_F(PullWithoutP, ADThatDiesWithTheKvOfTheOnlyPIsReplacedByOneThatComputes) {
  Told<PullFlow> told = flow(3);
  told.flow.start(kNow);
  EXPECT_EQ(told.say(told.flow.on_prefill(UpstreamAnswer{200, kHeld}, kNow)), "decode d:1");
  for (const auto& instance : registry_.instances())
    if (instance->side == Side::kPrefill) registry_.on_probe_failed(instance->id, "refused", kNow);
  EXPECT_EQ(told.say(told.flow.on_decode_whole(fail(Code::kUnavailable, "reset"), kNow)), "pause");
  EXPECT_EQ(told.say(told.flow.on_pause_done(kNow)), "decode d:2 alone");
  EXPECT_EQ(told.say(told.flow.on_decode_whole(UpstreamAnswer{200, kAnswer}, kNow)), "reply 200");
}

}  // namespace
}  // namespace baton::router
