#include "http/server.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <boost/system/error_code.hpp>

#include <optional>

#include "http/sse.h"
#include "http/testing.h"
#include "http/wake.h"

namespace baton::http {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// The routes that the tests ask.
Awaitable<void> answer(IoLoop& loop, Request& request, ResponseWriter& writer) {
  if (request.path() == "/silent") co_return;
  if (request.path() == "/big") {
    writer.send(200, "text/plain", std::string(200'000, 'b'));
    co_return;
  }
  if (request.path() == "/stream") {
    writer.start_stream(200, kEventStream);
    for (const std::string_view data : {"one", "two", "[DONE]"}) {
      const Result<void> written = co_await writer.write(render_event(data));
      if (!written) co_return;
    }
    co_return;
  }
  if (request.path() == "/later") {
    const Result<void> slept = co_await loop.sleep(milliseconds(5));
    if (!slept) co_return;
  }
  if (request.path() == "/cut") {
    writer.start_stream(200, kEventStream);
    writer.append(render_event("half"));
    writer.abort();
    co_return;
  }
  std::string echo = request.method + " " + request.target + " " + std::to_string(request.body.size()) + ":";
  echo += request.body.substr(0, 100);
  writer.send(200, "text/plain", echo);
}

class ServerTest : public testing::Test {
 protected:
  ServerTest() { options_.server_name = "test"; }
  ~ServerTest() override {
    if (server_) {
      thread_.call([&] { server_.reset(); });
    }
  }

  void start(Handler handler = {}) {
    auto listener = net::listen({"127.0.0.1", 0});
    ASSERT_TRUE(listener.has_value());
    at_ = listener->local;
    if (!handler) {
      handler = [this](Request& request, ResponseWriter& writer) {
        return answer(thread_.loop(), request, writer);
      };
    }
    server_.emplace(thread_.loop(), std::move(*listener), options_, std::move(handler));
    thread_.call([&] { server_->start(); });
  }

  ServerCounters counters() {
    return thread_.call([&] { return server_->counters(); });
  }

  LoopThread thread_;
  ServerOptions options_;
  std::optional<Server> server_;
  net::Endpoint at_;
};

constexpr std::string_view kDateField = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

size_t count_responses(std::string_view text) {
  size_t count = 0;
  for (size_t at = text.find("HTTP/1.1 "); at != std::string_view::npos;
       at = text.find("HTTP/1.1 ", at + 1)) {
    ++count;
  }
  return count;
}

std::string without_dates(std::string text) {
  for (size_t at = text.find("Date: "); at != std::string::npos; at = text.find("Date: ")) {
    text.erase(at, kDateField.size());
  }
  return text;
}

// ---- whole conversations over raw bytes, cut anywhere

struct Conversation {
  const char* name;
  std::string_view sent;
  std::string_view received;  // without Date fields; a trailing '$' says that the server closes
};

#define OK_HEAD "HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain\r\n"
#define BAD_HEAD(status) \
  "HTTP/1.1 " status "\r\nServer: test\r\nContent-Type: application/json\r\nConnection: close\r\n"

const std::vector<Conversation> kConversations = {
    {"get", "GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n", OK_HEAD "Content-Length: 13\r\n\r\nGET /a?b=c 0:"},
    {"post", "POST /p HTTP/1.1\r\nhost: x\r\ncontent-LENGTH: 5\r\n\r\nhello",
     OK_HEAD "Content-Length: 15\r\n\r\nPOST /p 5:hello"},
    {"chunked request",
     "POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nT: "
     "v\r\n\r\n",
     OK_HEAD "Content-Length: 15\r\n\r\nPOST /p 5:hello"},
    {"pipelined",
     "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nzGET /later "
     "HTTP/1.1\r\nHost: x\r\n\r\nGET /3 HTTP/1.1\r\nHost: x\r\n\r\n",
     OK_HEAD "Content-Length: 9\r\n\r\nGET /1 0:" OK_HEAD "Content-Length: 11\r\n\r\nPOST /2 1:z" OK_HEAD
             "Content-Length: 13\r\n\r\nGET /later 0:" OK_HEAD "Content-Length: 9\r\n\r\nGET /3 0:"},
    {"close", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
     OK_HEAD "Connection: close\r\nContent-Length: 8\r\n\r\nGET / 0:$"},
    {"http/1.0", "GET / HTTP/1.0\r\n\r\n", OK_HEAD "Connection: close\r\nContent-Length: 8\r\n\r\nGET / 0:$"},
    {"http/1.0 kept", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
     OK_HEAD "Connection: keep-alive\r\nContent-Length: 8\r\n\r\nGET / 0:"},
    {"head", "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", OK_HEAD "Content-Length: 9\r\n\r\n"},
    {"options", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", OK_HEAD "Content-Length: 12\r\n\r\nOPTIONS * 0:"},
    {"absolute form", "GET http://h:1/a HTTP/1.1\r\nHost: x\r\n\r\n",
     OK_HEAD "Content-Length: 9\r\n\r\nGET /a 0:"},
    {"empty lines first", "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
     OK_HEAD "Content-Length: 8\r\n\r\nGET / 0:"},
    {"stream", "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n",
     "HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: "
     "chunked\r\n\r\nb\r\ndata: one\n\n\r\nb\r\ndata: two\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"},
    {"stream to http/1.0", "GET /stream HTTP/1.0\r\n\r\n",
     "HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: "
     "one\n\ndata: two\n\ndata: [DONE]\n\n$"},
    {"head of a stream", "HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n",
     "HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: "
     "chunked\r\n\r\n"},
    {"a stream that is cut has no end", "GET /cut HTTP/1.1\r\nHost: x\r\n\r\n",
     "HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: "
     "chunked\r\n\r\nc\r\ndata: half\n\n\r\n$"},
    {"no answer", "GET /silent HTTP/1.1\r\nHost: x\r\n\r\n",
     "HTTP/1.1 500 Internal Server Error\r\nServer: test\r\nContent-Type: "
     "application/json\r\nContent-Length: "
     "105\r\n\r\n{\"error\":{\"message\":\"the request was not "
     "answered\",\"type\":\"InternalServerError\",\"param\":"
     "null,\"code\":500}}"},
};

TEST_F(ServerTest, AnswersTheSameHoweverTheBytesAreCut) {
  start();
  for (const Conversation& row : kConversations) {
    for (size_t cut = 0; cut < row.sent.size(); ++cut) {
      RawClient client(at_);
      ASSERT_TRUE(client.send(row.sent.substr(0, cut)));
      // The server shall see two reads.
      if (cut > 0) thread_.call([] {});
      ASSERT_TRUE(client.send(row.sent.substr(cut)));
      std::string expected(row.received);
      const bool closes = expected.ends_with('$');
      if (closes) expected.pop_back();
      const size_t size = expected.size() + count_responses(expected) * kDateField.size();
      ASSERT_EQ(without_dates(client.read_exactly(size)), expected) << row.name << " cut at " << cut;
      if (closes) {
        ASSERT_EQ(client.read_to_end(), "") << row.name;
        ASSERT_TRUE(client.at_end()) << row.name;
      } else {
        ASSERT_TRUE(client.send("GET /again HTTP/1.1\r\nHost: x\r\n\r\n"));
        ASSERT_TRUE(client.read_response().ends_with("GET /again 0:")) << row.name;
      }
    }
  }
}

// ---- limits and bad input, each with its status

struct Refusal {
  const char* name;
  std::string sent;
  std::string_view status;   // of the answer; the connection closes behind it
  std::string_view message;  // part of it
};

std::vector<Refusal> refusals() {
  const auto get = [](std::string_view fields) {
    return "GET / HTTP/1.1\r\nHost: x\r\n" + std::string(fields) + "\r\n";
  };
  std::string many;
  for (int i = 0; i < 21; ++i) many += "a: b\r\n";
  return {
      {"not http", "hello there\r\n\r\n", "400", ""},
      {"binary", std::string("\x16\x03\x01\0\x05 abc\r\n\r\n", 14), "400", ""},
      {"http/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400", "HTTP version"},
      {"bare lf", "GET / HTTP/1.1\nHost: x\n\n", "400", ""},
      {"target with a control", "GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", "400", "target"},
      {"target that is no path", "GET x HTTP/1.1\r\nHost: x\r\n\r\n", "400", "expected a path"},
      {"tunnel", "CONNECT h:1 HTTP/1.1\r\nHost: x\r\n\r\n", "400", "expected a path"},
      {"no host", "GET / HTTP/1.1\r\n\r\n", "400", "Host: missing"},
      {"two hosts", get("Host: y\r\n"), "400", "Host: given twice"},
      {"space before colon", get("a : b\r\n"), "400", ""},
      {"control in a field", get("a: b\x01\r\n"), "400", ""},
      {"too many fields", get(many), "431", "more than 20 fields"},
      {"head too long", get("a: " + std::string(1100, 'x') + "\r\n"), "431", "more than 1024 bytes"},
      {"head without end", "GET /" + std::string(3000, 'x'), "431", "more than 1024 bytes"},
      {"many small fields", get("a: " + std::string(500, 'x') + "\r\nb: " + std::string(600, 'x') + "\r\n"),
       "431", "more than 1024 bytes"},
      {"body too long", get("Content-Length: 301\r\n"), "413", "more than 300 bytes"},
      {"length of a galaxy", get("Content-Length: 18446744073709551616\r\n"), "400", ""},
      {"negative length", get("Content-Length: -1\r\n"), "400", ""},
      {"two lengths", get("Content-Length: 1\r\nContent-Length: 2\r\n"), "400", ""},
      {"length and chunks", get("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), "400", ""},
      {"chunks and length", get("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), "400", ""},
      {"unknown coding", get("Transfer-Encoding: gzip, chunked\r\n"), "501", "gzip, chunked"},
      {"coding after chunked", get("Transfer-Encoding: chunked, identity\r\n"), "501", "identity"},
      {"chunks in http/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "400", "HTTP/1.0"},
      {"bad chunk size", get("Transfer-Encoding: chunked\r\n") + "zz\r\n", "400", ""},
      {"chunk size overflows", get("Transfer-Encoding: chunked\r\n") + "fffffffffffffffff\r\n", "400", ""},
      {"chunks too long",
       get("Transfer-Encoding: chunked\r\n") + "c8\r\n" + std::string(200, 'x') + "\r\nc8\r\n", "413",
       "more than 300 bytes"},
      {"chunk line without end", get("Transfer-Encoding: chunked\r\n") + "1;" + std::string(20'000, 'x'),
       "400", "never ends"},
      {"unknown expectation", get("Expect: tea\r\n"), "417", "tea"},
      {"expectation too long", get("Expect: 100-continue\r\nContent-Length: 301\r\n"), "413", ""},
  };
}

TEST_F(ServerTest, RefusesBadInputWithItsStatusAndGoesOn) {
  options_.head_bytes_max = 1024;
  options_.headers_max = 20;
  options_.body_bytes_max = 300;
  start();
  for (const Refusal& row : refusals()) {
    RawClient client(at_);
    client.send(row.sent);
    const std::string response = client.read_to_end();
    EXPECT_TRUE(response.starts_with("HTTP/1.1 " + std::string(row.status) + " "))
        << row.name << ": " << response;
    EXPECT_NE(response.find(row.message), std::string::npos) << row.name << ": " << response;
    EXPECT_NE(response.find("\r\n\r\n{\"error\":{\"message\":\""), std::string::npos) << row.name;
    EXPECT_NE(response.find("\"code\":" + std::string(row.status)), std::string::npos) << row.name;
    EXPECT_EQ(count_responses(response), 1U) << row.name << ": " << response;
  }
  const ServerCounters now = counters();
  EXPECT_EQ(now.bad_requests, refusals().size());
  EXPECT_EQ(now.requests, 0U);
  RawClient client(at_);
  client.send("GET /still HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(client.read_response().ends_with("GET /still 0:"));
}

TEST_F(ServerTest, DeliversItsRefusalToAClientThatIsStillSending) {
  options_.body_bytes_max = 1000;
  start();
  RawClient client(at_);
  client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n");
  const std::string piece(100'000, 'x');
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(client.send(piece)) << i;
  EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 413 "));
}

TEST_F(ServerTest, AsksForABodyThatWaitsToBeAskedFor) {
  start();
  RawClient client(at_);
  client.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.send("hi");
  EXPECT_TRUE(client.read_response().ends_with("POST / 2:hi"));
}

TEST_F(ServerTest, EndsConnectionsThatDoNotGoOn) {
  options_.head_timeout = milliseconds(40);
  options_.body_timeout = milliseconds(40);
  options_.idle_timeout = milliseconds(40);
  start();
  RawClient idle(at_);
  EXPECT_EQ(idle.read_to_end(), "");
  EXPECT_TRUE(idle.at_end());

  RawClient slow_head(at_);
  slow_head.send("GET / HTTP/1.1\r\nHost:");
  EXPECT_TRUE(slow_head.read_to_end().starts_with("HTTP/1.1 408 "));

  RawClient slow_body(at_);
  slow_body.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc");
  EXPECT_TRUE(slow_body.read_to_end().starts_with("HTTP/1.1 408 "));
}

TEST_F(ServerTest, RefusesMoreConnectionsThanItMayHold) {
  options_.connections_max = 2;
  start();
  RawClient first(at_);
  RawClient second(at_);
  RawClient third(at_);
  const std::string refusal = third.read_to_end();
  EXPECT_TRUE(refusal.starts_with("HTTP/1.1 503 ")) << refusal;
  EXPECT_NE(refusal.find("connections: 2 are open"), std::string::npos);
  first.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(first.read_response().starts_with("HTTP/1.1 200 "));
}

TEST_F(ServerTest, SetsNoDelayOnItsConnections) {
  int no_delay = 0;
  start([&](Request&, ResponseWriter& writer) -> Awaitable<void> {
    writer.send(200, "text/plain", "x");
    co_return;
  });
  RawClient client(at_);
  client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  client.read_response();
  // The server's end is the descriptor whose peer is this client.
  const uint16_t port = net::local_endpoint(client.fd()).port();
  for (int fd = 0; fd < 1024; ++fd) {
    if (net::peer_endpoint(fd).port() != port) continue;
    socklen_t size = sizeof(no_delay);
    getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &no_delay, &size);
  }
  EXPECT_EQ(no_delay, 1);
}

// ---- clients that leave, or do not read

struct Watched {
  std::promise<Error> ended;
  std::promise<void> waiting;
  bool told = false;
};

TEST_F(ServerTest, NoticesAClientThatHangsUpWhileTheHandlerWaits) {
  Watched watched;
  Wake never(thread_.loop());
  start([&](Request&, ResponseWriter& writer) -> Awaitable<void> {
    writer.on_hang_up([&] { watched.told = true; });
    watched.waiting.set_value();
    const Result<void> woken = co_await never.wait();
    EXPECT_TRUE(writer.hung_up());
    EXPECT_TRUE(watched.told);
    // Cancelled once, cancelled for good.
    const Result<void> again = co_await thread_.loop().sleep(seconds(100));
    EXPECT_FALSE(again.has_value());
    watched.ended.set_value(woken ? Error{} : woken.error());
  });
  for (const bool reset : {false, true}) {
    watched = Watched();
    RawClient client(at_);
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    watched.waiting.get_future().get();
    if (reset) {
      const linger now{1, 0};
      setsockopt(client.fd(), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    }
    client.close();
    EXPECT_EQ(watched.ended.get_future().get().code, Code::kCancelled);
  }
  EXPECT_EQ(counters().hang_ups, 2U);
  EXPECT_EQ(counters().handlers, 0U);
}

TEST_F(ServerTest, HoldsBackAStreamForASlowReaderAndDropsOneThatStopped) {
  options_.outgoing_bytes_max = 10'000;
  options_.stall_timeout = milliseconds(100);
  std::promise<std::pair<Error, size_t>> ended;
  start([&](Request& request, ResponseWriter& writer) -> Awaitable<void> {
    const size_t pieces = request.path() == "/short" ? 2000 : 1'000'000;
    writer.start_stream(200, kEventStream);
    const std::string piece(1000, 'x');
    for (size_t i = 0; i < pieces; ++i) {
      const Result<void> written = co_await writer.write(piece);
      if (written) continue;
      ended.set_value({written.error(), i});
      co_return;
    }
  });
  // Two megabytes, taken in small sips: everything arrives.
  RawClient sipping(at_);
  sipping.send("GET /short HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_GT(sipping.read_to_end().size(), 2'000'000U);

  RawClient stopped(at_);
  stopped.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto [error, pieces] = ended.get_future().get();
  EXPECT_EQ(error.code, Code::kTimeout);
  // Held back by the buffer's bound and the kernel's, not by memory.
  EXPECT_LT(pieces, 100'000U);
  EXPECT_EQ(counters().stalls, 1U);
}

TEST_F(ServerTest, SendsHeadEventsAndEndTogether) {
  start();
  RawClient client(at_);
  client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  pollfd waiting{.fd = client.fd(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(poll(&waiting, 1, 20'000), 1);
  char bytes[4096];
  const ssize_t got = recv(client.fd(), bytes, sizeof(bytes), 0);
  ASSERT_GT(got, 0);
  const std::string_view first(bytes, static_cast<size_t>(got));
  EXPECT_TRUE(first.starts_with("HTTP/1.1 200 OK"));
  EXPECT_TRUE(first.ends_with("0\r\n\r\n")) << first;
}

TEST_F(ServerTest, HoldsAStreamsHeadButNotTheAnswerBeforeIt) {
  Wake go(thread_.loop());
  start([&](Request& request, ResponseWriter& writer) -> Awaitable<void> {
    if (request.path() == "/first") {
      writer.send(200, "text/plain", "first");
      co_return;
    }
    writer.start_stream(200, kEventStream);
    const Result<void> woken = co_await go.wait();
    EXPECT_TRUE(woken.has_value());
    writer.append("late");
  });
  RawClient client(at_);
  client.send("GET /first HTTP/1.1\r\nHost: x\r\n\r\nGET /second HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(client.read_response().ends_with("first"));
  thread_.call([&] { go.notify(); });
  EXPECT_TRUE(client.read_until("0\r\n\r\n").ends_with("late\r\n0\r\n\r\n"));
}

// ---- the end

TEST_F(ServerTest, DrainsWhatRunsAndCutsWhatDoesNotEnd) {
  Wake go(thread_.loop());
  Wake never(thread_.loop());
  std::promise<void> both;
  int running = 0;
  start([&](Request& request, ResponseWriter& writer) -> Awaitable<void> {
    if (++running == 2) both.set_value();
    Wake& wake = request.path() == "/ends" ? go : never;
    const Result<void> woken = co_await wake.wait();
    if (woken) writer.send(200, "text/plain", "done");
  });
  RawClient idle(at_);
  RawClient ends(at_);
  RawClient stays(at_);
  ends.send("GET /ends HTTP/1.1\r\nHost: x\r\n\r\n");
  stays.send("GET /stays HTTP/1.1\r\nHost: x\r\n\r\n");
  both.get_future().get();
  size_t cut = 0;
  const auto drain = [](Server& server, Wake& wake, size_t& count) -> Awaitable<void> {
    wake.notify();
    count = co_await server.drain(milliseconds(200));
  };
  thread_.await(drain(*server_, go, cut));
  EXPECT_EQ(cut, 1U);
  EXPECT_EQ(idle.read_to_end(), "");
  const std::string response = ends.read_to_end();
  EXPECT_NE(response.find("Connection: close"), std::string::npos);
  EXPECT_TRUE(response.ends_with("done"));
  EXPECT_EQ(stays.read_to_end(), "");
  EXPECT_FALSE(net::connect(at_, seconds(1)).has_value()) << "nothing listens any more";
}

TEST_F(ServerTest, AStreamIsWholeWhenItIsEndedThoughItsHandlerHasWorkLeft) {
  std::optional<Wake> work;
  thread_.call([&] { work.emplace(thread_.loop()); });
  start([&](Request& request, ResponseWriter& writer) -> Awaitable<void> {
    writer.start_stream(200, kEventStream);
    writer.append(render_event(request.path()));
    writer.end();
    const Result<void> done = co_await work->wait();
    EXPECT_TRUE(done);
  });
  RawClient client(at_);
  for (const std::string path : {"/first", "/second"}) {
    client.send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n");
    const std::string answer = client.read_until("0\r\n\r\n");
    EXPECT_TRUE(answer.ends_with(path + "\n\n\r\n0\r\n\r\n")) << answer;
    thread_.call([&] { work->notify(); });
  }
  client.close();
  thread_.call([&] { server_.reset(); });
  thread_.call([&] { work.reset(); });
}

TEST_F(ServerTest, OutlivesAHandlerThatThrows) {
  start([&](Request& request, ResponseWriter& writer) -> Awaitable<void> {
    if (request.path() == "/stream") writer.start_stream(200, kEventStream);
    std::string().at(1);
    co_return;
  });
  RawClient client(at_);
  client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(client.read_response().starts_with("HTTP/1.1 500 "));
  client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string cut = client.read_to_end();
  EXPECT_TRUE(cut.starts_with("HTTP/1.1 200 ")) << cut;
  EXPECT_FALSE(cut.ends_with("0\r\n\r\n")) << "the client must see that it is not whole";
}

// Exits with 0 if a server that ran out of descriptors serves again once there are some.
int serve_without_descriptors() {
  LoopThread thread;
  auto listener = net::listen({"127.0.0.1", 0});
  if (!listener) return 10;
  const net::Endpoint at = listener->local;
  std::optional<Server> server(std::in_place, thread.loop(), std::move(*listener), ServerOptions{},
                               [](Request&, ResponseWriter& writer) -> Awaitable<void> {
                                 writer.send(200, "text/plain", "here");
                                 co_return;
                               });
  thread.call([&] { server->start(); });
  // Room for this client's end, none for the server's.
  RawClient client(at);
  client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  if (!client.read_response().ends_with("here")) return 11;
  const auto pauses = [&] { return thread.call([&] { return server->counters().accept_pauses; }); };
  // UBSan looks at an object's type with a pipe, once; later there is no descriptor for that.
  const std::string seen = boost::system::error_code(EMFILE, boost::system::system_category()).message();
  if (seen.empty() || pauses() != 0) return 16;
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  net::Fd second(socket(AF_INET, SOCK_STREAM, 0));
  rlimit none = before;
  none.rlim_cur = static_cast<rlim_t>(second.get()) + 1;
  setrlimit(RLIMIT_NOFILE, &none);
  if (connect(second.get(), at.data(), at.size) != 0) return 12;
  // Two pauses: it tries again, at its leisure.
  while (pauses() < 2) std::this_thread::sleep_for(milliseconds(5));
  client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  if (!client.read_response().ends_with("here")) return 13;
  if (pauses() > 1000) return 14;
  setrlimit(RLIMIT_NOFILE, &before);
  RawClient waited(std::move(second));
  waited.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  if (!waited.read_response().ends_with("here")) return 15;
  thread.call([&] { server.reset(); });
  return 0;
}

TEST(ServerWithoutDescriptors, PausesAndServesAgainWhenThereAreSome) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(serve_without_descriptors());
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace baton::http
