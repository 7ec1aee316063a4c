// Prompts that D computes, through the shell: one hop, counted, and said in the timings.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "proxy/testing.h"

namespace baton::proxy {
namespace {

const std::string kWhole = R"({"choices":[{"index":0,"text":"a"}],"timings":{"total_ns":5,"parts":[)"
                           R"({"at":"instance","phase":"prefill","ns":5}]}})";

// A hand-over takes a second more than nothing, and a token a millisecond.
api::InstanceIdentity measured(api::Role role, api::HandoverOrder order) {
  auto identity = api::identity_of(role);
  identity.order = order;
  identity.speeds = api::Speeds{.prefill_step = Duration{0},
                                .prefill_tokens_per_s = 1000,
                                .handover = std::chrono::seconds(1),
                                .handover_bytes_per_s = 1e9,
                                .kv_bytes_per_token = 1};
  return identity;
}

class LocalPrefillTest : public testing::TestWithParam<api::HandoverOrder> {
 protected:
  void start(options::ProxyLocalPrefill asked) {
    options::ProxyOptions options;
    options.local_prefill = asked;
    options.health_interval = std::chrono::hours(1);
    proxy_ = std::make_unique<RunningProxy>(std::move(options));
    proxy_->add(router::Side::kPrefill, p_);
    proxy_->add(router::Side::kDecode, d_);
    ASSERT_TRUE(proxy_->becomes([](const Hub& hub) {
      return std::ranges::all_of(hub.registry.instances(),
                                 [](const auto& i) { return i->health == router::Health::kUp; });
    }));
  }
  void counts(std::string_view sample) {
    EXPECT_TRUE(proxy_->is_idle());
    const std::string metrics = proxy_->ask("GET", "/metrics");
    EXPECT_NE(metrics.find(sample), std::string::npos) << metrics;
  }

  FakeInstance p_{measured(api::Role::kPrefill, GetParam())};
  FakeInstance d_{measured(api::Role::kDecode, GetParam())};
  std::unique_ptr<RunningProxy> proxy_;
};

TEST_P(LocalPrefillTest, AShortPromptIsOneHopToD) {
  start(options::ProxyLocalPrefill::kAuto);
  d_.script({{.pieces = {kWhole}}});
  const std::string answer =
      proxy_->post(R"({"prompt":"short","timings":true,"kv_transfer_params":{"a":1}})");
  EXPECT_EQ(answer.substr(9, 3), "200");
  EXPECT_EQ(answer.find("X-Baton-Prefill"), std::string::npos) << answer;
  EXPECT_NE(answer.find("X-Baton-Decode"), std::string::npos) << answer;
  EXPECT_NE(answer.find(R"("prefill_on":"decode","prefill_reason":"local_costs_less","prefill_estimate":{)"
                        R"("prompt_tokens":2,"cached_tokens":0,"delayed":1,"local_ns":)"),
            std::string::npos)
      << answer;
  EXPECT_NE(answer.find(R"({"at":"decode","phase":"prefill","ns":5})"), std::string::npos) << answer;
  ASSERT_EQ(d_.heard().size(), 1U);
  EXPECT_TRUE(d_.heard()[0].starts_with(R"(POST /v1/completions {"prompt":"short","timings":true,"seed":)"))
      << d_.heard()[0];
  EXPECT_TRUE(p_.heard().empty());
  counts(R"(baton:proxy_prefills_total{on="decode",reason="local_costs_less"} 1)");
}

TEST_P(LocalPrefillTest, ALongOneIsHandedOver) {
  start(options::ProxyLocalPrefill::kAuto);
  const bool pull = GetParam() == api::HandoverOrder::kPull;
  (pull ? p_ : d_).script({{.status = 400, .pieces = {"{}"}}});
  EXPECT_EQ(proxy_->post(fmt::format(R"({{"prompt":"{}"}})", std::string(40'000, 'x'))).substr(9, 3), "400");
  ASSERT_EQ((pull ? p_ : d_).heard().size(), 1U);
  EXPECT_NE((pull ? p_ : d_).heard()[0].find("kv_transfer_params"), std::string::npos);
  EXPECT_TRUE((pull ? d_ : p_).heard().empty());
  counts(R"(baton:proxy_prefills_total{on="prefill",reason="handover_costs_less"} 1)");
}

TEST_P(LocalPrefillTest, TheOperatorMayWantAllOrNoneOfIt) {
  start(options::ProxyLocalPrefill::kAlways);
  d_.script({{.status = 400, .pieces = {"{}"}}});
  proxy_->post(fmt::format(R"({{"prompt":"{}"}})", std::string(40'000, 'x')));
  EXPECT_TRUE(p_.heard().empty());
  counts(R"(baton:proxy_prefills_total{on="decode",reason="asked"} 1)");

  start(options::ProxyLocalPrefill::kNever);
  for (FakeInstance* one : {&p_, &d_}) one->script({{.status = 400, .pieces = {"{}"}}});
  proxy_->post(R"({"prompt":"x"})");
  EXPECT_EQ(p_.heard().size(), GetParam() == api::HandoverOrder::kPull ? 1U : 0U);
  counts(R"(baton:proxy_prefills_total{on="prefill",reason="asked"} 1)");
}

INSTANTIATE_TEST_SUITE_P(Orders, LocalPrefillTest,
                         testing::Values(api::HandoverOrder::kPull, api::HandoverOrder::kLayerwise),
                         [](const auto& one) { return std::string(api::order_name(one.param)); });

}  // namespace
}  // namespace baton::proxy
