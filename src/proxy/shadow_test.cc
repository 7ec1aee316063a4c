#include "proxy/shadow.h"

#include "proxy/testing.h"

namespace baton::proxy {
namespace {

constexpr Duration kNoProbe = std::chrono::hours(1);

api::Receipt receipt_of(char digit) {
  const std::string hash(api::kHashDigits, digit);
  const api::ReceiptPrompt prompt{.seed = 7,
                                  .sampling = {.max_tokens = 9},
                                  .tokens = {.count = 2, .hash = std::string(api::kHashDigits, 'a')},
                                  .choices = {{.tokens = {.count = 1, .hash = hash}}}};
  return {.baton = "0", .fingerprint = "f", .dtype = "bfloat16", .prompts = {prompt}};
}
std::string with_receipt(char digit) {
  return R"({"choices":[{"index":0,"text":"y"}],"receipt":)" + api::render_receipt(receipt_of(digit)) + "}";
}
const std::string kBare = R"({"choices":[{"index":0,"text":"y"}]})";

// A P, a D that answers, and another D, on which the recomputation lands.
class ShadowTest : public testing::Test {
 protected:
  ShadowTest() {
    options::ProxyOptions options;
    options.health_interval = kNoProbe;
    options.shadow = 1;
    proxy_ = std::make_unique<RunningProxy>(std::move(options));
    proxy_->on_hub([](Hub& hub) {
      hub.shadows = std::make_shared<Shadows>(hub);
      hub.loop.spawn("shadow", hub.shadows->run());
      return 0;
    });
    proxy_->add(router::Side::kPrefill, p_);
    proxy_->add(router::Side::kDecode, d_);
    wait_up(2);
    p_.script({{.pieces = {R"({"choices":[{"index":0}],"kv_transfer_params":{"remote_request_id":"h"}})"}}});
  }
  void wait_up(size_t count) {
    ASSERT_TRUE(proxy_->becomes([&](const Hub& hub) {
      return std::ranges::count_if(hub.registry.instances(), [](const auto& i) {
               return i->health == router::Health::kUp;
             }) == static_cast<ptrdiff_t>(count);
    }));
  }
  std::string answer_of(const std::string& response) {
    return response.substr(response.find("\r\n\r\n") + 4);
  }
  bool counted(uint64_t checked, uint64_t mismatches, uint64_t skipped) {
    return proxy_->becomes([&](const Hub& hub) {
      return hub.metrics.parity_checked == checked && hub.metrics.parity_mismatches == mismatches &&
             hub.metrics.parity_skipped == skipped;
    });
  }
  // How often `instance` was asked for its flight record.
  int records(FakeInstance& instance) {
    const auto heard = instance.heard();
    return static_cast<int>(
        std::ranges::count_if(heard, [](const auto& one) { return one.starts_with("POST /debug/record"); }));
  }

  FakeInstance p_{api::identity_of(api::Role::kPrefill)};
  FakeInstance d_{api::identity_of(api::Role::kDecode)};
  FakeInstance other_{api::identity_of(api::Role::kDecode)};
  std::unique_ptr<RunningProxy> proxy_;
};

TEST_F(ShadowTest, AnAnswerIsComputedOnceMoreElsewhereAndTheClientSeesNothingOfIt) {
  d_.script({{.pieces = {with_receipt('b')}, .when = "kv_transfer_params"}});
  const std::string answer = answer_of(proxy_->post(R"({"prompt":"x","max_tokens":9})"));
  EXPECT_EQ(answer, kBare);
  // P and D had a part, so P is as good as D: the first of the least busy.
  ASSERT_TRUE(proxy_->becomes([&](const Hub&) { return p_.heard().size() == 2; }));
  EXPECT_NE(p_.heard()[1].find(R"("stream":false)"), std::string::npos) << p_.heard()[1];
  EXPECT_NE(p_.heard()[1].find(R"("seed":7)"), std::string::npos) << p_.heard()[1];
  EXPECT_EQ(p_.heard()[1].find("kv_transfer_params"), std::string::npos) << p_.heard()[1];
  EXPECT_TRUE(counted(0, 0, 1));  // that one had no answer for it
}

TEST_F(ShadowTest, EqualReceiptsAreCountedAsChecked) {
  d_.script({{.pieces = {with_receipt('b')}}});
  p_.script({{.pieces = {R"({"choices":[{"index":0}],"kv_transfer_params":{"remote_request_id":"h"}})"}},
             {.pieces = {with_receipt('b')}}});
  proxy_->post(R"({"prompt":"x","max_tokens":9})");
  EXPECT_TRUE(counted(1, 0, 0));
  EXPECT_EQ(records(p_) + records(d_), 0);
}

TEST_F(ShadowTest, AMismatchIsCountedAndAllWhoComputedWriteTheirRecords) {
  proxy_->add(router::Side::kDecode, other_);
  wait_up(3);
  // Whichever D is chosen answers; the other one computes it once more.
  for (FakeInstance* d : {&d_, &other_})
    d->script({{.pieces = {with_receipt('b')}, .when = "kv_transfer_params"},
               {.pieces = {with_receipt('c')}, .when = "cache_salt"}});
  EXPECT_EQ(answer_of(proxy_->post(R"({"prompt":"x","max_tokens":9})")), kBare);
  EXPECT_TRUE(counted(1, 1, 0));
  EXPECT_TRUE(proxy_->becomes([&](const Hub&) { return records(p_) + records(d_) + records(other_) == 3; }));
}

TEST_F(ShadowTest, AStreamIsWhatItWouldBeWithout) {
  d_.script(
      {{.pieces = {"data: {\"choices\":[{\"index\":0,\"text\":\"y\"}]}\n\n",
                   "data: {\"choices\":[],\"receipt\":" + api::render_receipt(receipt_of('b')) + "}\n\n",
                   "data: [DONE]\n\n"},
        .is_stream = true}});
  const std::string answer = proxy_->post(R"({"prompt":"x","max_tokens":9,"stream":true})");
  EXPECT_EQ(answer.find("receipt"), std::string::npos) << answer;
  EXPECT_NE(answer.find("[DONE]"), std::string::npos) << answer;
  EXPECT_TRUE(counted(0, 0, 1));
}

TEST_F(ShadowTest, AnAnswerThatFailedIsNotChecked) {
  d_.script({{.status = 400, .pieces = {R"({"error":{"message":"no"}})"}}});
  proxy_->post(R"({"prompt":"x"})");
  EXPECT_TRUE(proxy_->is_idle());
  EXPECT_TRUE(counted(0, 0, 0));
}

// What GET /debug/requests tells of a request that is held in each phase.
TEST_F(ShadowTest, DebugRequestsSayWhatARequestWaitsFor) {
  p_.script({{.holds = true}});
  http::RawClient client = proxy_->connect();
  client.send(RunningProxy::request("POST", "/v1/completions", R"({"prompt":"x"})"));
  ASSERT_TRUE(proxy_->becomes([&](const Hub&) { return p_.heard().size() == 1; }));
  const std::string body = answer_of(proxy_->ask("GET", "/debug/requests"));
  EXPECT_NE(
      body.find(fmt::format(R"("phase":"prefill","waits_for":"the prefill at 127.0.0.1:{}")", p_.port())),
      std::string::npos)
      << body;
  EXPECT_NE(body.find(fmt::format(R"("address":"127.0.0.1:{}","role":"decode","health":"up")", d_.port())),
            std::string::npos)
      << body;
  client.close();
  ASSERT_TRUE(proxy_->is_idle());
  EXPECT_NE(proxy_->ask("GET", "/debug/requests").find(R"("requests":[])"), std::string::npos);
}

}  // namespace
}  // namespace baton::proxy
