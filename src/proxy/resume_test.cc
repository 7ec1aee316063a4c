// Answers that go on at another decode instance, over real sockets.
#include "api/resume.h"

#include <array>

#include "proxy/testing.h"

namespace baton::proxy {
namespace {

const std::string kPrefilled =
    R"({"choices":[{"index":0}],"usage":{},"kv_transfer_params":{"remote_request_id":"held-1"}})";
const std::string kHead =
    R"("head":{"id":"cmpl-a","created":5,"seed":7,"cached_tokens":0,"digest":"00000000000000ff"},)";

// An event that says `text` and consumed `token`, with its note in front.
std::string event(int token, std::string_view text, bool is_first = false, bool is_last = false) {
  return fmt::format(
      ": baton {{{}\"choices\":[{{\"index\":0,\"ids\":[{}]{}}}]}}\ndata: "
      "{{\"choices\":[{{\"text\":\"{}\"}}]}}\n\n",
      is_first ? kHead : "", token, is_last ? ",\"finished\":true" : "", text);
}
std::string heard(std::string_view text) {
  return fmt::format("data: {{\"choices\":[{{\"text\":\"{}\"}}]}}\n\n", text);
}

std::string body_of(const std::string& response) {
  std::string body;
  size_t at = response.find("\r\n\r\n") + 4;
  while (at < response.size()) {
    const size_t line = response.find("\r\n", at);
    const size_t bytes = std::stoul(response.substr(at, line - at), nullptr, 16);
    if (bytes == 0) break;
    body += response.substr(line + 2, bytes);
    at = line + 2 + bytes + 2;
  }
  return body;
}

api::InstanceIdentity identity(api::Role role, api::HandoverOrder order) {
  api::InstanceIdentity identity = api::identity_of(role);
  identity.order = order;
  identity.resume = api::kResumeProtocol;
  return identity;
}

// One P, three D's that are asked in their order.
class ResumeTest : public testing::TestWithParam<api::HandoverOrder> {
 protected:
  void start(Duration health_interval) {
    options::ProxyOptions options;
    options.health_interval = health_interval;
    proxy_ = std::make_unique<RunningProxy>(std::move(options));
    p_ = std::make_unique<FakeInstance>(identity(api::Role::kPrefill, GetParam()));
    p_->script({{.pieces = {kPrefilled}}});
    proxy_->add(router::Side::kPrefill, *p_);
    for (auto& d : d_) {
      d = std::make_unique<FakeInstance>(identity(api::Role::kDecode, GetParam()));
      proxy_->add(router::Side::kDecode, *d);
    }
    ASSERT_TRUE(proxy_->becomes([](const Hub& hub) {
      return std::ranges::all_of(hub.registry.instances(),
                                 [](const auto& i) { return i->health == router::Health::kUp; });
    }));
  }
  void TearDown() override { proxy_.reset(); }

  std::array<std::unique_ptr<FakeInstance>, 3> d_;
  std::unique_ptr<FakeInstance> p_;
  std::unique_ptr<RunningProxy> proxy_;
};
INSTANTIATE_TEST_SUITE_P(Orders, ResumeTest,
                         testing::Values(api::HandoverOrder::kPull, api::HandoverOrder::kLayerwise),
                         [](const auto& order) { return std::string(api::order_name(order.param)); });

const std::string kRequest = R"({"prompt":"x","stream":true,"seed":7})";
const std::string kAnswer = heard("a") + heard("b") + heard("c") + "data: [DONE]\n\n";

TEST_P(ResumeTest, ABrokenStreamGoesOnAtAnotherInstanceAndNotesStayWithTheProxy) {
  start(std::chrono::hours(1));
  // Half an event has not been said.
  d_[0]->script(
      {{.pieces = {event(17, "a", true), ": baton {\"choices\":[{\"index\":0,\"ids\":[4]}]}\ndata: {"},
        .is_stream = true,
        .cut = true}});
  d_[1]->script(
      {{.pieces = {event(4, "b"), event(5, "c", false, true), "data: [DONE]\n\n"},
        .is_stream = true,
        .when = R"("choices":[{"token_ids":[17],"begun":true,"finished":false}],"usage_sent":false)"}});
  EXPECT_EQ(body_of(proxy_->post(kRequest)), kAnswer);
  EXPECT_TRUE(proxy_->is_idle());
  EXPECT_EQ(proxy_->on_hub([](Hub& hub) { return hub.metrics.resumptions; }), 1U);
  EXPECT_EQ(proxy_->on_hub([](Hub& hub) { return hub.metrics.outcomes["ok"]; }), 1U);
}

TEST_P(ResumeTest, EachInstanceThatGoesDownUnderAnAnswerIsNoticed) {
  start(std::chrono::milliseconds(20));
  d_[0]->script({{.pieces = {event(17, "a", true)}, .is_stream = true, .holds = true}});
  d_[1]->script({{.pieces = {event(4, "b")}, .is_stream = true, .holds = true, .when = "[17]"}});
  d_[2]->script(
      {{.pieces = {event(5, "c", false, true), "data: [DONE]\n\n"}, .is_stream = true, .when = "[17,4]"}});
  http::RawClient client = proxy_->connect();
  client.send(RunningProxy::request("POST", "/v1/completions", kRequest));
  for (const size_t number : {0U, 1U}) {
    ASSERT_TRUE(proxy_->becomes([&](const Hub&) { return !d_[number]->heard().empty(); })) << number;
    d_[number]->set_models_status(500);
  }
  EXPECT_EQ(body_of(client.read_to_end()), kAnswer);
  EXPECT_TRUE(proxy_->is_idle());
  EXPECT_EQ(proxy_->on_hub([](Hub& hub) { return hub.metrics.resumptions; }), 2U);
}

TEST_P(ResumeTest, ARequestThatIsGivenBackGoesOnAndItsInstanceStaysUp) {
  start(std::chrono::hours(1));
  d_[0]->script({{.pieces = {event(17, "a", true), ": baton returned\n\n"}, .is_stream = true}});
  d_[1]->script({{.pieces = {event(4, "b"), ": baton returned\n\n"}, .is_stream = true, .when = "[17]"}});
  d_[2]->script(
      {{.pieces = {event(5, "c", false, true), "data: [DONE]\n\n"}, .is_stream = true, .when = "[17,4]"}});
  EXPECT_EQ(body_of(proxy_->post(kRequest)), kAnswer);
  EXPECT_TRUE(proxy_->is_idle());
  EXPECT_EQ(proxy_->on_hub([](Hub& hub) {
    uint64_t failures = 0;
    for (const auto& instance : hub.registry.instances()) failures += instance->failures;
    return failures;
  }),
            0U);
}

}  // namespace
}  // namespace baton::proxy
