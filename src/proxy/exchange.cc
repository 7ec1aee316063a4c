#include "proxy/exchange.h"

#include <fmt/format.h>

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/this_coro.hpp>

#include <memory>
#include <string>
#include <utility>

#include "api/json.h"
#include "api/kv_transfer_params.h"
#include "base/log.h"
#include "http/sse.h"

namespace baton::proxy {
namespace asio = boost::asio;
namespace {

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

}  // namespace

Exchange::Exchange(Hub& hub, const http::Request& from, Receiver& receiver, router::ClientBody client,
                   std::string id)
    : hub_(hub),
      from_(from),
      receiver_(receiver),
      watch_(std::make_shared<Watch>(hub.loop)),
      flow_(hub.registry,
            {.attempts = hub.options.attempts,
             .retry_delay = hub.options.retry_delay,
             .queue_timeout = hub.options.queue_timeout},
            std::move(client), std::move(id), hub.seeds() >> 1) {  // instances read a signed number
  flow_.set_wake([watch = watch_.get()] { watch->room.notify(); });
  hub_.watches.insert(watch_.get());
}

Exchange::~Exchange() {
  flow_.on_client_gone();  // nothing, if it is over
  start_cleanups(hub_, flow_);
  hub_.watches.erase(watch_.get());
  hub_.metrics.retries += flow_.retries();
}

http::Awaitable<void> Exchange::run() {
  using boost::asio::experimental::awaitable_operators::operator||;
  // When a probe finds the instance down, what the flow awaits ends with kCancelled, once; it then goes on.
  co_await (carry_out() || wait_for_down());
}

http::ClientRequest Exchange::upstream(router::InstanceId id, std::string body, Duration head_timeout) {
  watch_->instance = id;
  const router::Instance* instance = hub_.registry.find(id);
  return {.to = hub_.address_of(*instance),
          .method = "POST",
          .target = std::string(router::route_path(flow_.client().route)),
          .headers = hub_.upstream_headers(&from_, flow_.request_id()),
          .body = std::move(body),
          .head_timeout = head_timeout,
          .idle_timeout = hub_.options.idle_timeout};
}

Error Exchange::failure(Error error) const {
  const router::Instance* instance = hub_.registry.find(watch_->instance);
  if (!is_down_) hub_.probe_now(watch_->instance);
  if (is_down_ && error.code == Code::kCancelled && instance != nullptr) {
    return {Code::kUnavailable, "it went down: " + instance->reason};
  }
  return error;
}

http::Awaitable<router::Step> Exchange::prefill(router::AskPrefill ask) {
  const Time begin = hub_.loop.now();
  http::ClientRequest request = upstream(ask.instance, std::move(ask.body), hub_.options.prefill_timeout);
  auto answer = co_await hub_.client.request(std::move(request));
  hub_.metrics.prefill_time_s.observe(seconds(hub_.loop.now() - begin));
  if (receiver_.is_gone()) co_return router::Pause{};  // not P's failure; run() ends
  if (!answer) co_return flow_.on_prefill(Failure(failure(answer.error())), hub_.loop.now());
  router::UpstreamAnswer upstream{answer->status, std::move(answer->body), retry_after(answer->headers)};
  co_return flow_.on_prefill(std::move(upstream), hub_.loop.now());
}

http::Awaitable<router::Step> Exchange::decode(router::AskDecode ask) {
  http::ClientRequest request = upstream(ask.instance, std::move(ask.body), hub_.options.first_byte_timeout);
  auto stream = co_await hub_.client.open(std::move(request));
  if (receiver_.is_gone()) co_return router::Pause{};
  if (!stream) co_return flow_.on_decode_whole(Failure(failure(stream.error())), hub_.loop.now());
  if (stream->headers().get(api::kKvUnusedHeader)) flow_.on_kv_unused();
  if (flow_.relays(stream->status())) {
    stream_.emplace(std::move(*stream));
    co_return flow_.on_decode_head();
  }
  auto step = co_await read_whole(std::move(*stream));
  co_return step;
}

http::Awaitable<router::Step> Exchange::read_whole(http::ResponseStream stream) {
  const int status = stream.status();
  std::string later = retry_after(stream.headers());
  auto body = co_await stream.read_all(router::kAnswerBytesMax);
  if (receiver_.is_gone()) co_return router::Pause{};
  if (!body) co_return flow_.on_decode_whole(Failure(failure(body.error())), hub_.loop.now());
  router::UpstreamAnswer upstream{status, std::move(*body), std::move(later)};
  co_return flow_.on_decode_whole(std::move(upstream), hub_.loop.now());
}

http::Awaitable<std::optional<router::Step>> Exchange::relay(http::ResponseStream stream) {
  http::SseParser parser;
  std::string out;
  Result<void> end;
  bool begun = false;
  while (true) {
    const auto piece = co_await stream.read();
    if (receiver_.is_gone()) co_return std::nullopt;
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
    begun = true;
    const auto written = co_await receiver_.take(out);
    if (!written && written.error().code != Code::kCancelled) co_return std::nullopt;
    if (receiver_.is_gone()) co_return std::nullopt;
    out.clear();
  }
  // Nothing has reached the client: the true status, or another try, is still possible.
  if (!begun) co_return flow_.on_decode_empty(end, hub_.loop.now());
  flow_.on_stream_end(end, hub_.loop.now(), out);
  receiver_.end(out);
  co_return std::nullopt;
}

http::Awaitable<void> Exchange::carry_out() {
  router::Step step = flow_.start(hub_.loop.now());
  while (true) {
    start_cleanups(hub_, flow_);
    if (receiver_.is_gone()) co_return;
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
      step = flow_.on_pause_done(hub_.loop.now());
    } else if (const auto* wait = std::get_if<router::Wait>(&step)) {
      const auto woken = co_await watch_->room.wait_for(wait->duration);
      const bool is_over = !woken && woken.error().code == Code::kTimeout;
      if (receiver_.is_gone()) co_return;
      step = is_over ? flow_.on_wait_over() : flow_.on_room(hub_.loop.now());
    } else if (std::holds_alternative<router::Relay>(step)) {
      http::ResponseStream stream = std::move(*stream_);
      stream_.reset();
      auto next = co_await relay(std::move(stream));
      if (!next) co_return;
      step = std::move(*next);
    } else if (std::holds_alternative<router::Split>(step)) {
      receiver_.split();
      co_return;
    } else {
      receiver_.reply(std::move(std::get<router::Reply>(step)));
      co_return;
    }
  }
}

http::Awaitable<void> Exchange::wait_for_down() {
  while (true) {
    const auto woken = co_await watch_->down.wait();
    if (!woken) co_return;
    const router::Instance* instance = hub_.registry.find(watch_->instance);
    if (instance != nullptr && instance->health == router::Health::kDown) break;
  }
  is_down_ = true;
  resets_cancellation_ = true;  // carry_out() goes on with other instances
}

}  // namespace baton::proxy
