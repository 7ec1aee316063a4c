// The layer-wise order through the shipped proxy: scripted prefill instances, and decode instances that post
// to the metaserver before they answer.
#include "proxy/layerwise_exchange.h"

#include <boost/json/parse.hpp>

#include "proxy/testing.h"
#include "router/layerwise_bodies.h"

namespace baton::proxy {
namespace {

constexpr Duration kNever = std::chrono::hours(1);  // no probe comes between
const ScriptedAnswer kPrefilled{
    .pieces = {
        R"({"choices":[{"index":0}],"usage":{"prompt_tokens_details":{"cached_tokens":3}},"kv_transfer_params":null})"}};
const ScriptedAnswer kHolds{.holds = true};

std::string body_of(const std::string& response) { return response.substr(response.find("\r\n\r\n") + 4); }

api::InstanceIdentity layerwise(api::Role role) {
  api::InstanceIdentity identity = api::identity_of(role);
  identity.protocol = api::kHandoverProtocol;
  identity.order = api::HandoverOrder::kLayerwise;
  return identity;
}

// What a decode instance does with a request.
struct Manners {
  bool posts = true;
  std::string post_id = {};  // empty: the one it was given
  std::string answer =
      R"({"choices":[{"index":0,"text":"y"}],"usage":{"prompt_tokens_details":{"cached_tokens":9}}})";
  bool is_stream = false;
  bool holds = false;               // no answer, whatever the metaserver says
  bool ignores_metaserver = false;  // as vllm-ascend's: whatever it says, the KV is waited for
  int status_without_kv = 0;        // 0: it computes the prompt itself
  bool posts_twice = false;
};

class PostingInstance {
 public:
  explicit PostingInstance(std::optional<api::InstanceIdentity> identity) : identity_(std::move(identity)) {
    auto listener = net::listen({"127.0.0.1", 0});
    CHECK(listener.has_value());
    thread_.call([&] {
      client_ = std::make_unique<http::Client>(thread_.loop(), http::ClientOptions{});
      server_ = std::make_unique<http::Server>(
          thread_.loop(), std::move(*listener), http::ServerOptions{},
          [this](http::Request& request, http::ResponseWriter& writer) { return answer(request, writer); });
      server_->start();
      port_ = net::to_address(server_->local()).port;
    });
  }
  ~PostingInstance() {
    thread_.await(end());
    thread_.call([this] {
      server_.reset();
      client_.reset();
    });
  }

  uint16_t port() const { return port_; }
  Manners& manners() { return manners_; }  // before a request
  std::vector<std::string> heard() {
    return thread_.call([this] { return heard_; });
  }
  // "404 {...}" of each post, in order.
  std::vector<std::string> replies() {
    return thread_.call([this] { return replies_; });
  }
  int left() {
    return thread_.call([this] { return left_; });
  }

 private:
  http::Awaitable<void> end() {
    const size_t cut = co_await server_->drain(std::chrono::milliseconds(1));
    static_cast<void>(cut);
  }

  std::string post_of(const http::Request& request) const {
    const std::string id = manners_.post_id.empty()
                               ? fmt::format("cmpl-{}-0", request.headers.get("X-Request-Id").value_or(""))
                               : manners_.post_id;
    std::string post = fmt::format(
        R"({{"request_id":"{}","do_remote_decode":true,"remote_block_ids":[[1]],"remote_host":"d","remote_port":7)",
        id);
    if (identity_) {
      post += fmt::format(R"(,"baton":{{"protocol":{},"landing":{{"transfer_id":"{}","incarnation":"{}"}}}})",
                          api::kHandoverProtocol, TransferId{{5}}.hex(), identity_->incarnation.hex());
    }
    return post + "}";
  }

  http::Awaitable<int> post(std::string url, std::string body) {
    const std::string_view rest = std::string_view(url).substr(7);
    const size_t slash = rest.find('/');
    http::ClientRequest request{.to = *net::parse_address(rest.substr(0, slash)),
                                .method = "POST",
                                .target = std::string(rest.substr(slash)),
                                .headers = {},
                                .body = std::move(body)};
    const auto reply = co_await client_->request(std::move(request));
    if (!reply) co_return 0;
    replies_.push_back(fmt::format("{} {}", reply->status, reply->body));
    co_return reply->status;
  }

  http::Awaitable<void> hold() {
    http::Wake never(thread_.loop());
    const auto woken = co_await never.wait();
    left_ += woken ? 0 : 1;
  }

  http::Awaitable<void> answer(http::Request& request, http::ResponseWriter& writer) {
    if (request.method == "GET") {
      std::string models = R"({"object":"list","data":[])";
      if (identity_) models += ",\"baton\":" + api::render_identity(*identity_);
      writer.send(200, "application/json", models + "}");
      co_return;
    }
    heard_.push_back(request.target + " " + request.body);
    if (request.path() == "/abort_request") {
      writer.send(200, "application/json", "{}");
      co_return;
    }
    const auto body = boost::json::parse(request.body).as_object();
    int reply = 200;
    if (manners_.posts && body.contains("kv_transfer_params")) {
      const std::string url(body.at("kv_transfer_params").at("metaserver").as_string());
      reply = co_await post(url, post_of(request));
      if (manners_.posts_twice) {
        reply = co_await post(url, post_of(request));
      }
    }
    if (manners_.holds || (reply != 200 && manners_.ignores_metaserver)) {
      co_await hold();
      co_return;
    }
    if (reply != 200 && manners_.status_without_kv != 0) {
      writer.send(manners_.status_without_kv, "application/json", R"({"error":{"message":"no KV"}})");
      co_return;
    }
    writer.send(200, manners_.is_stream ? "text/event-stream" : "application/json", manners_.answer);
  }

  std::optional<api::InstanceIdentity> identity_;
  Manners manners_;
  http::LoopThread thread_;
  std::unique_ptr<http::Client> client_;
  std::unique_ptr<http::Server> server_;
  uint16_t port_ = 0;
  std::vector<std::string> heard_;
  std::vector<std::string> replies_;
  int left_ = 0;
};

class LayerwiseTest : public testing::Test {
 protected:
  void start(bool baton = true, options::ProxyOptions options = {}) {
    const auto says = [&](api::Role role) { return baton ? std::optional(layerwise(role)) : std::nullopt; };
    proxy_.reset();
    p1_ = std::make_unique<FakeInstance>(says(api::Role::kPrefill));
    p2_ = std::make_unique<FakeInstance>(says(api::Role::kPrefill));
    d_ = std::make_unique<PostingInstance>(says(api::Role::kDecode));
    options.health_interval = kNever;
    options.host = "127.0.0.1";
    proxy_ = std::make_unique<RunningProxy>(std::move(options));
    for (FakeInstance* p : {p1_.get(), p2_.get()}) proxy_->add(router::Side::kPrefill, *p);
    proxy_->on_hub([&](Hub& hub) {
      if (!baton) hub.registry.ask_order(api::HandoverOrder::kLayerwise);
      start_probing(hub, hub.registry.add(router::Side::kDecode, "127.0.0.1", d_->port(), hub.loop.now()));
      return 0;
    });
    ASSERT_TRUE(proxy_->becomes([](const Hub& hub) {
      return std::ranges::all_of(hub.registry.instances(),
                                 [](const auto& i) { return i->health == router::Health::kUp; });
    }));
  }
  bool is_idle() {
    return proxy_->is_idle() && proxy_->becomes([](const Hub& hub) { return hub.reservations.empty(); });
  }
  bool becomes(const std::function<bool()>& holds) {
    return proxy_->becomes([&](const Hub&) { return holds(); });
  }

  std::unique_ptr<FakeInstance> p1_, p2_;
  std::unique_ptr<PostingInstance> d_;
  std::unique_ptr<RunningProxy> proxy_;
};

TEST_F(LayerwiseTest, DPostsPPrefillsAndTheAnswerHasPsPart) {
  start();
  p1_->script({kPrefilled});
  const std::string answer = proxy_->post(R"({"prompt":"x","max_tokens":5})");
  EXPECT_EQ(status_of(answer), "200");
  EXPECT_NE(answer.find(R"("cached_tokens":3)"), std::string::npos) << answer;
  EXPECT_NE(answer.find(fmt::format("X-Baton-Prefill: 127.0.0.1:{}", p1_->port())), std::string::npos)
      << answer;
  EXPECT_NE(answer.find(fmt::format("X-Baton-Decode: 127.0.0.1:{}", d_->port())), std::string::npos)
      << answer;
  EXPECT_EQ(d_->replies(), std::vector<std::string>{R"(200 {"status":"ok"})"});
  ASSERT_EQ(p1_->heard().size(), 1U);
  EXPECT_NE(p1_->heard()[0].find(R"("remote_host":"d","remote_port":7,"baton":{)"), std::string::npos)
      << p1_->heard()[0];
  EXPECT_NE(p1_->heard()[0].find(R"("client_max_tokens":5)"), std::string::npos) << p1_->heard()[0];
  EXPECT_TRUE(is_idle());
}

TEST_F(LayerwiseTest, AStreamWaitsForPsPartAndEndsWhole) {
  start();
  p1_->script(
      {{.pieces = {R"({"choices":[{"index":0,"logprobs":{"tokens":["a","b"],"token_logprobs":[null,-1],)"
                   R"("top_logprobs":[null,{}],"text_offset":[0,1]}}],"usage":{"prompt_tokens":1}})"}}});
  d_->manners().is_stream = true;
  d_->manners().posts = false;  // D had the prompt: P is asked for its logprobs alone
  d_->manners().answer =
      "data: {\"choices\":[{\"index\":0,\"logprobs\":{\"tokens\":[\"c\"],\"token_logprobs\":[-3]}}]}\n\n"
      "data: {\"choices\":[]}\n\ndata: [DONE]\n\n";
  const std::string answer = proxy_->post(R"({"prompt":"x","stream":true,"echo":true,"logprobs":1})");
  EXPECT_NE(answer.find(R"("tokens":["a","c"])"), std::string::npos) << answer;
  EXPECT_NE(answer.find("data: [DONE]"), std::string::npos) << answer;
  ASSERT_EQ(p1_->heard().size(), 1U);
  EXPECT_EQ(p1_->heard()[0].find("kv_transfer_params"), std::string::npos) << p1_->heard()[0];
  EXPECT_TRUE(is_idle());
}

TEST_F(LayerwiseTest, ARepeatedPostHasTheSameReplyAndOnePrefill) {
  start();
  p1_->script({kPrefilled});
  d_->manners().posts_twice = true;
  EXPECT_EQ(status_of(proxy_->post(R"({"prompt":"x"})")), "200");
  EXPECT_EQ(d_->replies(), (std::vector<std::string>{R"(200 {"status":"ok"})", R"(200 {"status":"ok"})"}));
  EXPECT_EQ(p1_->heard().size() + p2_->heard().size(), 1U);
}

TEST_F(LayerwiseTest, EachPromptOfAListHasAReservationOfItsOwn) {
  start();
  for (FakeInstance* p : {p1_.get(), p2_.get()}) p->script({kPrefilled, kPrefilled, kPrefilled});
  const std::string answer = proxy_->post(R"({"prompt":["a","b","c"]})");
  EXPECT_EQ(status_of(answer), "200") << answer;
  EXPECT_EQ(d_->replies(), std::vector<std::string>(3, R"(200 {"status":"ok"})"));
  for (const char* index : {R"("index":0)", R"("index":1)", R"("index":2)"})
    EXPECT_NE(answer.find(index), std::string::npos) << answer;
  EXPECT_TRUE(is_idle());
}

TEST_F(LayerwiseTest, AnotherPIsTriedAndWithoutAnyTheMetaserverSaysWhy) {
  start();
  p1_->script({{.cut = true}});
  p2_->script({kPrefilled});
  EXPECT_EQ(status_of(proxy_->post(R"({"prompt":"x"})")), "200");
  EXPECT_EQ(d_->replies(), std::vector<std::string>{R"(200 {"status":"ok"})"});
  EXPECT_TRUE(is_idle());

  start();
  p1_->script({{.status = 400, .pieces = {R"({"error":{}})"}}});
  EXPECT_EQ(status_of(proxy_->post(R"({"prompt":"x"})")), "200");  // D computed the prompt
  EXPECT_EQ(d_->replies(),
            std::vector<std::string>{fmt::format(
                R"(502 {{"detail":"prefill instance 127.0.0.1:{}: it answers 400"}})", p1_->port())});
  EXPECT_TRUE(is_idle());
}

TEST_F(LayerwiseTest, ADThatGivesUpIsAskedAgainUnderAnotherName) {
  options::ProxyOptions options;
  options.attempts = 2;
  start(true, options);
  p1_->script({{.status = 500}, {.status = 500}});
  p2_->script({{.status = 500}, {.status = 500}});
  d_->manners().status_without_kv = 503;
  const std::string answer = proxy_->post(R"({"prompt":"x"})");
  EXPECT_EQ(status_of(answer), "503");
  EXPECT_EQ(body_of(answer), R"({"error":{"message":"no KV"}})");
  EXPECT_EQ(d_->replies().size(), 2U);
  EXPECT_TRUE(is_idle());
}

TEST_F(LayerwiseTest, AForeignDThatWouldWaitForEverIsLeftAndTheClientHasPsStatus) {
  for (const bool stream : {false, true}) {
    start(false);
    for (FakeInstance* p : {p1_.get(), p2_.get()})
      p->script({{.status = 422, .pieces = {R"({"error":{"message":"no"}})"}}});
    d_->manners().ignores_metaserver = true;
    const std::string answer = proxy_->post(fmt::format(R"({{"prompt":"x","stream":{}}})", stream));
    EXPECT_EQ(status_of(answer), "422");
    EXPECT_EQ(body_of(answer), R"({"error":{"message":"no"}})");
    EXPECT_TRUE(becomes([&] { return d_->left() == 1; }));
    EXPECT_TRUE(is_idle());
  }
}

TEST_F(LayerwiseTest, AClientThatLeavesEndsBoth) {
  start();
  p1_->script({kHolds});
  http::RawClient client = proxy_->connect();
  client.send(RunningProxy::request("POST", "/v1/completions", R"({"prompt":"x"})"));
  ASSERT_TRUE(becomes([&] { return !p1_->heard().empty(); }));
  client.close();
  EXPECT_TRUE(becomes([&] { return p1_->left() == 1; }));
  EXPECT_TRUE(becomes([&] {
    return std::ranges::any_of(p1_->heard(),
                               [](const auto& one) { return one.starts_with("POST /abort_request"); });
  }));
  EXPECT_TRUE(is_idle());
  proxy_->on_hub([](Hub& hub) {
    EXPECT_EQ(hub.metrics.outcomes["client_gone"], 1U);
    for (const auto& instance : hub.registry.instances()) EXPECT_EQ(instance->health, router::Health::kUp);
    return 0;
  });
}

TEST_F(LayerwiseTest, AFrozenPIsLeftWhenAProbeFindsItDown) {
  start();
  p1_->script({kHolds});
  p2_->script({kPrefilled});
  http::RawClient client = proxy_->connect();
  client.send(RunningProxy::request("POST", "/v1/completions", R"({"prompt":"x"})"));
  ASSERT_TRUE(becomes([&] { return !p1_->heard().empty(); }));
  p1_->set_models_status(500);
  proxy_->on_hub([](Hub& hub) {
    for (const auto& instance : hub.registry.instances()) hub.probe_now(instance->id);
    return 0;
  });
  EXPECT_EQ(status_of(client.read_to_end()), "200");
  EXPECT_FALSE(p2_->heard().empty());
}

TEST_F(LayerwiseTest, PostsOfOthersAreRefused) {
  start();
  const std::pair<std::string, std::string> rows[] = {
      {"not JSON", "400"},
      {"{}", "400"},
      {R"({"request_id":"cmpl-nobody-0"})", "404"},
      {R"({"request_id":")" + std::string(router::kMetaserverPostBytesMax, 'x') + "\"}", "413"},
  };
  for (const auto& [body, status] : rows) {
    const std::string answer = proxy_->ask("POST", "/v1/metaserver", body);
    EXPECT_EQ(status_of(answer), status) << body.substr(0, 40);
    EXPECT_TRUE(body_of(answer).starts_with(R"({"detail":)")) << answer;
  }
  // Whoever knows the name but is another instance.
  d_->manners().holds = true;
  d_->manners().posts = false;
  http::RawClient client = proxy_->connect();
  client.send(RunningProxy::request("POST", "/v1/completions", R"({"prompt":"x"})"));
  ASSERT_TRUE(becomes([&] { return !d_->heard().empty(); }));
  const std::string name = proxy_->on_hub([](Hub& hub) { return hub.reservations.begin()->first; });
  const std::string answer = proxy_->ask("POST", "/v1/metaserver", R"({"request_id":")" + name + "\"}");
  EXPECT_EQ(status_of(answer), "403") << answer;
  EXPECT_TRUE(p1_->heard().empty());
}

TEST_F(LayerwiseTest, MixedOrdersAreRefusedByName) {
  start();
  FakeInstance pull(api::identity_of(api::Role::kPrefill));
  proxy_->add(router::Side::kPrefill, pull);
  ASSERT_TRUE(proxy_->becomes([](const Hub& hub) { return !hub.registry.order(); }));
  const std::string answer = proxy_->post(R"({"prompt":"x"})");
  EXPECT_EQ(status_of(answer), "503");
  const std::string words = fmt::format("pull on 127.0.0.1:{}", pull.port());
  EXPECT_NE(answer.find(words), std::string::npos) << answer;
  EXPECT_NE(proxy_->ask("GET", "/healthcheck").find(words), std::string::npos);
  EXPECT_EQ(status_of(proxy_->ask("GET", "/health")), "503");
}

TEST(MetaserverUrl, NamesAnAddressThatDCanDial) {
  http::IoLoop loop;
  struct Row {
    const char* host;
    const char* advertised;
    const char* d;
    const char* url;
  };
  for (const Row& row :
       {Row{"10.0.0.1", "", "10.0.0.9", "http://10.0.0.1:8000/v1/metaserver"},
        Row{"fd00::1", "", "fd00::2", "http://[fd00::1]:8000/v1/metaserver"},
        Row{"0.0.0.0", "proxy.example", "10.0.0.9", "http://proxy.example:8000/v1/metaserver"},
        Row{"0.0.0.0", "", "127.0.0.1", "http://127.0.0.1:8000/v1/metaserver"},
        Row{"::", "", "::1", "http://[::1]:8000/v1/metaserver"}}) {
    options::ProxyOptions options;
    options.host = row.host;
    options.advertise_host = row.advertised;
    Hub hub(loop, options);
    hub.port = 8000;
    router::Instance d;
    d.host = row.d;
    d.port = 1;
    EXPECT_EQ(hub.metaserver_url(d), row.url) << row.host << " " << row.d;
  }
}

}  // namespace
}  // namespace baton::proxy
