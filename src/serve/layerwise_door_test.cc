// The layer-wise order at the door of D: what goes to the metaserver, and what comes of its answer.
#include "serve/door_testing.h"

namespace baton::serve {
namespace {

// Becomes true, or patience ends.
template <class Task>
bool becomes(Task holds) {
  for (int i = 0; i < 2000; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// A metaserver that answers with `status`, or never.
class Metaservers {
 public:
  explicit Metaservers(int status) {
    auto listener = net::listen({"127.0.0.1", 0});
    CHECK(listener.has_value());
    url = "http://" + net::to_string(listener->local) + "/v1/metaserver";
    thread_.call([&] {
      server_ = std::make_unique<http::Server>(
          thread_.loop(), std::move(*listener), http::ServerOptions{},
          [this, status](http::Request& request, http::ResponseWriter& writer) -> http::Awaitable<void> {
            return answer(status, request, writer);
          });
      server_->start();
    });
  }
  ~Metaservers() {
    thread_.call([this] { server_.reset(); });
  }
  std::vector<std::string> heard() {
    return thread_.call([this] { return heard_; });
  }
  int left() {
    return thread_.call([this] { return left_; });
  }

  std::string url;

 private:
  http::Awaitable<void> answer(int status, http::Request& request, http::ResponseWriter& writer) {
    heard_.push_back(request.body);
    if (status != 0) {
      writer.send(status, "application/json", R"({"detail":"from the metaserver"})");
      co_return;
    }
    http::Wake never(thread_.loop());
    const auto woken = co_await never.wait();
    left_ += woken ? 0 : 1;
  }

  http::LoopThread thread_;
  std::unique_ptr<http::Server> server_;
  std::vector<std::string> heard_;
  int left_ = 0;
};

// Reserves, and leaves the rest to the test.
Script reserves() {
  return [](const engine::Request& request) {
    return std::vector<engine::Answer>{
        engine::ReservedEvent{.request = request.id,
                              .transfer = request.transfer,
                              .blocks = {BlockId{4}},
                              .tokens = static_cast<uint32_t>(request.prompt.size()),
                              .tokens_present = 0,
                              .prompt_hash = request.remote ? request.remote->prompt_hash : ""}};
  };
}

void make_layerwise(Door& door) {
  door.model().identity.hands_over = true;
  door.model().identity.order = api::HandoverOrder::kLayerwise;
  door.desk().advertised_host = "10.0.0.2";
  door.desk().side_channel_port = 30200;
}

std::string to_metaserver(const std::string& url) {
  return R"("kv_transfer_params":{"do_remote_decode":false,"do_remote_prefill":true,"metaserver":")" + url +
         "\"}";
}

TEST(Layerwise, DPostsWhatItReservedUnderTheRequestsNameAndHangsUpWhenTheRequestEnds) {
  for (const bool chat : {false, true}) {
    Metaservers metaserver(0);
    Door door(reserves());
    make_layerwise(door);
    http::RawClient client(door.at());
    const std::string body = chat ? R"({"messages":[{"role":"user","content":"hi"}],"stream":true,)" +
                                        to_metaserver(metaserver.url) + "}"
                                  : R"({"prompt":"hi","stream":true,)" + to_metaserver(metaserver.url) + "}";
    client.send(std::string("POST ") + (chat ? "/v1/chat/completions" : "/v1/completions") +
                " HTTP/1.1\r\nHost: x\r\nX-Request-Id: r7\r\nContent-Length: " + std::to_string(body.size()) +
                "\r\n\r\n" + body);
    ASSERT_TRUE(becomes([&] { return !metaserver.heard().empty(); }));
    const json::value post = json::parse(metaserver.heard()[0]);
    EXPECT_EQ(post.at("request_id"), chat ? "chatcmpl-r7" : "cmpl-r7-0");
    EXPECT_EQ(post.at("remote_host"), "10.0.0.2");
    EXPECT_EQ(post.at("remote_port"), 30200);
    EXPECT_EQ(json::serialize(post.at("remote_block_ids")), "[[4]]");
    const auto posted = door.posted();
    const auto& submit = std::get<engine::Submit>(posted.at(0));
    EXPECT_EQ(post.at("baton").at("landing").at("transfer_id").as_string(), submit.request.transfer.hex());
    EXPECT_EQ(metaserver.left(), 0);
    client.close();
    EXPECT_TRUE(becomes([&] { return metaserver.left() == 1; }));
  }
}

TEST(Layerwise, AStreamDoesNotWaitForTheMetaserversAnswerAndHasNoHeadBeforeItsFirstToken) {
  Metaservers metaserver(0);
  Door door(reserves());
  make_layerwise(door);
  const std::string body = R"({"prompt":"hi","stream":true,)" + to_metaserver(metaserver.url) + "}";
  const std::string request =
      "POST /v1/completions HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  http::RawClient streams(door.at());
  streams.send(request);
  ASSERT_TRUE(becomes([&] { return metaserver.heard().size() == 1; }));
  door.deliver(says("ok")(std::get<engine::Submit>(door.posted()[0]).request));
  const std::string answer = streams.read_to_end();
  EXPECT_EQ(answer.substr(9, 3), "200");
  EXPECT_NE(answer.find("[DONE]"), std::string::npos) << answer;
  EXPECT_EQ(answer.find("X-Baton-Kv-Unused"), std::string::npos) << answer;
  EXPECT_TRUE(becomes([&] { return metaserver.left() == 1; }));

  http::RawClient fails(door.at());
  fails.send(request);
  ASSERT_TRUE(becomes([&] { return metaserver.heard().size() == 2; }));
  const RequestId id = std::get<engine::Submit>(door.posted().back()).request.id;
  door.deliver({engine::FailedEvent{.request = id, .error = {Code::kUnavailable, "hand-over: no"}}});
  EXPECT_EQ(fails.read_to_end().substr(9, 3), "503");
}

TEST(Layerwise, AMetaserverThatSendsNobodyIsToldToTheEngineAndItsWordsStayHere) {
  Metaservers metaserver(404);
  Door door(reserves());
  make_layerwise(door);
  http::RawClient client(door.at());
  const std::string body = R"({"prompt":"hi",)" + to_metaserver(metaserver.url) + "}";
  client.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n" + body);
  ASSERT_TRUE(becomes([&] { return door.posted().size() == 2; }));
  const auto posted = door.posted();
  const auto* refused = std::get_if<engine::ReservationRefused>(&posted[1]);
  ASSERT_NE(refused, nullptr);
  EXPECT_EQ(refused->transfer, std::get<engine::Submit>(posted[0]).request.transfer);
  EXPECT_NE(refused->error.message.find("it answers 404"), std::string::npos) << refused->error.message;
  EXPECT_EQ(refused->error.message.find("from the metaserver"), std::string::npos) << refused->error.message;
}

}  // namespace
}  // namespace baton::serve
