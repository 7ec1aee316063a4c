#include "proxy/layerwise_exchange.h"

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/this_coro.hpp>

#include <utility>

#include "http/sse.h"
#include "net/interfaces.h"
#include "proxy/upstream.h"

namespace baton::proxy {
namespace asio = boost::asio;
namespace {

// Whether `peer` may be instance `d`, as far as addresses tell: a name may stand for any of them, and what
// runs on this machine has all of its addresses.
bool may_be(const net::Endpoint& peer, const router::Instance& d) {
  const auto known = net::literal_endpoint(d.host, 0);
  if (!known) return true;
  const std::string host = net::to_address(peer).host;
  if (host == net::to_address(*known).host) return true;
  return net::is_local_host(host) && net::is_local_host(d.host);
}

}  // namespace

LayerwiseExchange::LayerwiseExchange(Hub& hub, const http::Request& from, Receiver& receiver,
                                     router::ClientBody client, std::string id)
    : hub_(hub),
      from_(from),
      receiver_(receiver),
      watch_(hub.loop),
      flow_(hub.registry, flow_limits(hub.options), std::move(client), std::move(id),
            hub.seeds() >> 1,  // instances read a signed number
            [&hub](const router::Instance& d) { return hub.metaserver_url(d); }) {
  flow_.set_wake([this] { watch_.room.notify(); });
  hub_.watches.insert(&watch_);
}

LayerwiseExchange::~LayerwiseExchange() {
  flow_.on_client_gone();  // nothing, if it is over
  end_prefill();
  expect_post();
  tell_instances();
  hub_.watches.erase(&watch_);
  hub_.metrics.retries += flow_.retries();
  hub_.count(flow_.times());
}

void LayerwiseExchange::tell_instances() {
  start_cleanups(hub_, flow_.take_cleanups(), flow_.request_id(), flow_.client().route);
}

// The post of this round alone finds this exchange.
void LayerwiseExchange::expect_post() {
  const std::string id = flow_.post_id();
  if (id == expected_post_) return;
  if (!expected_post_.empty()) hub_.reservations.erase(expected_post_);
  if (!id.empty()) hub_.reservations.emplace(id, this);
  expected_post_ = id;
}

http::Awaitable<void> LayerwiseExchange::run() {
  using boost::asio::experimental::awaitable_operators::operator||;
  // When a probe finds D down, what is awaited ends with kCancelled, once; it then goes on.
  co_await (carry_out() || wait_for_down());
}

Error LayerwiseExchange::failure(Error error) const {
  const router::Instance* instance = hub_.registry.find(watch_.instance);
  if (!is_down_) hub_.probe_now(watch_.instance);
  if (is_down_ && error.code == Code::kCancelled && instance != nullptr) {
    return {Code::kUnavailable, "it went down: " + instance->reason};
  }
  return error;
}

// ---- P ----

router::PostVerdict LayerwiseExchange::on_post(const router::MetaserverPost& post,
                                               const net::Endpoint& peer) {
  const router::Instance* d = hub_.registry.find(flow_.decode_instance().value_or(router::InstanceId{}));
  router::PostVerdict verdict = flow_.on_post(post, d != nullptr && may_be(peer, *d), hub_.loop.now());
  if (verdict.begins) begin_prefill(std::move(*verdict.begins));
  return verdict;
}

void LayerwiseExchange::begin_prefill(router::PrefillStep step) {
  end_prefill();
  prefill_run_ = PrefillRun::begin(*this, std::move(step));
}

void LayerwiseExchange::end_prefill() {
  if (prefill_run_) prefill_run_->end();
  prefill_run_.reset();
}

router::PrefillStep LayerwiseExchange::on_prefill(Result<router::UpstreamAnswer> answer) {
  router::PrefillStep step = flow_.on_prefill(std::move(answer), hub_.loop.now());
  tell_instances();
  return step;
}

router::PrefillStep LayerwiseExchange::on_prefill_pause_done() {
  return flow_.on_prefill_pause_done(hub_.loop.now());
}

void LayerwiseExchange::on_prefill_end() {
  if (flow_.gives_up_decode()) watch_.down.notify();
}

http::Awaitable<void> LayerwiseExchange::await_prefill() {
  if (auto step = flow_.prefill_for_prompt(hub_.loop.now())) begin_prefill(std::move(*step));
  if (!prefill_run_) co_return;
  const std::shared_ptr<PrefillRun> run = prefill_run_;
  const std::optional<Duration> limit = flow_.prefill_wait();
  const auto woken = co_await PrefillRun::wait(run, limit);
  if (receiver_.is_gone() || woken || woken.error().code != Code::kTimeout) co_return;
  flow_.on_prefill_late();
  end_prefill();
}

// ---- D ----

http::ClientRequest LayerwiseExchange::upstream(const router::AskDecode& ask) {
  watch_.instance = ask.instance;
  is_down_ = false;
  const router::Instance* instance = hub_.registry.find(ask.instance);
  return {.to = hub_.address_of(*instance),
          .method = "POST",
          .target = std::string(router::route_path(flow_.client().route)),
          .headers = hub_.upstream_headers(&from_, flow_.request_id()),
          .body = ask.body,
          .head_timeout = hub_.options.first_byte_timeout,
          .idle_timeout = hub_.options.idle_timeout};
}

http::Awaitable<router::LayerwiseStep> LayerwiseExchange::decode(router::AskDecode ask) {
  expect_post();
  http::ClientRequest request = upstream(ask);
  auto stream = co_await hub_.client.open(std::move(request));
  if (receiver_.is_gone()) co_return router::Pause{};
  if (!stream) co_return flow_.on_decode_whole(Failure(failure(stream.error())), hub_.loop.now());
  if (flow_.relays(stream->status())) {
    stream_.emplace(std::move(*stream));
    co_return flow_.on_decode_head();
  }
  auto step = co_await read_whole(std::move(*stream));
  co_return step;
}

http::Awaitable<router::LayerwiseStep> LayerwiseExchange::read_whole(http::ResponseStream stream) {
  const int status = stream.status();
  std::string later = retry_after(stream.headers());
  auto body = co_await stream.read_all(router::kAnswerBytesMax);
  if (receiver_.is_gone()) co_return router::Pause{};
  if (!body) co_return flow_.on_decode_whole(Failure(failure(body.error())), hub_.loop.now());
  watch_.instance = {};  // D has done its part
  router::UpstreamAnswer upstream{status, std::move(*body), std::move(later)};
  co_return flow_.on_decode_whole(std::move(upstream), hub_.loop.now());
}

// What was ready before goes out at once.
http::Awaitable<Result<void>> LayerwiseExchange::resume_held(std::string& out) {
  while (flow_.waits()) {
    if (!out.empty()) {
      const std::string ready = std::exchange(out, {});
      const auto written = co_await receiver_.take(ready);
      if (!written) co_return written;
    }
    co_await await_prefill();
    if (receiver_.is_gone()) co_return fail(Code::kCancelled, "nobody wants the answer");
    if (is_down_) co_return fail(Code::kCancelled, "D is down");
    const auto resumed = flow_.resume(out);
    if (!resumed) co_return resumed;
  }
  co_return Result<void>{};
}

http::Awaitable<std::optional<router::LayerwiseStep>> LayerwiseExchange::relay(http::ResponseStream stream) {
  http::SseParser parser;
  std::string out;
  Result<void> end;
  bool begun = false;
  while (end) {
    const auto piece = co_await stream.read();
    if (receiver_.is_gone()) co_return std::nullopt;
    if (!piece) end = Failure(failure(piece.error()));
    if (!piece || piece->empty()) break;
    end = parser.feed(*piece);
    while (end) {
      const auto event = parser.next();
      // An end before any beginning is no answer.
      if (!event || (!begun && out.empty() && event->is_done())) break;
      flow_.on_event(event->raw, event->data, out);
      if (!flow_.waits()) continue;
      begun = begun || !out.empty();
      end = co_await resume_held(out);
      if (receiver_.is_gone()) co_return std::nullopt;
      if (!end) end = Failure(failure(end.error()));
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

http::Awaitable<void> LayerwiseExchange::carry_out() {
  router::LayerwiseStep step = flow_.start(hub_.loop.now());
  while (true) {
    tell_instances();
    if (receiver_.is_gone()) co_return;
    if (std::exchange(resets_cancellation_, false)) {
      co_await asio::this_coro::reset_cancellation_state(asio::enable_total_cancellation());
    }
    if (auto* ask = std::get_if<router::AskDecode>(&step)) {
      router::AskDecode request = std::move(*ask);
      step = co_await decode(std::move(request));
    } else if (const auto* pause = std::get_if<router::Pause>(&step)) {
      end_prefill();
      const auto slept = co_await hub_.loop.sleep(pause->duration);
      step = flow_.on_pause_done(hub_.loop.now());
    } else if (const auto* wait = std::get_if<router::Wait>(&step)) {
      const auto woken = co_await watch_.room.wait_for(wait->duration);
      const bool is_over = !woken && woken.error().code == Code::kTimeout;
      if (receiver_.is_gone()) co_return;
      step = is_over ? flow_.on_wait_over() : flow_.on_room(hub_.loop.now());
    } else if (std::holds_alternative<router::Relay>(step)) {
      http::ResponseStream stream = std::move(*stream_);
      stream_.reset();
      auto next = co_await relay(std::move(stream));
      if (!next) co_return;
      step = std::move(*next);
    } else if (std::holds_alternative<router::AwaitPrefill>(step)) {
      co_await await_prefill();
      step = flow_.on_prefill_over(hub_.loop.now());
    } else if (std::holds_alternative<router::Split>(step)) {
      receiver_.split();
      co_return;
    } else {
      receiver_.reply(std::move(std::get<router::Reply>(step)));
      co_return;
    }
  }
}

http::Awaitable<void> LayerwiseExchange::wait_for_down() {
  while (!flow_.gives_up_decode()) {
    const auto woken = co_await watch_.down.wait();
    if (!woken) co_return;
    const router::Instance* instance = hub_.registry.find(watch_.instance);
    if (instance != nullptr && instance->health == router::Health::kDown) break;
  }
  is_down_ = true;
  resets_cancellation_ = true;  // carry_out() goes on with other instances
}

}  // namespace baton::proxy
