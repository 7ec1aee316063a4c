#include "http/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/steady_timer.hpp>
#include <charconv>

#include "base/log.h"
#include "http/loop_parts.h"
#include "http/server_state.h"
#include "http/session.h"

namespace baton::http {
namespace {

constexpr Duration kAcceptPause = std::chrono::milliseconds(100);  // when descriptors have run out
constexpr Duration kTickMax = std::chrono::milliseconds(250);
constexpr Duration kTickMin = std::chrono::milliseconds(5);

// A quarter of the shortest limit: that is how late a limit may be noticed.
Duration tick_period(const ServerOptions& options) {
  const Duration shortest =
      std::min({options.head_timeout, options.body_timeout, options.idle_timeout, options.stall_timeout});
  return std::clamp(shortest / 4, kTickMin, kTickMax);
}

bool is_out_of_resources(const error_code& error) {
  constexpr std::array kErrors = {EMFILE, ENFILE, ENOBUFS, ENOMEM};
  return std::ranges::find(kErrors, error.value()) != kErrors.end();
}

}  // namespace

Server::State::State(IoLoop& loop, ServerOptions options, Handler handler)
    : loop(loop),
      options(std::move(options)),
      handler(std::move(handler)),
      acceptor(loop.context().get_executor()),
      pause(loop.context().get_executor()),
      drain_progress(loop) {}

std::string_view Server::State::date() {
  const std::time_t now = std::time(nullptr);
  if (now == date_second) return date_text;
  date_second = now;
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[64];
  const size_t size = std::strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  date_text.assign(text, size);
  return date_text;
}

void Server::State::accept() {
  const auto self = shared_from_this();
  auto peer = std::make_shared<asio::ip::tcp::endpoint>();
  acceptor.async_accept(*peer, [self, peer](const error_code& error, Socket socket) {
    const Turn turn(self->loop.state());
    if (error == asio::error::operation_aborted || self->draining) return;
    if (error && is_out_of_resources(error)) return self->pause_accepting(error);
    self->pausing = false;
    if (!error) self->welcome(std::move(socket), *peer);
    self->accept();
  });
}

// Out of descriptors: clients wait in the kernel's queue until some are free again.
void Server::State::pause_accepting(const error_code& error) {
  ++counters.accept_pauses;
  if (!pausing) {
    log_warning("http", fmt::format("accept on {}: {}; trying again every {} ms", net::to_string(local),
                                    error.message(), kAcceptPause.count() / 1'000'000));
  }
  pausing = true;
  pause.expires_after(kAcceptPause);
  pause.async_wait([self = shared_from_this()](const error_code& stopped) {
    if (!stopped && !self->draining) self->accept();
  });
}

void Server::State::welcome(Socket socket, const asio::ip::tcp::endpoint& peer) {
  net::Endpoint endpoint;
  std::memcpy(&endpoint.storage, peer.data(), peer.size());
  endpoint.size = static_cast<socklen_t>(peer.size());
  net::set_no_delay(socket.native_handle());
  ++counters.connections_accepted;
  const auto session = std::make_shared<Session>(shared_from_this(), std::move(socket), endpoint);
  sessions.insert(session.get());
  counters.connections = sessions.size();
  if (sessions.size() > options.connections_max) {
    ++counters.connections_refused;
    session->refuse(503, fmt::format("connections: {} are open, expected fewer", options.connections_max));
    return;
  }
  session->start();
}

void Server::State::forget(Session* session) {
  sessions.erase(session);
  counters.connections = sessions.size();
  if (draining) drain_progress.notify();
}

void Server::State::tick() {
  const Time now = loop.now();
  // A session that ends takes itself out of the set.
  tick_list.clear();
  for (Session* const session : sessions) tick_list.push_back(session->shared_from_this());
  for (const auto& session : tick_list) session->on_tick(now);
  tick_list.clear();
}

void Server::State::stop_accepting() {
  error_code ignored;
  acceptor.close(ignored);
  pause.cancel();
}

void Server::State::cut_all() {
  std::vector<std::shared_ptr<Session>> all;
  for (Session* const session : sessions) all.push_back(session->shared_from_this());
  for (const auto& session : all) session->cut();
}

Server::Server(IoLoop& loop, net::Listener listener, ServerOptions options, Handler handler)
    : state_(std::make_shared<State>(loop, std::move(options), std::move(handler))) {
  state_->local = listener.local;
  const auto protocol = listener.local.family() == AF_INET6 ? asio::ip::tcp::v6() : asio::ip::tcp::v4();
  error_code error;
  state_->acceptor.assign(protocol, listener.fd.get(), error);
  CHECK(!error, "a listener that Asio refuses: {}", error.message());
  listener.fd.release();
}

Server::~Server() {
  state_->draining = true;
  state_->stop_accepting();
  state_->ticker.reset();
  state_->cut_all();
  // Without a running loop the handlers would outlive what they use.
  if (!state_->loop.state().running) {
    state_->loop.context().restart();
    state_->loop.context().poll();
  }
}

void Server::start() {
  state_->ticker =
      state_->loop.every(tick_period(state_->options), [state = state_.get()] { state->tick(); });
  state_->accept();
}

Awaitable<size_t> Server::drain(Duration limit) {
  const std::shared_ptr<State> state = state_;
  const Time deadline = state->loop.now() + limit;
  state->draining = true;
  state->stop_accepting();
  std::vector<std::shared_ptr<Session>> all;
  for (Session* const session : state->sessions) all.push_back(session->shared_from_this());
  for (const auto& session : all) session->begin_drain();
  all.clear();
  const auto still_busy = [&] {
    return static_cast<size_t>(std::ranges::count_if(
        state->sessions, [](const Session* session) { return !session->has_said_all(); }));
  };
  while (still_busy() > 0) {
    const Duration left = deadline - state->loop.now();
    if (left <= Duration::zero()) break;
    const Result<void> waited = co_await state->drain_progress.wait_for(left);
    if (!waited && waited.error().code != Code::kTimeout) break;
  }
  const size_t cut = still_busy();
  state->cut_all();
  co_return cut;
}

const ServerCounters& Server::counters() const { return state_->counters; }
const net::Endpoint& Server::local() const { return state_->local; }

// ---- what a handler sees of its session

void ResponseWriter::send(int status, std::string_view content_type, std::string_view body) {
  session_.send_whole(status, content_type, nullptr, body);
}

void ResponseWriter::send(const Response& response) {
  session_.send_whole(response.status, {}, &response.headers, response.body);
}

void ResponseWriter::send_error(int status, std::string_view message) {
  session_.send_error(status, message);
}

void ResponseWriter::start_stream(int status, std::string_view content_type) {
  session_.start_stream(status, content_type, nullptr);
}

void ResponseWriter::start_stream(int status, const Headers& headers) {
  session_.start_stream(status, {}, &headers);
}

void ResponseWriter::append(std::string_view piece) { session_.append_piece(piece); }

Awaitable<Result<void>> ResponseWriter::write(std::string_view piece) {
  session_.append_piece(piece);
  return session_.wait_for_room();
}
bool ResponseWriter::has_room() const { return session_.has_room(); }
Awaitable<Result<void>> ResponseWriter::wait_for_room() { return session_.wait_for_room(); }

void ResponseWriter::flush() { session_.flush_head(); }
void ResponseWriter::end() { session_.end_stream(); }
void ResponseWriter::abort() { session_.truncate(); }
bool ResponseWriter::started() const { return session_.started(); }
bool ResponseWriter::hung_up() const { return session_.hung_up(); }
void ResponseWriter::on_hang_up(std::function<void()> task) { session_.on_hang_up(std::move(task)); }

}  // namespace baton::http
