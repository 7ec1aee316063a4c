// For tests: a proxy on a thread of its own, and instances on another that answer by a script.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "api/testing.h"
#include "http/server.h"
#include "http/testing.h"
#include "http/wake.h"
#include "proxy/prober.h"
#include "proxy/routes.h"

namespace baton::proxy {

struct ScriptedAnswer {
  int status = 200;
  std::vector<std::string> pieces = {};  // of the body
  bool is_stream = false;
  bool cut = false;    // the connection closes before the body's end; without pieces before the head
  bool holds = false;  // after the pieces nothing, until the other side hangs up
  std::string retry_after = {};
  bool kv_unused = false;
  std::string when = {};  // only for a request whose body holds this
};

// Answers GET /v1/models, and POSTs by its script; 500 when that is at its end.
class FakeInstance {
 public:
  explicit FakeInstance(std::optional<api::InstanceIdentity> identity = {}) {
    models_ = R"({"object":"list","data":[{"id":"m"}])";
    if (identity) models_ += ",\"baton\":" + api::render_identity(*identity);
    models_ += "}";
    auto listener = net::listen({"127.0.0.1", 0});
    CHECK(listener.has_value());
    thread_.call([&] {
      server_ = std::make_unique<http::Server>(
          thread_.loop(), std::move(*listener), http::ServerOptions{},
          [this](http::Request& request, http::ResponseWriter& writer) { return answer(request, writer); });
      server_->start();
      port_ = net::to_address(server_->local()).port;
      return 0;
    });
  }
  ~FakeInstance() {
    thread_.await(end());
    thread_.call([this] {
      server_.reset();
      return 0;
    });
  }

  uint16_t port() const { return port_; }
  void script(std::vector<ScriptedAnswer> answers) {
    const std::lock_guard lock(mutex_);
    script_.assign(answers.begin(), answers.end());
    heard_.clear();
    left_ = 0;
  }
  void set_models_status(int status) {
    const std::lock_guard lock(mutex_);
    models_status_ = status;
  }
  // "POST /path body" of each, in order.
  std::vector<std::string> heard() {
    const std::lock_guard lock(mutex_);
    return heard_;
  }
  // Answers that were held when the other side hung up.
  int left() {
    const std::lock_guard lock(mutex_);
    return left_;
  }

 private:
  http::Awaitable<void> end() {
    const size_t cut = co_await server_->drain(std::chrono::milliseconds(1));
    static_cast<void>(cut);
  }

  std::optional<ScriptedAnswer> next(const http::Request& request) {
    const std::lock_guard lock(mutex_);
    heard_.push_back(fmt::format("{} {} {}", request.method, request.target, request.body));
    if (request.path() == "/abort_request") return ScriptedAnswer{.pieces = {"{}"}};
    const auto found = std::ranges::find_if(script_, [&](const ScriptedAnswer& answer) {
      return request.body.find(answer.when) != std::string::npos;
    });
    if (found == script_.end()) return std::nullopt;
    ScriptedAnswer first = std::move(*found);
    script_.erase(found);
    return first;
  }

  http::Awaitable<void> answer(http::Request& request, http::ResponseWriter& writer) {
    if (request.method == "GET") {
      const std::lock_guard lock(mutex_);
      writer.send(models_status_, "application/json", models_);
      co_return;
    }
    const auto found = next(request);
    const ScriptedAnswer script = found.value_or(ScriptedAnswer{.status = 500});
    if (script.cut && script.pieces.empty()) {
      writer.start_stream(200, "text/plain");  // without a piece no head goes out
      writer.abort();
      co_return;
    }
    if (!script.is_stream && !script.holds && !script.cut) {
      send_whole(writer, script);
      co_return;
    }
    if (script.is_stream) writer.start_stream(script.status, "text/event-stream; charset=utf-8");
    for (const std::string& piece : script.pieces) {
      const auto written = co_await writer.write(piece);
      static_cast<void>(written);
      // Each piece is a read of its own at the other side, as far as the kernel allows.
      const auto slept = co_await thread_.loop().sleep(std::chrono::microseconds(200));
      static_cast<void>(slept);
    }
    if (script.holds) {
      http::Wake never(thread_.loop());
      const auto woken = co_await never.wait();
      const std::lock_guard lock(mutex_);
      left_ += woken ? 0 : 1;
    }
    if (script.cut) writer.abort();
  }

  static void send_whole(http::ResponseWriter& writer, const ScriptedAnswer& script) {
    http::Response response;
    response.status = script.status;
    response.headers.add("Content-Type", "application/json");
    if (!script.retry_after.empty()) response.headers.add("Retry-After", script.retry_after);
    if (script.kv_unused) response.headers.add("X-Baton-Kv-Unused", "1");
    for (const std::string& piece : script.pieces) response.body += piece;
    writer.send(response);
  }

  http::LoopThread thread_;
  std::unique_ptr<http::Server> server_;
  uint16_t port_ = 0;
  std::mutex mutex_;
  std::string models_;
  int models_status_ = 200;
  std::deque<ScriptedAnswer> script_;
  std::vector<std::string> heard_;
  int left_ = 0;
};

// The shipped hub, prober, routes and sessions.
class RunningProxy {
 public:
  explicit RunningProxy(options::ProxyOptions options = {}) : options_(std::move(options)) {
    auto listener = net::listen({"127.0.0.1", 0});
    CHECK(listener.has_value());
    thread_.call([&] {
      hub_ = std::make_unique<Hub>(thread_.loop(), options_);
      server_ = std::make_unique<http::Server>(thread_.loop(), std::move(*listener), http::ServerOptions{},
                                               make_handler(*hub_));
      server_->start();
      at_ = server_->local();
      hub_->port = net::to_address(at_).port;
      return 0;
    });
  }
  ~RunningProxy() {
    thread_.await(end());
    thread_.call([this] {
      server_.reset();
      hub_.reset();
      return 0;
    });
  }

  template <class Task>
  auto on_hub(Task task) {
    return thread_.call([&] { return task(*hub_); });
  }
  void add(router::Side side, const FakeInstance& instance) {
    on_hub([&](Hub& hub) {
      start_probing(hub, hub.registry.add(side, "127.0.0.1", instance.port(), thread_.loop().now()));
      return 0;
    });
  }
  // Polls, on the io thread, until it holds or patience ends.
  template <class Task>
  testing::AssertionResult becomes(Task holds) {
    for (int i = 0; i < 2000; ++i) {
      if (on_hub([&](Hub& hub) { return holds(hub); })) return testing::AssertionSuccess();
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return testing::AssertionFailure() << "not within 20 s";
  }
  testing::AssertionResult is_idle() {
    return becomes([](const Hub& hub) {
      return hub.metrics.requests_in_flight == 0 && hub.watches.empty() &&
             std::ranges::all_of(hub.registry.instances(), [](const auto& i) {
               return i->in_flight == 0 && i->active_tokens == 0 && i->active_kv == 0;
             });
    });
  }

  http::RawClient connect() { return http::RawClient(at_); }
  static std::string request(std::string_view method, std::string_view path, std::string_view body) {
    return fmt::format("{} {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
                       method, path, body.size(), body);
  }
  std::string ask(std::string_view method, std::string_view path, std::string_view body = "") {
    http::RawClient client = connect();
    client.send(request(method, path, body));
    return client.read_to_end();
  }
  std::string post(std::string_view body) { return ask("POST", "/v1/completions", body); }

 private:
  http::Awaitable<void> end() {
    const size_t cut = co_await server_->drain(std::chrono::milliseconds(1));
    static_cast<void>(cut);
  }

  options::ProxyOptions options_;
  http::LoopThread thread_;
  std::unique_ptr<Hub> hub_;
  std::unique_ptr<http::Server> server_;
  net::Endpoint at_;
};

inline std::string status_of(const std::string& response) { return response.substr(9, 3); }

// The body of a chunked response.
inline std::string unchunked(const std::string& response) {
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

inline options::ProxyOptions options_with(int32_t options::ProxyOptions::* field, int32_t value) {
  options::ProxyOptions options;
  options.*field = value;
  return options;
}

// Two P and two D by script behind a proxy that probes them once.
class SessionTest : public testing::Test {
 protected:
  static inline const std::string kHeld =
      R"({"choices":[{"index":0,"logprobs":{"tokens":["a","b"],"token_logprobs":[null,-1],"top_logprobs":[null,{}],)"
      R"("text_offset":[0,1]},"prompt_logprobs":[null,{"1":-0.1000000000000000001}]}],"usage":{"prompt_tokens":1,)"
      R"("prompt_tokens_details":{"cached_tokens":1}},"kv_transfer_params":{"remote_request_id":"held-1"}})";
  static constexpr Duration kNever = std::chrono::hours(1);  // no probe comes between

  static inline const ScriptedAnswer kPrefilled{.pieces = {kHeld}};
  static inline const ScriptedAnswer kAnswered{.pieces = {R"({"choices":[{"index":0,"text":"y"}]})"}};
  static inline const ScriptedAnswer kHolds{.holds = true};
  static inline const ScriptedAnswer kCut{.cut = true};

  void start(options::ProxyOptions options = {}) {
    options.health_interval = kNever;
    proxy_ = std::make_unique<RunningProxy>(std::move(options));
    for (FakeInstance* p : {&p1_, &p2_}) proxy_->add(router::Side::kPrefill, *p);
    for (FakeInstance* d : {&d1_, &d2_}) proxy_->add(router::Side::kDecode, *d);
    ASSERT_TRUE(proxy_->becomes([](const Hub& hub) {
      return std::ranges::all_of(hub.registry.instances(),
                                 [](const auto& i) { return i->health == router::Health::kUp; });
    }));
  }
  // Sends, waits until somebody works on it, hangs up.
  void leave(std::string_view body, FakeInstance& at) {
    http::RawClient client = proxy_->connect();
    client.send(RunningProxy::request("POST", "/v1/completions", body));
    ASSERT_TRUE(proxy_->becomes([&](const Hub&) { return !at.heard().empty(); }));
    client.close();
    ASSERT_TRUE(proxy_->becomes([&](const Hub&) { return at.left() == 1; }));
    ASSERT_TRUE(proxy_->is_idle());
  }
  bool hears(FakeInstance& instance, std::string_view words) {
    return proxy_->becomes([&](const Hub&) {
      return std::ranges::any_of(instance.heard(),
                                 [&](const auto& one) { return one.find(words) != std::string::npos; });
    });
  }
  uint64_t outcomes() {
    return proxy_->on_hub([](Hub& hub) {
      uint64_t sum = 0;
      for (const auto& [name, count] : hub.metrics.outcomes) sum += count;
      return sum;
    });
  }

  FakeInstance p1_{identity_of(api::Role::kPrefill)}, p2_{identity_of(api::Role::kPrefill)};
  FakeInstance d1_{identity_of(api::Role::kDecode)}, d2_{identity_of(api::Role::kDecode)};
  std::unique_ptr<RunningProxy> proxy_;
};

}  // namespace baton::proxy
