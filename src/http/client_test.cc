#include "http/client.h"

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <vector>

#include "http/server.h"
#include "http/sse.h"
#include "http/testing.h"
#include "http/wake.h"

namespace baton::http {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Answers each connection by a script: what the peer sends once it has read a request, and whether it then
// closes. Connections beyond the script are closed at once.
struct Line {
  std::string bytes;
  bool closes = false;
  int requests = 1;  // answered on this connection, each with `bytes`
};

class ScriptedPeer {
 public:
  explicit ScriptedPeer(std::vector<Line> script) {
    auto listener = net::listen({"127.0.0.1", 0});
    CHECK(listener.has_value());
    listener_ = std::move(*listener);
    thread_ = std::thread([this, script = std::move(script)] { play(script); });
  }
  ~ScriptedPeer() {
    stop_ = true;
    ::shutdown(listener_.fd.get(), SHUT_RDWR);
    thread_.join();
  }

  net::Address at() const { return net::to_address(listener_.local); }
  int requests() const { return requests_; }

 private:
  void play(const std::vector<Line>& script) {
    std::vector<RawClient> open;
    for (size_t i = 0; !stop_; ++i) {
      pollfd waiting{.fd = listener_.fd.get(), .events = POLLIN, .revents = 0};
      poll(&waiting, 1, 50);
      net::Fd fd(accept(listener_.fd.get(), nullptr, nullptr));
      if (!fd) {
        --i;
        continue;
      }
      RawClient peer(std::move(fd));
      if (i >= script.size()) continue;
      for (int request = 0; request < script[i].requests; ++request) {
        peer.read_until("\r\n\r\n");
        ++requests_;
        peer.send(script[i].bytes);
      }
      if (!script[i].closes) open.push_back(std::move(peer));
    }
  }

  net::Listener listener_;
  std::atomic<bool> stop_ = false;
  std::atomic<int> requests_ = 0;
  std::thread thread_;
};

class ClientTest : public testing::Test {
 protected:
  ~ClientTest() override {
    thread_.call([&] { client_.reset(); });
  }

  void start() { client_.emplace(thread_.loop(), options_); }

  static Awaitable<void> ask(Client& client, ClientRequest request, Result<Response>& response) {
    response = co_await client.request(std::move(request));
  }

  Result<Response> get(const net::Address& to, const std::function<void(ClientRequest&)>& change = {}) {
    ClientRequest request;
    request.to = to;
    if (change) change(request);
    Result<Response> response = fail(Code::kInvalid, "not asked");
    thread_.await(ask(*client_, std::move(request), response));
    return response;
  }

  ClientCounters counters() {
    return thread_.call([&] { return client_->counters(); });
  }

  LoopThread thread_;
  ClientOptions options_;
  std::optional<Client> client_;
};

constexpr std::string_view kOk = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

// ---- one exchange

struct Exchange {
  const char* name;
  std::string answer;
  bool closes;
  std::optional<Code> error;
  int status;
  std::string_view body;
};

const std::vector<Exchange> kExchanges = {
    {"length", std::string(kOk), false, {}, 200, "ok"},
    {"chunks",
     "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
     false,
     {},
     404,
     "abc"},
    {"to the end", "HTTP/1.1 200 OK\r\n\r\nall there is", true, {}, 200, "all there is"},
    {"no content", "HTTP/1.1 204 No Content\r\n\r\n", false, {}, 204, ""},
    {"interim first",
     "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\na: b\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: "
     "1\r\n\r\nx",
     false,
     {},
     201,
     "x"},
    {"empty", "", true, Code::kUnavailable, 0, ""},
    {"cut in the head", "HTTP/1.1 200 OK\r\nConte", true, Code::kUnavailable, 0, ""},
    {"cut in the body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", true, Code::kUnavailable, 0, ""},
    {"cut in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", true,
     Code::kUnavailable, 0, ""},
    {"no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", true,
     Code::kUnavailable, 0, ""},
    {"not http", "SSH-2.0-OpenSSH\r\n\r\n", false, Code::kCorrupt, 0, ""},
    {"bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", false, Code::kCorrupt, 0,
     ""},
    {"head too long", "HTTP/1.1 200 OK\r\na: " + std::string(5000, 'x') + "\r\n\r\n", false, Code::kCorrupt,
     0, ""},
    {"body too long", "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + std::string(2000, 'x'), false,
     Code::kExhausted, 0, ""},
    {"silence", "", false, Code::kTimeout, 0, ""},
    {"silence in the body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", false, Code::kTimeout, 0, ""},
};

TEST_F(ClientTest, MakesAResponseOrAnErrorOfWhateverAPeerSends) {
  options_.head_bytes_max = 4096;
  options_.body_bytes_max = 1000;
  options_.head_timeout = milliseconds(100);
  options_.idle_timeout = milliseconds(100);
  start();
  for (const Exchange& row : kExchanges) {
    const ScriptedPeer peer({{row.answer, row.closes}});
    const Result<Response> response = get(peer.at());
    if (row.error) {
      ASSERT_FALSE(response.has_value()) << row.name;
      EXPECT_EQ(response.error().code, *row.error) << row.name << ": " << response.error().message;
      EXPECT_NE(
          response.error().message.find(row.error == Code::kExhausted ? "1000" : net::to_string(peer.at())),
          std::string::npos)
          << response.error().message;
      continue;
    }
    ASSERT_TRUE(response.has_value()) << row.name << ": " << response.error().message;
    EXPECT_EQ(response->status, row.status) << row.name;
    EXPECT_EQ(response->body, row.body) << row.name;
    EXPECT_FALSE(response->headers.has("Content-Length"));
  }
  EXPECT_EQ(counters().connections_busy, 0U);
}

TEST_F(ClientTest, SaysThatNobodyListens) {
  start();
  auto listener = net::listen({"127.0.0.1", 0});
  const net::Address at = net::to_address(listener->local);
  listener->fd.reset();
  const Result<Response> response = get(at);
  ASSERT_FALSE(response.has_value());
  EXPECT_EQ(response.error().code, Code::kUnavailable);
  EXPECT_NE(response.error().message.find(net::to_string(at)), std::string::npos) << response.error().message;
  const Result<Response> nowhere = get({"no-such-host.invalid", 80});
  ASSERT_FALSE(nowhere.has_value());
  EXPECT_EQ(nowhere.error().code, Code::kUnavailable);
  EXPECT_NE(nowhere.error().message.find("no-such-host.invalid"), std::string::npos);
}

TEST_F(ClientTest, RefusesToSendWhatIsNoRequest) {
  start();
  for (const std::string_view target : {"", "x", "/a b", "/a\r\nx: y"}) {
    const auto response = get({"127.0.0.1", 1}, [&](ClientRequest& request) { request.target = target; });
    ASSERT_FALSE(response.has_value());
    EXPECT_EQ(response.error().code, Code::kInvalid) << target;
  }
}

// ---- kept connections

TEST_F(ClientTest, KeepsConnectionsAndNoticesThatOneWasClosed) {
  start();
  const ScriptedPeer peer({{std::string(kOk), true, 3}, {std::string(kOk), false, 1}});
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(get(peer.at()).has_value());
  EXPECT_EQ(counters().connections_opened, 1U);
  // The peer has closed or is about to: the next request works either way.
  ASSERT_TRUE(get(peer.at()).has_value());
  EXPECT_EQ(counters().connections_opened, 2U);
  EXPECT_EQ(peer.requests(), 4);
}

TEST_F(ClientTest, SendsOnceMoreOnlyWhenAKeptConnectionClosedUnused) {
  start();
  // The second answer on the first connection is empty: closed before any byte.
  auto listener = net::listen({"127.0.0.1", 0});
  const net::Address at = net::to_address(listener->local);
  const auto accept_one = [&] {
    pollfd waiting{.fd = listener->fd.get(), .events = POLLIN, .revents = 0};
    poll(&waiting, 1, 20'000);
    return RawClient(net::Fd(accept(listener->fd.get(), nullptr, nullptr)));
  };
  for (const bool resend : {true, false}) {
    std::thread peer([&] {
      RawClient first = accept_one();
      first.read_until("\r\n\r\n");
      first.send(kOk);
      first.read_until("\r\n\r\n");
      first.close();
      if (!resend) return;
      RawClient second = accept_one();
      second.read_until("\r\n\r\n");
      second.send(kOk);
    });
    thread_.call([&] { client_->close_idle(); });
    ASSERT_TRUE(get(at).has_value());
    const auto again = get(at, [&](ClientRequest& request) { request.resend = resend; });
    EXPECT_EQ(again.has_value(), resend);
    peer.join();
  }
  EXPECT_EQ(counters().resent, 1U);
}

TEST_F(ClientTest, ForgetsKeptConnectionsThatAreOld) {
  options_.keep_idle = milliseconds(60);
  start();
  const ScriptedPeer peer({{std::string(kOk), false, 1}});
  ASSERT_TRUE(get(peer.at()).has_value());
  EXPECT_EQ(counters().connections_idle, 1U);
  while (counters().connections_idle > 0) std::this_thread::sleep_for(milliseconds(5));
}

// ---- client and server together

class RelayTest : public ClientTest {
 protected:
  ~RelayTest() override {
    thread_.call([&] { servers_.clear(); });
  }

  net::Address serve(Handler handler) {
    auto listener = net::listen({"::1", 0});
    if (!listener) listener = net::listen({"127.0.0.1", 0});
    CHECK(listener.has_value());
    const net::Address at = net::to_address(listener->local);
    servers_.push_back(
        std::make_unique<Server>(thread_.loop(), std::move(*listener), ServerOptions{}, std::move(handler)));
    thread_.call([&] { servers_.back()->start(); });
    return at;
  }

  std::vector<std::unique_ptr<Server>> servers_;
};

// The shape of a proxy: events pass on as they are.
Awaitable<void> relay(Client& client, net::Address to, Request& request, ResponseWriter& writer) {
  ClientRequest upstream;
  upstream.to = std::move(to);
  upstream.method = request.method;
  upstream.target = request.target;
  upstream.body = std::move(request.body);
  Result<ResponseStream> stream = co_await client.open(std::move(upstream));
  if (!stream) {
    writer.send_error(502, stream.error().message);
    co_return;
  }
  writer.start_stream(stream->status(), stream->headers().get("Content-Type").value_or(""));
  SseParser parser;
  while (true) {
    const Result<std::string_view> piece = co_await stream->read();
    if (!piece) {
      writer.append(render_event("error", piece.error().message));
      writer.abort();
      co_return;
    }
    if (piece->empty()) co_return;
    const Result<void> fed = parser.feed(*piece);
    if (!fed) co_return;
    while (const auto event = parser.next()) {
      const Result<void> written = co_await writer.write(event->raw);
      if (!written) co_return;
    }
  }
}

TEST_F(RelayTest, PassesAStreamOnToTheByte) {
  start();
  const net::Address engine = serve([](Request& request, ResponseWriter& writer) -> Awaitable<void> {
    writer.start_stream(200, kEventStream);
    for (int i = 0; i < 500; ++i) {
      const std::string event =
          render_event(request.body.substr(0, 10) + std::to_string(i) + std::string(300, 'x'));
      const Result<void> written = co_await writer.write(event);
      if (!written) co_return;
    }
    writer.append(kDoneEvent);
  });
  const net::Address proxy = serve(
      [&](Request& request, ResponseWriter& writer) { return relay(*client_, engine, request, writer); });
  const auto post = [](ClientRequest& request) {
    request.method = "POST";
    request.body = std::string(100'000, 'p');
  };
  const Result<Response> direct = get(engine, post);
  const Result<Response> relayed = get(proxy, post);
  ASSERT_TRUE(direct.has_value() && relayed.has_value());
  EXPECT_GT(direct->body.size(), 150'000U);
  EXPECT_EQ(direct->body, relayed->body);
}

TEST_F(RelayTest, TellsThePeerAtOnceThatItsClientLeft) {
  start();
  Wake never(thread_.loop());
  std::promise<void> engine_told;
  const net::Address engine = serve([&](Request&, ResponseWriter& writer) -> Awaitable<void> {
    writer.start_stream(200, kEventStream);
    writer.append(render_event("first"));
    const Result<void> woken = co_await never.wait();
    if (!woken && writer.hung_up()) engine_told.set_value();
  });
  const net::Address proxy = serve(
      [&](Request& request, ResponseWriter& writer) { return relay(*client_, engine, request, writer); });
  RawClient client(*net::literal_endpoint(proxy.host, proxy.port));
  client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(client.read_until("first\n\n").ends_with("data: first\n\n"));
  client.close();
  EXPECT_EQ(engine_told.get_future().wait_for(seconds(20)), std::future_status::ready);
  EXPECT_EQ(counters().connections_busy, 0U);
  EXPECT_EQ(counters().connections_idle, 0U);
}

// `head`: whether the engine has begun to answer when its client's owner loses interest.
TEST_F(RelayTest, AnInterruptEndsARequestWhereverItIs) {
  start();
  Wake never(thread_.loop());
  for (const bool head : {false, true}) {
    SCOPED_TRACE(head ? "in the body" : "before the head");
    std::promise<void> engine_asked;
    std::promise<void> engine_told;
    const net::Address engine = serve([&](Request&, ResponseWriter& writer) -> Awaitable<void> {
      if (head) {
        writer.start_stream(200, kEventStream);
        writer.append(render_event("first"));
      }
      thread_.loop().post([&] { engine_asked.set_value(); });
      const Result<void> woken = co_await never.wait();
      if (!woken && writer.hung_up()) engine_told.set_value();
    });
    Interrupt interrupt;
    std::promise<Result<Response>> answered;
    thread_.call([&] {
      ClientRequest request{.to = engine, .headers = {}, .body = {}, .interrupt = interrupt};
      const auto run = [](Client& client, ClientRequest what,
                          std::promise<Result<Response>>& out) -> Awaitable<void> {
        auto response = co_await client.request(std::move(what));
        out.set_value(std::move(response));
      };
      thread_.loop().spawn("ask", run(*client_, std::move(request), answered));
    });
    engine_asked.get_future().wait();
    auto answer = answered.get_future();
    thread_.call([&] {
      interrupt.trigger();
      EXPECT_EQ(answer.wait_for(seconds(0)), std::future_status::timeout)
          << "whoever waits ran within trigger()";
    });
    EXPECT_EQ(answer.get().error().code, Code::kCancelled);
    EXPECT_EQ(engine_told.get_future().wait_for(seconds(20)), std::future_status::ready);
    EXPECT_EQ(counters().connections_busy, 0U);
    // What is asked later too, until reset().
    const auto again = [&](ClientRequest& request) { request.interrupt = interrupt; };
    EXPECT_EQ(get(engine, again).error().code, Code::kCancelled);
  }
}

TEST_F(RelayTest, AnInterruptWhoseRequestIsOverTouchesNobody) {
  start();
  Wake go(thread_.loop());
  std::promise<void> asked_again;
  int requests = 0;
  const net::Address engine = serve([&](Request&, ResponseWriter& writer) -> Awaitable<void> {
    if (++requests == 2) {
      asked_again.set_value();
      const Result<void> woken = co_await go.wait();
      if (!woken) co_return;
    }
    writer.send(200, "text/plain", "ok");
  });
  Interrupt interrupt;
  ASSERT_TRUE(get(engine, [&](ClientRequest& request) { request.interrupt = interrupt; }));
  std::thread second([&] { EXPECT_TRUE(get(engine)) << "it was interrupted by another's interrupt"; });
  asked_again.get_future().wait();
  thread_.call([&] {
    interrupt.trigger();
    go.notify();
  });
  second.join();
  EXPECT_EQ(counters().connections_opened, 1U);  // the second went over the first's connection
  thread_.call([&] { interrupt.reset(); });
  EXPECT_TRUE(get(engine, [&](ClientRequest& request) { request.interrupt = interrupt; }));
}

// More than a socket takes at once, so that head and body leave in several pieces.
TEST_F(RelayTest, SendsALargeBodyWhole) {
  start();
  const net::Address engine = serve([&](Request& request, ResponseWriter& writer) -> Awaitable<void> {
    writer.send(200, "text/plain", request.body);
    co_return;
  });
  std::string body(20'000'000, 'x');
  for (size_t i = 0; i < body.size(); i += 997) body[i] = static_cast<char>('a' + i % 26);
  const auto response = get(engine, [&](ClientRequest& request) {
    request.method = "POST";
    request.body = body;
  });
  ASSERT_TRUE(response) << response.error().message;
  EXPECT_TRUE(response->body == body);
}

TEST_F(RelayTest, HoldsBackAPeerThatIsFasterThanItsReader) {
  options_.piece_bytes_max = 16 * 1024;
  start();
  Wake go(thread_.loop());
  size_t written_pieces = 0;
  const net::Address engine = serve([&](Request&, ResponseWriter& writer) -> Awaitable<void> {
    writer.start_stream(200, "text/plain");
    const std::string piece(10'000, 'x');
    for (written_pieces = 0; written_pieces < 3000; ++written_pieces) {
      const Result<void> written = co_await writer.write(piece);
      if (!written) co_return;
    }
  });
  size_t total = 0;
  const auto read_late = [](Client& client, net::Address to, Wake& start_reading,
                            size_t& bytes) -> Awaitable<void> {
    ClientRequest request;
    request.to = std::move(to);
    Result<ResponseStream> stream = co_await client.open(std::move(request));
    if (!stream) co_return;
    const Result<void> slept = co_await start_reading.wait_for(milliseconds(200));
    EXPECT_EQ(slept.error().code, Code::kTimeout);
    while (true) {
      const Result<std::string_view> piece = co_await stream->read();
      if (!piece || piece->empty()) co_return;
      EXPECT_LE(piece->size(), 48U * 1024);
      bytes += piece->size();
    }
  };
  std::thread reader([&] { thread_.await(read_late(*client_, engine, go, total)); });
  reader.join();
  EXPECT_EQ(total, 30'000'000U);
}

TEST_F(RelayTest, ManyRequestsAtOnceEachGetTheirOwnAnswer) {
  start();
  const net::Address engine = serve([&](Request& request, ResponseWriter& writer) -> Awaitable<void> {
    const Result<void> slept = co_await thread_.loop().sleep(milliseconds(request.body.size() % 7));
    if (slept) writer.send(200, "text/plain", request.body);
  });
  size_t right = 0;
  const auto ask_many = [](Client& client, net::Address to, int number, size_t& count) -> Awaitable<void> {
    for (int i = 0; i < 20; ++i) {
      ClientRequest request;
      request.to = to;
      request.method = "POST";
      request.body = std::string(static_cast<size_t>(number + i), 'a') + std::to_string(number * 1000 + i);
      const std::string body = request.body;
      const Result<Response> response = co_await client.request(std::move(request));
      if (response && response->body == body) ++count;
    }
  };
  std::vector<std::promise<void>> done(32);
  for (int number = 0; number < 32; ++number) {
    thread_.call([&, number] {
      thread_.loop().spawn("ask", ask_many(*client_, engine, number, right),
                           [&, number] { done[static_cast<size_t>(number)].set_value(); });
    });
  }
  for (auto& one : done) one.get_future().get();
  EXPECT_EQ(right, 32U * 20);
  EXPECT_LE(counters().connections_opened, 32U);
}

}  // namespace
}  // namespace baton::http
