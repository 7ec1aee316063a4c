#include "proxy/session.h"

#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>

#include "api/response.h"
#include "base/ids.h"
#include "proxy/answer.h"
#include "proxy/client_timings.h"
#include "proxy/exchange.h"
#include "proxy/live_request.h"
#include "proxy/parted_session.h"
#include "proxy/request_trace.h"
#include "proxy/shadow.h"

namespace baton::proxy {
namespace {

// The client's own connection as the receiver of one flow.
class Direct final : public Receiver {
 public:
  // `tap`: of the sample of --shadow, else nullptr.
  Direct(Visit& visit, const http::Request& request, http::ResponseWriter& writer, bool gives_timings,
         router::ReceiptTap* tap)
      : visit_(visit), request_(request), writer_(writer), gives_timings_(gives_timings), tap_(tap) {}

  void attach(const Exchange& exchange, LiveRequest& live) {
    exchange_ = &exchange;
    live_ = &live;
  }
  bool must_split() const { return must_split_; }

  bool is_gone() const override { return writer_.hung_up(); }
  bool take(std::string_view events) override {
    if (!writer_.started()) {
      visit_.on_first_byte();
      live_->on_first_byte();
      writer_.start_stream(200, headers(kEventStream));
    }
    writer_.append(changed(events));
    return true;
  }
  bool has_room() const override { return writer_.has_room(); }
  http::Awaitable<void> wait_for_room() override {
    const auto room = co_await writer_.wait_for_room();
    static_cast<void>(room);  // is_gone() says it
  }
  void end(std::string_view events) override {
    writer_.append(changed(events));
    writer_.end();
  }
  void reply(router::Reply reply) override {
    if (reply.status == 400) tell_place(reply);
    if (gives_timings_ && reply.status == 200) put_timings(reply);
    if (tap_ != nullptr && reply.status == 200) {
      auto tapped = reply.content_type.starts_with("text/event-stream") ? tap_->events(reply.body)
                                                                        : tap_->whole(reply.body);
      if (tapped) reply.body = *std::move(tapped);
    }
    send(writer_, headers(reply.content_type), reply);
  }
  void split() override { must_split_ = true; }

 private:
  // The views live until the next call.
  std::string_view changed(std::string_view events) {
    const std::string_view timed = with_timings(events);
    auto tapped = tap_ == nullptr ? std::nullopt : tap_->events(timed);
    if (!tapped) return timed;
    tapped_ = *std::move(tapped);
    return tapped_;
  }
  std::string_view with_timings(std::string_view events) {
    if (!gives_timings_) return events;
    changed_ = events_with_timings(events, visit_.started(), exchange_->flow().times(), now());
    return changed_.empty() ? events : changed_;
  }
  // An instance counts bytes in the body that it was sent.
  void tell_place(router::Reply& reply) const {
    if (const auto body = api::parse_json_object(request_.body); !body)
      reply.body = api::render_error(body.error());
  }
  void put_timings(router::Reply& reply) {
    if (reply.content_type.starts_with("text/event-stream")) {
      reply.body = with_timings(reply.body);
    } else if (auto whole = router::with_whole_timings(reply.body, visit_.started(),
                                                       exchange_->flow().times(), now())) {
      reply.body = std::move(*whole);
    }
  }
  Time now() const { return visit_.hub().loop.now(); }
  http::Headers headers(std::string_view content_type) const {
    const router::FlowReport& flow = exchange_->flow();
    http::Headers out = answer_headers(request_, flow.request_id(), content_type);
    if (const auto* p = visit_.hub().registry.find(flow.prefill_instance().value_or(router::InstanceId{})))
      out.add("X-Baton-Prefill", p->address());
    if (const auto* d = visit_.hub().registry.find(flow.decode_instance().value_or(router::InstanceId{})))
      out.add("X-Baton-Decode", d->address());
    return out;
  }

  Visit& visit_;
  const http::Request& request_;
  http::ResponseWriter& writer_;
  const Exchange* exchange_ = nullptr;
  LiveRequest* live_ = nullptr;
  const bool gives_timings_;
  router::ReceiptTap* tap_;
  std::string changed_;
  std::string tapped_;
  bool must_split_ = false;
};

void refuse(http::ResponseWriter& writer, const Error& error, bool retry_later) {
  http::Response response;
  response.status = api::http_status(error.code);
  response.headers.add("Content-Type", "application/json");
  if (retry_later) response.headers.add("Retry-After", "1");
  response.body = api::render_error(error);
  writer.send(response);
}

// False when the request has to be split; nothing was answered then.
http::Awaitable<bool> relay_directly(Visit& visit, RequestTrace& trace, const http::Request& request,
                                     http::ResponseWriter& writer, router::ClientBody client,
                                     std::string id) {
  Shadows* shadows = visit.hub().shadows.get();
  std::optional<router::ReceiptTap> tap;
  if (shadows != nullptr && shadows->takes(client, id)) {
    tap.emplace(asks_receipt(client));
    client.members.set("receipt", "true");
  }
  const router::Route route = client.route;
  Direct direct(visit, request, writer, asks_timings(client), tap ? &*tap : nullptr);
  const auto exchange =
      make_exchange(visit.hub(), visit.order, request, direct, std::move(client), std::move(id));
  LiveRequest live(visit, exchange->flow(), request);
  direct.attach(*exchange, live);
  co_await exchange->run();
  trace.note(exchange->flow());
  if (!exchange->flow().outcome().empty()) visit.outcome = exchange->flow().outcome();
  if (tap && tap->receipt() && exchange->flow().outcome() == "ok")
    shadows->add(request, route, exchange->flow(), *tap->receipt());
  co_return !direct.must_split();
}

}  // namespace

http::Awaitable<void> relay(Hub& hub, router::Route route, http::Request& request,
                            http::ResponseWriter& writer) {
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
  const auto order = hub.registry.order();
  if (!order) {
    ++hub.metrics.outcomes["no_instance"];
    refuse(writer, order.error(), true);
    co_return;
  }
  // Each request its own name upstream: equal X-Request-Ids of two clients never meet there.
  const std::string id = random_id<HandoverId>().hex();
  Visit visit(hub, *order);
  RequestTrace trace(hub, request, router::route_path(route));
  if (client->prompts.empty()) {
    router::ClientBody body = std::move(*client);
    const bool answered = co_await relay_directly(visit, trace, request, writer, std::move(body), id);
    trace.set_outcome(visit.outcome);
    if (answered) co_return;
    client = router::read_client_body(route, request.body);
  }
  co_await relay_parts(visit, *client, id, request, writer);
  trace.set_outcome(visit.outcome);
}

}  // namespace baton::proxy
