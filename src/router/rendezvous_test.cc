#include "router/rendezvous.h"

#include <gtest/gtest.h>

#include "router/pull_flow.h"

namespace baton::router {
namespace {

constexpr Time kNow{std::chrono::seconds(1)};

TEST(BootstrapAnswer, NamesTheEngineOfEachRank) {
  const auto ranks = read_bootstrap_answer(
      R"({"1":{"engine_id":"b","worker_addr":{"0":{"0":"tcp://h:1"}}},"0":{"engine_id":"a"}})");
  ASSERT_TRUE(ranks) << ranks.error().message;
  EXPECT_EQ(*ranks, (std::vector<BootstrapRank>{{0, "a"}, {1, "b"}}));
}

TEST(BootstrapAnswer, SaysWhatIsWrong) {
  const std::pair<std::string_view, std::string_view> rows[] = {
      {"", "/query: its answer is not a JSON object"},
      {"[]", "/query: its answer is not a JSON object"},
      {"{}", "/query: no rank of it has registered yet"},
      {R"({"x":{"engine_id":"a"}})", "/query: rank x: expected a number from 0 up"},
      {R"({"-1":{"engine_id":"a"}})", "/query: rank -1: expected a number from 0 up"},
      {R"({"99999999999":{"engine_id":"a"}})", "/query: rank 99999999999: expected a number from 0 up"},
      {R"({"0":7})", "/query: rank 0: expected an object with a text `engine_id`"},
      {R"({"0":{"engine_id":""}})", "/query: rank 0: expected an object with a text `engine_id`"},
      {R"({"0":{"engine_id":"a"},"00":{"engine_id":"b"}})", "/query: rank 0: expected each rank once"},
  };
  for (const auto& [body, message] : rows) {
    const auto ranks = read_bootstrap_answer(body);
    ASSERT_FALSE(ranks) << body;
    EXPECT_EQ(ranks.error().message, message);
  }
}

TEST(Rendezvous, KvIsKeptOnlyWhereTheOneTokenEndedAtTheLimit) {
  EXPECT_TRUE(keeps_kv(R"({"choices":[{"finish_reason":"length"}]})"));
  EXPECT_FALSE(keeps_kv(R"({"choices":[{"finish_reason":"stop"}]})"));
  EXPECT_FALSE(keeps_kv(R"({"choices":[]})"));
  EXPECT_FALSE(keeps_kv("x"));
}

// One P that has a bootstrap server, one D.
class RendezvousFlow : public testing::Test {
 protected:
  RendezvousFlow() {
    p_ = registry_.add(Side::kPrefill, "p", 1, kNow);
    registry_.set_bootstrap(p_, "http://p:8998");
    const InstanceId d = registry_.add(Side::kDecode, "d", 1, kNow);
    registry_.on_probe_ok(p_, std::nullopt, kNow);
    registry_.on_probe_ok(d, std::nullopt, kNow);
    registry_.on_bootstrap(p_, {{0, "a"}, {1, "b"}});
  }
  PullFlow flow() {
    return PullFlow(registry_, {}, *read_client_body(Route::kCompletions, R"({"prompt":"x"})"), "id", 7);
  }

  Registry registry_;
  InstanceId p_{};
};

TEST_F(RendezvousFlow, TheRanksOfPTakeTurnsAndDIsToldWhichOneItWas) {
  for (const auto& [rank, engine] : {std::pair(0, "a"), std::pair(1, "b"), std::pair(0, "a")}) {
    PullFlow f = flow();
    const Step first = f.start(kNow);
    const auto& ask = std::get<AskPrefill>(first);
    EXPECT_EQ(ask.data_parallel_rank, rank);
    EXPECT_EQ(
        ask.body,
        R"({"prompt":"x","kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false,"transfer_id":"xfer-id"},)"
        R"("stream":false,"max_tokens":1,"min_tokens":1})");
    const Step second = f.on_prefill(
        UpstreamAnswer{200, R"({"choices":[{"finish_reason":"length"}],"kv_transfer_params":null})"}, kNow);
    EXPECT_EQ(
        std::get<AskDecode>(second).body,
        std::string(
            R"({"prompt":"x","kv_transfer_params":{"do_remote_decode":false,"do_remote_prefill":true,)") +
            R"("remote_bootstrap_addr":"http://p:8998","remote_engine_id":")" + engine +
            R"(","transfer_id":"xfer-id"}})");
    f.on_decode_whole(UpstreamAnswer{200, R"({"choices":[{}]})"}, kNow);
  }
}

TEST_F(RendezvousFlow, AnotherAttemptHasAnotherTransferId) {
  PullFlow f = flow();
  f.start(kNow);
  f.on_prefill(UpstreamAnswer{503, "{}"}, kNow);
  EXPECT_NE(std::get<AskPrefill>(f.on_pause_done(kNow)).body.find(R"("xfer-id.2")"), std::string::npos);
}

TEST_F(RendezvousFlow, DComputesThePromptWherePKeepsNoKv) {
  PullFlow f = flow();
  f.start(kNow);
  const Step step = f.on_prefill(UpstreamAnswer{200, R"({"choices":[{"finish_reason":"stop"}]})"}, kNow);
  EXPECT_EQ(std::get<AskDecode>(step).body, R"({"prompt":"x"})");
}

TEST_F(RendezvousFlow, ABatonInstanceNeedsNone) {
  registry_.on_probe_ok(p_, api::InstanceIdentity{}, kNow);
  EXPECT_FALSE(registry_.begin_rendezvous(p_, "id"));
}

}  // namespace
}  // namespace baton::router
