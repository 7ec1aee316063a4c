#include "proxy/answer_exchange.h"

#include <boost/asio/experimental/awaitable_operators.hpp>

#include "api/resume.h"
#include "proxy/upstream.h"

namespace baton::proxy {

AnswerExchange::AnswerExchange(Hub& hub, const http::Request& from, Receiver& receiver)
    : hub_(hub), from_(from), receiver_(receiver), watch_(hub.loop) {
  hub_.watches.insert(&watch_);
}

void AnswerExchange::close() {
  answer_flow().on_client_gone();  // nothing, if it is over
  tell_instances();
  hub_.watches.erase(&watch_);
  hub_.metrics.retries += answer_flow().retries();
  hub_.count(answer_flow().times());
  hub_.metrics.resumptions += answer_flow().resumptions();
}

void AnswerExchange::tell_instances() {
  router::AnswerFlow& flow = answer_flow();
  start_cleanups(hub_, flow.take_cleanups(), flow.request_id(), flow.client().route);
}

http::ClientRequest AnswerExchange::upstream(router::InstanceId id, std::string body, Duration head_timeout) {
  watch_.begin(id);
  const router::Instance* instance = hub_.registry.find(id);
  return {.to = hub_.address_of(*instance),
          .method = "POST",
          .target = std::string(router::route_path(answer_flow().client().route)),
          .headers = hub_.upstream_headers(&from_, answer_flow().request_id()),
          .body = std::move(body),
          .head_timeout = head_timeout,
          .idle_timeout = hub_.options.idle_timeout,
          .interrupt = watch_.asked};
}

http::Awaitable<void> AnswerExchange::wait_until_given_up() {
  while (!watch_.is_given_up) {
    const auto woken = co_await watch_.given_up.wait();
    if (!woken) co_return;
  }
}

Error AnswerExchange::failure(Error error) const {
  const router::Instance* instance = hub_.registry.find(watch_.instance);
  if (!watch_.is_given_up) hub_.probe_now(watch_.instance);
  if (watch_.is_given_up && error.code == Code::kCancelled && instance != nullptr) {
    return {Code::kUnavailable, "it went down: " + instance->reason};
  }
  return error;
}

// ---- steps ----

http::Awaitable<void> AnswerExchange::run() {
  router::Step step = answer_flow().start(hub_.loop.now());
  while (true) {
    tell_instances();
    if (is_unwanted()) co_return;
    if (auto* reply = std::get_if<router::Reply>(&step)) co_return receiver_.reply(std::move(*reply));
    if (const auto* end = std::get_if<router::End>(&step)) co_return receiver_.end(end->events);
    if (std::holds_alternative<router::Split>(step)) co_return receiver_.split();
    step = co_await next(std::move(step));
  }
}

// What comes after a step that does not end it. What it returns counts for nothing when nobody wants the
// answer any more: that is not an instance's failure.
http::Awaitable<router::Step> AnswerExchange::next(router::Step step) {
  router::AnswerFlow& flow = answer_flow();
  if (auto* ask = std::get_if<router::AskPrefill>(&step)) {
    router::AskPrefill request = std::move(*ask);
    step = co_await prefill(std::move(request));
  } else if (auto* decode_ask = std::get_if<router::AskDecode>(&step)) {
    router::AskDecode request = std::move(*decode_ask);
    step = co_await decode(std::move(request));
  } else if (std::holds_alternative<router::Relay>(step)) {
    step = co_await relay();
  } else if (const auto* pause = std::get_if<router::Pause>(&step)) {
    on_pause();
    const auto slept = co_await hub_.loop.sleep(pause->duration);
    if (slept) step = flow.on_pause_done(hub_.loop.now());
  } else if (const auto* wait = std::get_if<router::Wait>(&step)) {
    const auto woken = co_await watch_.room.wait_for(wait->duration);
    const bool is_over = !woken && woken.error().code == Code::kTimeout;
    if (!is_unwanted()) step = is_over ? flow.on_wait_over() : flow.on_room(hub_.loop.now());
  } else {
    co_await await_prefill();
    step = on_prefill_over();
  }
  co_return step;
}

http::Awaitable<router::Step> AnswerExchange::decode(router::AskDecode ask) {
  router::AnswerFlow& flow = answer_flow();
  on_decode();
  http::ClientRequest request = upstream(ask.instance, std::move(ask.body), hub_.options.first_byte_timeout);
  if (ask.notes) request.headers.add(api::kResumeHeader, "1");
  if (gives_up_decode()) watch_.give_up();
  auto stream = co_await hub_.client.open(std::move(request));
  if (is_unwanted()) co_return router::Pause{};
  if (!stream) co_return flow.on_decode_whole(Failure(failure(stream.error())), hub_.loop.now());
  if (stream->headers().get(api::kKvUnusedHeader)) flow.on_kv_unused();
  if (flow.relays(stream->status())) {
    stream_.emplace(std::move(*stream));
    co_return flow.on_decode_head();
  }
  auto step = co_await read_whole(std::move(*stream));
  co_return step;
}

http::Awaitable<router::Step> AnswerExchange::read_whole(http::ResponseStream stream) {
  const int status = stream.status();
  std::string later = retry_after(stream.headers());
  auto body = co_await stream.read_all(router::kAnswerBytesMax);
  if (is_unwanted()) co_return router::Pause{};
  if (!body) co_return answer_flow().on_decode_whole(Failure(failure(body.error())), hub_.loop.now());
  watch_.instance = {};  // D has done its part
  router::UpstreamAnswer upstream{status, std::move(*body), std::move(later)};
  co_return answer_flow().on_decode_whole(std::move(upstream), hub_.loop.now());
}

// ---- D's stream ----

http::Awaitable<router::Step> AnswerExchange::relay() {
  http::ResponseStream stream = std::move(*stream_);
  stream_.reset();
  router::AnswerFlow& flow = answer_flow();
  http::SseParser parser;
  std::string out;
  Result<void> end;
  while (end && !is_unwanted()) {
    const auto piece = co_await stream.read();
    if (!piece) end = Failure(failure(piece.error()));
    if (!piece || piece->empty() || is_unwanted()) break;
    end = parser.feed(*piece);
    if (end) end = take_events(parser, out);
    while (end && flow.waits() && !is_unwanted()) {
      end = co_await await_held(out);
      if (end) end = take_events(parser, out);
    }
    const bool has_room = send(out);
    if (has_room) continue;
    co_await receiver_.wait_for_room();
  }
  if (is_unwanted()) co_return router::Pause{};
  co_return flow.on_stream_end(end, hub_.loop.now());
}

// Every whole event that the parser has, up to one that waits for P; what they give goes out together.
Result<void> AnswerExchange::take_events(http::SseParser& parser, std::string& out) {
  router::AnswerFlow& flow = answer_flow();
  while (!flow.waits()) {
    const auto event = parser.next();
    if (!event) break;
    flow.on_event(event->raw, event->data, out);
    if (flow.is_broken()) return fail(Code::kCorrupt, "its events are no answer");
  }
  return {};
}

// What was ready before goes out at once. D may go down while P is waited for.
http::Awaitable<Result<void>> AnswerExchange::await_held(std::string& out) {
  using boost::asio::experimental::awaitable_operators::operator||;
  while (answer_flow().waits()) {
    const bool has_room = send(out);
    if (!has_room) {
      co_await receiver_.wait_for_room();
    }
    co_await (await_prefill() || wait_until_given_up());
    if (is_unwanted()) co_return fail(Code::kCancelled, "nobody wants the answer");
    if (watch_.is_given_up) co_return Failure(failure({Code::kCancelled, "D is down"}));
    const auto resumed = answer_flow().resume(out);
    if (!resumed) co_return Failure(failure(resumed.error()));
  }
  co_return Result<void>{};
}

// False when the receiver has to be waited for. The events are its own, also where that wait ends early.
bool AnswerExchange::send(std::string& out) {
  if (out.empty()) return true;
  if (!receiver_.take(out)) is_unwanted_ = true;
  out.clear();
  return is_unwanted_ || receiver_.has_room();
}

}  // namespace baton::proxy
