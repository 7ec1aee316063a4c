// What a post to a metaserver reports, and when it does not.
#include "serve/metaserver.h"

#include <gtest/gtest.h>

#include <mutex>

#include "http/server.h"
#include "http/testing.h"
#include "http/wake.h"

namespace baton::serve {
namespace {

// Answers every post with one status, or not at all.
class ScriptedMetaserver {
 public:
  explicit ScriptedMetaserver(int status) : status_(status) {
    auto listener = net::listen({"127.0.0.1", 0});
    CHECK(listener.has_value());
    at_ = net::to_address(listener->local);
    thread_.call([&] {
      server_ = std::make_unique<http::Server>(
          thread_.loop(), std::move(*listener), http::ServerOptions{},
          [this](http::Request& request, http::ResponseWriter& writer) { return answer(request, writer); });
      server_->start();
    });
  }
  ~ScriptedMetaserver() {
    thread_.call([this] { server_.reset(); });
  }

  net::Address at() const { return at_; }
  std::vector<std::string> heard() {
    return thread_.call([this] { return heard_; });
  }
  int left() {
    return thread_.call([this] { return left_; });
  }

 private:
  http::Awaitable<void> answer(http::Request& request, http::ResponseWriter& writer) {
    heard_.push_back(request.method + " " + request.target + " " + request.body);
    if (status_ == 0) {
      http::Wake never(thread_.loop());
      const auto woken = co_await never.wait();
      left_ += woken ? 0 : 1;
      co_return;
    }
    writer.send(status_, "application/json", R"({"detail":"secret"})");
  }

  int status_;
  net::Address at_;
  http::LoopThread thread_;
  std::unique_ptr<http::Server> server_;
  std::vector<std::string> heard_;
  int left_ = 0;
};

class Poster {
 public:
  Poster() {
    thread_.call([this] { client_ = std::make_unique<http::Client>(thread_.loop(), http::ClientOptions{}); });
  }
  ~Poster() {
    thread_.call([this] {
      post_.reset();
      client_.reset();
    });
  }
  void post(const net::Address& to) {
    thread_.call([&] {
      post_ = std::make_unique<MetaserverPost>(thread_.loop(), *client_, Metaserver{to, "/v1/metaserver?x=1"},
                                               "{}",
                                               [this](Error error) { refused_.push_back(std::move(error)); });
    });
  }
  void leave() {
    thread_.call([this] { post_.reset(); });
  }
  std::vector<Error> refused() {
    return thread_.call([this] { return refused_; });
  }
  size_t busy() {
    return thread_.call([this] { return client_->counters().connections_busy; });
  }

 private:
  http::LoopThread thread_;
  std::unique_ptr<http::Client> client_;
  std::unique_ptr<MetaserverPost> post_;
  std::vector<Error> refused_;
};

template <class Task>
bool becomes(Task holds) {
  for (int i = 0; i < 2000; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

TEST(MetaserverPost, AGoodAnswerChangesNothing) {
  for (const int status : {200, 204}) {
    ScriptedMetaserver server(status);
    Poster poster;
    poster.post(server.at());
    ASSERT_TRUE(becomes([&] { return !server.heard().empty() && poster.busy() == 0; }));
    EXPECT_EQ(server.heard(), std::vector<std::string>{"POST /v1/metaserver?x=1 {}"});
    EXPECT_TRUE(poster.refused().empty());
  }
}

TEST(MetaserverPost, AnyOtherStatusIsReportedWithoutTheBody) {
  for (const int status : {302, 404, 502}) {
    ScriptedMetaserver server(status);
    Poster poster;
    poster.post(server.at());
    ASSERT_TRUE(becomes([&] { return !poster.refused().empty(); }));
    ASSERT_EQ(poster.refused().size(), 1U);
    const Error error = poster.refused()[0];
    EXPECT_EQ(error.code, Code::kUnavailable);
    EXPECT_NE(error.message.find("it answers " + std::to_string(status)), std::string::npos) << error.message;
    EXPECT_NE(error.message.find(net::to_string(server.at())), std::string::npos) << error.message;
    EXPECT_EQ(error.message.find("secret"), std::string::npos) << error.message;
  }
}

TEST(MetaserverPost, AMetaserverThatIsNotThereIsReported) {
  net::Address nobody;
  {
    const ScriptedMetaserver server(200);
    nobody = server.at();
  }
  Poster poster;
  poster.post(nobody);
  ASSERT_TRUE(becomes([&] { return !poster.refused().empty(); }));
  EXPECT_NE(poster.refused()[0].message.find("metaserver"), std::string::npos);
}

TEST(MetaserverPost, GoingOutOfScopeHangsUpAndReportsNothing) {
  ScriptedMetaserver server(0);
  Poster poster;
  poster.post(server.at());
  ASSERT_TRUE(becomes([&] { return !server.heard().empty(); }));
  poster.leave();
  EXPECT_TRUE(becomes([&] { return server.left() == 1; }));
  EXPECT_TRUE(poster.refused().empty());
}

}  // namespace
}  // namespace baton::serve
