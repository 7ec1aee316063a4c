// What one instance answers for all, over sockets.
#include "proxy/any_instance.h"

#include "proxy/testing.h"

namespace baton::proxy {
namespace {

class AnyInstanceTest : public testing::Test {
 protected:
  AnyInstanceTest() {
    options::ProxyOptions options;
    options.health_interval = std::chrono::hours(1);  // no probe comes between
    proxy_ = std::make_unique<RunningProxy>(std::move(options));
  }
  void add(router::Side side, const FakeInstance& instance) {
    proxy_->add(side, instance);
    ASSERT_TRUE(proxy_->becomes([](const Hub& hub) {
      return std::ranges::all_of(hub.registry.instances(),
                                 [](const auto& i) { return i->health != router::Health::kUnknown; });
    }));
  }
  std::string tokenize() { return proxy_->ask("POST", "/tokenize?a=1", R"({"prompt": "x"})"); }
  static std::string body_of(const std::string& response) {
    return response.substr(response.find("\r\n\r\n") + 4);
  }

  FakeInstance p_, d_;
  std::unique_ptr<RunningProxy> proxy_;
};

TEST_F(AnyInstanceTest, ARequestGoesOnAsItCameAndItsAnswerComesBackAsItIs) {
  add(router::Side::kDecode, d_);
  add(router::Side::kPrefill, p_);
  for (const int status : {200, 400, 404}) {
    p_.script({{.status = status, .pieces = {"{\"tokens\": [1.0]}"}}});
    d_.script({});
    const std::string answer = tokenize();
    EXPECT_EQ(status_of(answer), std::to_string(status));
    EXPECT_EQ(body_of(answer), "{\"tokens\": [1.0]}");
    EXPECT_EQ(p_.heard(), std::vector<std::string>{R"(POST /tokenize?a=1 {"prompt": "x"})"});
    EXPECT_TRUE(d_.heard().empty());
  }
  p_.script({{.pieces = {R"({"prompt":"x"})"}}});
  EXPECT_EQ(body_of(proxy_->ask("POST", "/detokenize", R"({"tokens":[1]})")), R"({"prompt":"x"})");
}

TEST_F(AnyInstanceTest, TheNextOneIsAskedWhereOneLoadsOrIsGone) {
  add(router::Side::kPrefill, p_);
  add(router::Side::kDecode, d_);
  for (const ScriptedAnswer& none : {ScriptedAnswer{.status = 503}, ScriptedAnswer{.cut = true}}) {
    p_.script({none});
    d_.script({{.pieces = {"[]"}}});
    EXPECT_EQ(body_of(tokenize()), "[]");
  }
  p_.script({{.cut = true}});
  d_.script({{.cut = true}});
  const std::string answer = tokenize();
  EXPECT_EQ(status_of(answer), "502");
  EXPECT_NE(answer.find(fmt::format("decode instance 127.0.0.1:{}", d_.port())), std::string::npos) << answer;
}

TEST_F(AnyInstanceTest, WithoutOneThatIsUpItIs503) {
  EXPECT_EQ(status_of(tokenize()), "503");
  p_.set_models_status(500);
  add(router::Side::kPrefill, p_);
  const std::string answer = tokenize();
  EXPECT_EQ(status_of(answer), "503");
  EXPECT_NE(answer.find("/tokenize: no instance is up"), std::string::npos) << answer;
  EXPECT_TRUE(p_.heard().empty());
}

TEST_F(AnyInstanceTest, TheProxyAnswersForItselfAsAnInstanceDoes) {
  EXPECT_EQ(body_of(proxy_->ask("GET", "/version")), R"({"version":")" BATON_VERSION R"("})");
  for (const char* method : {"GET", "POST"}) EXPECT_EQ(status_of(proxy_->ask(method, "/ping")), "503");
  EXPECT_EQ(status_of(proxy_->ask("HEAD", "/healthcheck")), "200");
  EXPECT_NE(proxy_->ask("DELETE", "/ping").find("\r\nAllow: GET, HEAD, POST\r\n"), std::string::npos);
  add(router::Side::kPrefill, p_);
  add(router::Side::kDecode, d_);
  for (const char* method : {"GET", "POST", "HEAD"})
    EXPECT_EQ(status_of(proxy_->ask(method, "/ping")), "200") << method;
}

}  // namespace
}  // namespace baton::proxy
