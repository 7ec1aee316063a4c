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
#include "proxy/layerwise_exchange.h"
#include "proxy/upstream.h"

namespace baton::proxy {
namespace asio = boost::asio;

PullExchange::PullExchange(Hub& hub, const http::Request& from, Receiver& receiver, router::ClientBody client,
                           std::string id)
    : hub_(hub),
      from_(from),
      receiver_(receiver),
      watch_(std::make_shared<Watch>(hub.loop)),
      flow_(hub.registry, flow_limits(hub.options), std::move(client), std::move(id),
            hub.seeds() >> 1) {  // instances read a signed number
  flow_.set_wake([watch = watch_.get()] { watch->room.notify(); });
  hub_.watches.insert(watch_.get());
}

PullExchange::~PullExchange() {
  flow_.on_client_gone();  // nothing, if it is over
  tell_instances();
  hub_.watches.erase(watch_.get());
  hub_.metrics.retries += flow_.retries();
  hub_.count(flow_.times());
}

http::Awaitable<void> PullExchange::run() {
  using boost::asio::experimental::awaitable_operators::operator||;
  // When a probe finds the instance down, what the flow awaits ends with kCancelled, once; it then goes on.
  co_await (carry_out() || wait_for_down());
}

http::ClientRequest PullExchange::upstream(router::InstanceId id, std::string body, Duration head_timeout) {
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

Error PullExchange::failure(Error error) const {
  const router::Instance* instance = hub_.registry.find(watch_->instance);
  if (!is_down_) hub_.probe_now(watch_->instance);
  if (is_down_ && error.code == Code::kCancelled && instance != nullptr) {
    return {Code::kUnavailable, "it went down: " + instance->reason};
  }
  return error;
}

http::Awaitable<router::Step> PullExchange::prefill(router::AskPrefill ask) {
  const Time begin = hub_.loop.now();
  http::ClientRequest request = upstream(ask.instance, std::move(ask.body), hub_.options.prefill_timeout);
  if (ask.data_parallel_rank)
    request.headers.add("X-data-parallel-rank", std::to_string(*ask.data_parallel_rank));
  auto answer = co_await hub_.client.request(std::move(request));
  hub_.metrics.prefill_time_s.observe(seconds(hub_.loop.now() - begin));
  if (receiver_.is_gone()) co_return router::Pause{};  // not P's failure; run() ends
  if (!answer) co_return flow_.on_prefill(Failure(failure(answer.error())), hub_.loop.now());
  router::UpstreamAnswer upstream{answer->status, std::move(answer->body), retry_after(answer->headers)};
  co_return flow_.on_prefill(std::move(upstream), hub_.loop.now());
}

http::Awaitable<router::Step> PullExchange::decode(router::AskDecode ask) {
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

http::Awaitable<router::Step> PullExchange::read_whole(http::ResponseStream stream) {
  const int status = stream.status();
  std::string later = retry_after(stream.headers());
  auto body = co_await stream.read_all(router::kAnswerBytesMax);
  if (receiver_.is_gone()) co_return router::Pause{};
  if (!body) co_return flow_.on_decode_whole(Failure(failure(body.error())), hub_.loop.now());
  router::UpstreamAnswer upstream{status, std::move(*body), std::move(later)};
  co_return flow_.on_decode_whole(std::move(upstream), hub_.loop.now());
}

http::Awaitable<std::optional<router::Step>> PullExchange::relay(http::ResponseStream stream) {
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

http::Awaitable<void> PullExchange::carry_out() {
  router::Step step = flow_.start(hub_.loop.now());
  while (true) {
    tell_instances();
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

http::Awaitable<void> PullExchange::wait_for_down() {
  while (true) {
    const auto woken = co_await watch_->down.wait();
    if (!woken) co_return;
    const router::Instance* instance = hub_.registry.find(watch_->instance);
    if (instance != nullptr && instance->health == router::Health::kDown) break;
  }
  is_down_ = true;
  resets_cancellation_ = true;  // carry_out() goes on with other instances
}

void PullExchange::tell_instances() {
  start_cleanups(hub_, flow_.take_cleanups(), flow_.request_id(), flow_.client().route);
}

std::unique_ptr<Exchange> make_exchange(Hub& hub, api::HandoverOrder order, const http::Request& from,
                                        Receiver& receiver, router::ClientBody client, std::string id) {
  if (order == api::HandoverOrder::kLayerwise)
    return std::make_unique<LayerwiseExchange>(hub, from, receiver, std::move(client), std::move(id));
  return std::make_unique<PullExchange>(hub, from, receiver, std::move(client), std::move(id));
}

}  // namespace baton::proxy
