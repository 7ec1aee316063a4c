#include "proxy/parted_session.h"

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/this_coro.hpp>

#include <list>
#include <utility>

#include "api/response.h"
#include "base/log.h"
#include "http/wake.h"
#include "proxy/exchange.h"
#include "proxy/live_request.h"
#include "router/parts.h"

namespace baton::proxy {
namespace asio = boost::asio;
namespace {

class PartedSession {
 public:
  PartedSession(Visit& visit, const router::ClientBody& client, std::string id, const http::Request& request,
                http::ResponseWriter& writer)
      : visit_(visit),
        client_(client),
        id_(std::move(id)),
        request_(request),
        writer_(writer),
        parts_(client, id_),
        news_(visit.hub().loop) {}

  http::Awaitable<void> run();

 private:
  // One part while it runs: what its flow says goes to the whole.
  class Run final : public Receiver {
   public:
    Run(PartedSession& whole, size_t part)
        : whole_(whole), part_(part), body_(whole.parts_.body(part)), room_(whole.visit_.hub().loop) {}

    http::Awaitable<void> run();
    bool is_gone() const override { return whole_.is_ending_ || whole_.writer_.hung_up(); }
    bool take(std::string_view events) override;
    bool has_room() const override { return whole_.out_.size() <= kPartedBufferBytes; }
    http::Awaitable<void> wait_for_room() override;
    void end(std::string_view events) override;
    void reply(router::Reply reply) override;
    void split() override {
      whole_.parts_.split(part_);
      whole_.news_.notify();
    }

    asio::cancellation_signal cancel;
    bool has_ended = false;
    http::Wake& room() { return room_; }

   private:
    PartedSession& whole_;
    size_t part_;
    std::string body_;  // the flow keeps views into it
    http::Wake room_;
    const Exchange* exchange_ = nullptr;
    LiveRequest* live_ = nullptr;
  };

  void begin_parts();
  void reap();
  http::Awaitable<bool> send_events();
  http::Awaitable<void> relay_until_over();
  http::Awaitable<void> end_all();
  void finish();

  Visit& visit_;
  const router::ClientBody& client_;
  std::string id_;
  const http::Request& request_;
  http::ResponseWriter& writer_;
  router::PartedAnswer parts_;
  std::list<Run> runs_;
  std::string out_;  // events that wait for the writer
  http::Wake news_;  // for run(): events, an end
  bool is_ending_ = false;
  std::string failed_outcome_;
};

http::Awaitable<void> PartedSession::Run::run() {
  co_await asio::this_coro::throw_if_cancelled(false);
  auto client = router::read_client_body(whole_.client_.route, body_);
  if (!client) {
    reply({.status = api::http_status(client.error().code), .body = api::render_error(client.error())});
    co_return;
  }
  client->part = whole_.parts_.place(part_);
  const auto exchange = make_exchange(whole_.visit_.hub(), whole_.visit_.order, whole_.request_, *this,
                                      std::move(*client), whole_.parts_.request_id(part_));
  exchange_ = exchange.get();
  LiveRequest live(whole_.visit_, exchange->flow(), whole_.request_);
  live_ = &live;
  co_await exchange->run();
  live_ = nullptr;
}

bool PartedSession::Run::take(std::string_view events) {
  if (whole_.parts_.has_failed()) return false;
  whole_.out_ += events;
  live_->on_first_byte();
  if (exchange_->flow().has_failed()) {
    whole_.failed_outcome_ = "d_failed";
    whole_.parts_.on_broken(part_);
    whole_.news_.notify();
    return false;
  }
  whole_.news_.notify();
  return true;
}

http::Awaitable<void> PartedSession::Run::wait_for_room() {
  while (!has_room()) {
    const auto woken = co_await room_.wait();
    if (!woken) co_return;
  }
}

void PartedSession::Run::end(std::string_view events) {
  if (whole_.parts_.has_failed()) return;  // the client has been told
  whole_.out_ += events;
  if (exchange_->flow().has_failed()) {
    whole_.failed_outcome_ = "d_failed";
    whole_.parts_.on_broken(part_);
  } else {
    whole_.parts_.on_stream_end(part_, exchange_->flow().usage_event());
  }
  whole_.news_.notify();
}

void PartedSession::Run::reply(router::Reply reply) {
  const bool is_failure = reply.status != 200;
  const auto usage = exchange_ == nullptr ? std::string_view() : exchange_->flow().usage_event();
  whole_.parts_.on_reply(part_, std::move(reply), usage, whole_.out_);
  if (is_failure && whole_.failed_outcome_.empty())
    whole_.failed_outcome_ = exchange_ == nullptr ? "refused" : exchange_->flow().outcome();
  whole_.news_.notify();
}

void PartedSession::begin_parts() {
  while (const auto part = parts_.begin_next()) {
    Run& run = runs_.emplace_back(*this, *part);
    asio::co_spawn(
        visit_.hub().loop.context(), run.run(),
        asio::bind_cancellation_slot(run.cancel.slot(), [this, &run](const std::exception_ptr& thrown) {
          if (thrown) log_error("proxy", "a part of an answer ended by an exception");
          run.has_ended = true;
          news_.notify();
        }));
  }
}

void PartedSession::reap() {
  std::erase_if(runs_, [](const Run& run) { return run.has_ended; });
}

// False when the client is lost.
http::Awaitable<bool> PartedSession::send_events() {
  if (!writer_.started()) {
    visit_.on_first_byte();
    writer_.start_stream(200, answer_headers(request_, id_, kEventStream));
  }
  const std::string piece = std::exchange(out_, {});
  const auto written = co_await writer_.write(piece);
  for (Run& run : runs_) run.room().notify();
  co_return written.has_value();
}

http::Awaitable<void> PartedSession::relay_until_over() {
  while (true) {
    reap();
    begin_parts();
    if (writer_.hung_up()) co_return;
    if (!out_.empty()) {
      const bool sent = co_await send_events();
      if (!sent) co_return;
      continue;
    }
    if (parts_.is_over()) co_return;
    const auto woken = co_await news_.wait();
    if (!woken) co_return;
  }
}

// The parts end at once, each tells its instances; none of them outlives the request.
http::Awaitable<void> PartedSession::end_all() {
  is_ending_ = true;
  for (Run& run : runs_) run.cancel.emit(asio::cancellation_type::terminal);
  while (true) {
    reap();
    if (runs_.empty()) co_return;
    const auto woken = co_await news_.wait();
    if (!woken) {
      co_await asio::this_coro::reset_cancellation_state(asio::enable_total_cancellation());
    }
  }
}

void PartedSession::finish() {
  visit_.outcome = parts_.has_failed() ? failed_outcome_ : "ok";
  if (client_.stream && (writer_.started() || !parts_.has_failed())) {
    if (!writer_.started()) writer_.start_stream(200, answer_headers(request_, id_, kEventStream));
    parts_.append_end(out_);
    writer_.append(out_);
    writer_.end();
    return;
  }
  const router::Reply reply = parts_.reply();
  send(writer_, answer_headers(request_, id_, reply.content_type), reply);
}

http::Awaitable<void> PartedSession::run() {
  co_await relay_until_over();
  const bool is_lost = writer_.hung_up() || !parts_.is_over();
  if (is_lost) {
    visit_.outcome = "client_gone";
  } else {
    finish();
  }
  co_await end_all();
}

}  // namespace

http::Awaitable<void> relay_parts(Visit& visit, const router::ClientBody& client, std::string id,
                                  const http::Request& request, http::ResponseWriter& writer) {
  PartedSession session(visit, client, std::move(id), request, writer);
  co_await session.run();
}

}  // namespace baton::proxy
