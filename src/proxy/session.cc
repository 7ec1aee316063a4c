#include "proxy/session.h"

#include <fmt/format.h>

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/this_coro.hpp>

#include <memory>
#include <string>
#include <utility>

#include "api/json.h"
#include "api/kv_transfer_params.h"
#include "api/response.h"
#include "base/ids.h"
#include "base/log.h"
#include "http/sse.h"
#include "router/pull_flow.h"

namespace baton::proxy {
namespace asio = boost::asio;
namespace {

constexpr std::string_view kJson = "application/json";
constexpr size_t kAnswerBytesMax = 64UL << 20;
constexpr Duration kCleanupTimeout = std::chrono::seconds(2);

http::Awaitable<void> clean_up(Hub& hub, router::Cleanup cleanup, http::ClientRequest request) {
  if (cleanup.decode_body.empty()) {
    const auto told = co_await hub.client.request(std::move(request));
    if (!told)
      log_warning("proxy",
                  fmt::format("abort of {}: {}", fmt::join(cleanup.ids, ", "), told.error().message));
    co_return;
  }
  // D reads the request and finds its client gone: it gives the hand-over back to P by itself.
  const auto opened = co_await hub.client.open(std::move(request));
}

// Detached: the client's request may be over before its remains are.
void start_cleanups(Hub& hub, router::PullFlow& flow) {
  for (router::Cleanup& cleanup : flow.take_cleanups()) {
    http::ClientRequest request{.to = {cleanup.host, cleanup.port},
                                .method = "POST",
                                .headers = hub.upstream_headers(nullptr, flow.request_id()),
                                .body = {},
                                .head_timeout = kCleanupTimeout,
                                .idle_timeout = kCleanupTimeout};
    if (cleanup.decode_body.empty()) {
      if (!hub.options.admin_key.empty())
        request.headers.set("Authorization", "Bearer " + hub.options.admin_key);
      request.target = "/abort_request";
      request.body = R"({"request_id":[)";
      for (size_t i = 0; i < cleanup.ids.size(); ++i) {
        if (i > 0) request.body += ',';
        api::append_json_string(request.body, cleanup.ids[i]);
      }
      request.body += "]}";
    } else {
      request.target = router::route_path(flow.client().route);
      request.body = cleanup.decode_body;
    }
    hub.loop.spawn("cleanup", clean_up(hub, std::move(cleanup), std::move(request)));
  }
}

std::string retry_after(const http::Headers& headers) {
  const auto value = headers.get("Retry-After");
  return std::string(value && http::is_field_value(*value) ? *value : std::string_view());
}

class Session {
 public:
  Session(Hub& hub, http::Request& request, http::ResponseWriter& writer, router::ClientBody client,
          std::string id)
      : hub_(hub),
        request_(request),
        writer_(writer),
        watch_(std::make_shared<Watch>(hub.loop)),
        started_(hub.loop.now()),
        flow_(hub.registry, {.attempts = hub.options.attempts, .retry_delay = hub.options.retry_delay},
              std::move(client), std::move(id), hub.seeds() >> 1) {  // instances read a signed number
    hub_.watches.insert(watch_.get());
    ++hub_.metrics.requests_in_flight;
  }
  ~Session() {
    flow_.on_client_gone();  // nothing, if it is over
    start_cleanups(hub_, flow_);
    hub_.watches.erase(watch_.get());
    --hub_.metrics.requests_in_flight;
    ++hub_.metrics.outcomes[flow_.outcome()];
    hub_.metrics.retries += flow_.retries();
    hub_.metrics.e2e_latency_s.observe(seconds(hub_.loop.now() - started_));
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  http::Awaitable<void> run();
  http::Awaitable<void> wait_for_down();

 private:
  http::ClientRequest upstream(router::InstanceId id, std::string body, Duration head_timeout);
  http::Awaitable<router::Step> prefill(router::AskPrefill ask);
  http::Awaitable<router::Step> decode(router::AskDecode ask);
  http::Awaitable<router::Step> read_whole(http::ResponseStream stream);
  // Nothing when the client's answer is over, else what comes next.
  http::Awaitable<std::optional<router::Step>> relay(http::ResponseStream stream);
  http::Headers answer_headers(std::string_view content_type) const;
  void reply(const router::Reply& reply);
  // The failure as it is told: a wait that ended because a probe found the instance down says so.
  Error failure(Error error) const;

  Hub& hub_;
  http::Request& request_;
  http::ResponseWriter& writer_;
  std::shared_ptr<Watch> watch_;
  Time started_;
  router::PullFlow flow_;
  std::optional<http::ResponseStream> stream_;  // D's answer, once its head is here
  bool is_down_ = false;
  bool resets_cancellation_ = false;
};

http::ClientRequest Session::upstream(router::InstanceId id, std::string body, Duration head_timeout) {
  watch_->instance = id;
  const router::Instance* instance = hub_.registry.find(id);
  return {.to = hub_.address_of(*instance),
          .method = "POST",
          .target = std::string(router::route_path(flow_.client().route)),
          .headers = hub_.upstream_headers(&request_, flow_.request_id()),
          .body = std::move(body),
          .head_timeout = head_timeout,
          .idle_timeout = hub_.options.idle_timeout};
}

Error Session::failure(Error error) const {
  const router::Instance* instance = hub_.registry.find(watch_->instance);
  if (!is_down_) hub_.probe_now(watch_->instance);
  if (is_down_ && error.code == Code::kCancelled && instance != nullptr) {
    return {Code::kUnavailable, "it went down: " + instance->reason};
  }
  return error;
}

http::Awaitable<router::Step> Session::prefill(router::AskPrefill ask) {
  const Time begin = hub_.loop.now();
  http::ClientRequest request = upstream(ask.instance, std::move(ask.body), hub_.options.prefill_timeout);
  auto answer = co_await hub_.client.request(std::move(request));
  hub_.metrics.prefill_time_s.observe(seconds(hub_.loop.now() - begin));
  if (writer_.hung_up()) co_return router::Pause{};  // not P's failure; run() ends
  if (!answer) co_return flow_.on_prefill(Failure(failure(answer.error())), hub_.loop.now());
  router::UpstreamAnswer upstream{answer->status, std::move(answer->body), retry_after(answer->headers)};
  co_return flow_.on_prefill(std::move(upstream), hub_.loop.now());
}

http::Awaitable<router::Step> Session::decode(router::AskDecode ask) {
  http::ClientRequest request = upstream(ask.instance, std::move(ask.body), hub_.options.first_byte_timeout);
  auto stream = co_await hub_.client.open(std::move(request));
  if (writer_.hung_up()) co_return router::Pause{};
  if (!stream) co_return flow_.on_decode_whole(Failure(failure(stream.error())), hub_.loop.now());
  if (stream->headers().get(api::kKvUnusedHeader)) flow_.on_kv_unused();
  if (flow_.relays(stream->status())) {
    stream_.emplace(std::move(*stream));
    co_return flow_.on_decode_head();
  }
  auto step = co_await read_whole(std::move(*stream));
  co_return step;
}

http::Awaitable<router::Step> Session::read_whole(http::ResponseStream stream) {
  const int status = stream.status();
  std::string later = retry_after(stream.headers());
  auto body = co_await stream.read_all(kAnswerBytesMax);
  if (writer_.hung_up()) co_return router::Pause{};
  if (!body) co_return flow_.on_decode_whole(Failure(failure(body.error())), hub_.loop.now());
  router::UpstreamAnswer upstream{status, std::move(*body), std::move(later)};
  co_return flow_.on_decode_whole(std::move(upstream), hub_.loop.now());
}

http::Headers Session::answer_headers(std::string_view content_type) const {
  http::Headers headers;
  headers.add("Content-Type", content_type);
  const auto asked = request_.headers.get("X-Request-Id");
  headers.add("X-Request-Id", asked && http::is_field_value(*asked) ? *asked : flow_.request_id());
  if (const auto id = flow_.prefill_instance()) {
    if (const auto* instance = hub_.registry.find(*id)) headers.add("X-Baton-Prefill", instance->address());
  }
  if (const auto id = flow_.decode_instance()) {
    if (const auto* instance = hub_.registry.find(*id)) headers.add("X-Baton-Decode", instance->address());
  }
  return headers;
}

http::Awaitable<std::optional<router::Step>> Session::relay(http::ResponseStream stream) {
  http::SseParser parser;
  std::string out;
  Result<void> end;
  bool begun = false;
  while (true) {
    const auto piece = co_await stream.read();
    if (writer_.hung_up()) co_return std::nullopt;
    if (!piece) {
      end = Failure(failure(piece.error()));
      break;
    }
    if (piece->empty()) break;
    end = parser.feed(*piece);
    if (!end) break;
    while (const auto event = parser.next()) {
      // An end before any beginning is no answer.
      if (!begun && out.empty() && event->is_done()) break;
      flow_.on_event(event->raw, event->data, out);
    }
    if (out.empty()) continue;
    if (!begun) {
      begun = true;
      hub_.metrics.time_to_first_byte_s.observe(seconds(hub_.loop.now() - started_));
      const http::Headers headers = answer_headers("text/event-stream; charset=utf-8");
      writer_.start_stream(200, headers);
    }
    const auto written = co_await writer_.write(out);
    if (!written && written.error().code != Code::kCancelled) co_return std::nullopt;
    if (writer_.hung_up()) co_return std::nullopt;
    out.clear();
  }
  // Nothing has reached the client: the true status, or another try, is still possible.
  if (!begun) co_return flow_.on_decode_empty(end, hub_.loop.now());
  flow_.on_stream_end(end, hub_.loop.now(), out);
  writer_.append(out);
  co_return std::nullopt;
}

void Session::reply(const router::Reply& reply) {
  http::Response response;
  response.status = reply.status;
  response.headers = answer_headers(reply.content_type);
  if (!reply.retry_after.empty()) response.headers.add("Retry-After", reply.retry_after);
  response.body = reply.body;
  writer_.send(response);
}

http::Awaitable<void> Session::run() {
  router::Step step = flow_.start();
  while (true) {
    start_cleanups(hub_, flow_);
    if (writer_.hung_up()) co_return;
    if (std::exchange(resets_cancellation_, false)) {
      co_await asio::this_coro::reset_cancellation_state(asio::enable_total_cancellation());
    }
    if (auto* ask = std::get_if<router::AskPrefill>(&step)) {
      router::AskPrefill request = std::move(*ask);
      step = co_await prefill(std::move(request));
    } else if (auto* decode_ask = std::get_if<router::AskDecode>(&step)) {
      router::AskDecode request = std::move(*decode_ask);
      step = co_await decode(std::move(request));
    } else if (const auto* pause = std::get_if<router::Pause>(&step)) {
      const auto slept = co_await hub_.loop.sleep(pause->duration);
      step = flow_.on_pause_done();
    } else if (std::holds_alternative<router::Relay>(step)) {
      http::ResponseStream stream = std::move(*stream_);
      stream_.reset();
      auto next = co_await relay(std::move(stream));
      if (!next) co_return;
      step = std::move(*next);
    } else {
      reply(std::get<router::Reply>(step));
      co_return;
    }
  }
}

http::Awaitable<void> Session::wait_for_down() {
  while (true) {
    const auto woken = co_await watch_->down.wait();
    if (!woken) co_return;
    const router::Instance* instance = hub_.registry.find(watch_->instance);
    if (instance != nullptr && instance->health == router::Health::kDown) break;
  }
  is_down_ = true;
  resets_cancellation_ = true;  // run() goes on with other instances
}

void refuse(http::ResponseWriter& writer, const Error& error, bool retry_later) {
  http::Response response;
  response.status = api::http_status(error.code);
  response.headers.add("Content-Type", kJson);
  if (retry_later) response.headers.add("Retry-After", "1");
  response.body = api::render_error(error);
  writer.send(response);
}

}  // namespace

http::Awaitable<void> relay(Hub& hub, router::Route route, http::Request& request,
                            http::ResponseWriter& writer) {
  using boost::asio::experimental::awaitable_operators::operator||;
  if (hub.metrics.requests_in_flight >= hub.options.max_in_flight) {
    ++hub.metrics.outcomes["full"];
    refuse(writer,
           {Code::kExhausted, fmt::format("{} requests are in flight, the most that --max-in-flight allows",
                                          hub.metrics.requests_in_flight)},
           true);
    co_return;
  }
  auto client = router::read_client_body(route, request.body);
  if (!client) {
    ++hub.metrics.outcomes["refused"];
    refuse(writer, client.error(), false);
    co_return;
  }
  // Each request its own name upstream: equal X-Request-Ids of two clients never meet there.
  std::string id = random_id<HandoverId>().hex();
  Session session(hub, request, writer, std::move(*client), std::move(id));
  // When a probe finds the instance down, what the session awaits ends with kCancelled, once; it then goes
  // on.
  co_await (session.run() || session.wait_for_down());
}

}  // namespace baton::proxy
