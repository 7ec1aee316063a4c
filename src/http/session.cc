#include "http/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>
#include <charconv>
#include <exception>

#include "base/log.h"

namespace baton::http {
namespace {

constexpr size_t kReadBytes = 4 * 1024;           // room for a usual request
constexpr size_t kBodyReadBytes = 64 * 1024;      // while a body comes
constexpr size_t kPipelinedBytesMax = 64 * 1024;  // read ahead while a handler runs
constexpr size_t kDiscardBytesMax =
    16 * 1024 * 1024;  // swallowed after an error, so that the client reads it
constexpr Duration kCloseTimeout = std::chrono::seconds(2);  // for the client to close its end

constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr std::string_view kLastChunk = "0\r\n\r\n";
constexpr std::string_view kJson = "application/json";

ParserLimits parser_limits(const ServerOptions& options) {
  return {options.head_bytes_max, options.headers_max, options.body_bytes_max};
}

void append_number(std::string& to, size_t number, int base) {
  char text[24];
  const auto [end, error] = std::to_chars(text, text + sizeof(text), number, base);
  to.append(text, end);
}

void append_field(std::string& to, std::string_view name, std::string_view value) {
  to += name;
  to += ": ";
  to += value;
  to += "\r\n";
}

bool may_have_body(int status) { return status >= 200 && status != 204 && status != 304; }

}  // namespace

Session::Session(std::shared_ptr<Server::State> server, Socket socket, const net::Endpoint& peer)
    : server_(std::move(server)),
      socket_(std::move(socket)),
      peer_(peer),
      parser_(parser_limits(server_->options)),
      request_waiter_(server_->loop),
      room_waiter_(server_->loop) {}

Session::~Session() { server_->forget(this); }

void Session::start() {
  enter(Phase::kIdle);
  asio::co_spawn(socket_.get_executor(), run(shared_from_this()),
                 asio::bind_cancellation_slot(cancel_.slot(), [](const std::exception_ptr& thrown) {
                   if (thrown) log_error("http", "a session ended by an exception");
                 }));
  start_read();
}

void Session::refuse(int status, std::string_view message) {
  respond_and_close(status, message);
  start_read();
}

// ---- reading

void Session::enter(Phase phase) {
  phase_ = phase;
  const ServerOptions& options = server_->options;
  const Time now = server_->loop.now();
  switch (phase) {
    case Phase::kIdle:
      deadline_ = now + options.idle_timeout;
      break;
    case Phase::kHead:
      deadline_ = now + options.head_timeout;
      break;
    case Phase::kBody:
      deadline_ = now + options.body_timeout;
      break;
    case Phase::kClosing:
      deadline_ = now + kCloseTimeout;
      break;
    case Phase::kReady:
    case Phase::kHandling:
    case Phase::kClosed:
      deadline_ = kNever;
      break;
  }
}

bool Session::wants_input() const {
  if (phase_ == Phase::kClosed) return false;
  if (phase_ == Phase::kReady || phase_ == Phase::kHandling) return input_.size() < kPipelinedBytesMax;
  return true;
}

void Session::start_read() {
  if (reading_) return;
  read_paused_ = !wants_input();
  if (read_paused_) return;
  reading_ = true;
  const size_t room = phase_ == Phase::kBody ? kBodyReadBytes : kReadBytes;
  socket_.async_read_some(input_.prepare(room),
                          [self = shared_from_this()](const error_code& error, size_t count) {
                            self->reading_ = false;
                            {
                              const Turn turn(self->server_->loop.state());
                              self->on_read(error, count);
                            }
                            // After the turn: its output leaves before the next read is tried.
                            if (!error) self->start_read();
                          });
}

void Session::on_read(const error_code& error, size_t count) {
  if (phase_ == Phase::kClosed) return;
  if (error) {
    if (phase_ == Phase::kHandling || phase_ == Phase::kReady) return lose(Code::kCancelled);
    return close_socket(false);
  }
  input_.commit(count);
  if (phase_ == Phase::kClosing) {
    discarded_ += input_.size();
    input_.clear();
    if (discarded_ > kDiscardBytesMax) close_socket(true);
    return;
  }
  parse();
  // The last thing done: it runs the handler until that waits.
  if (phase_ == Phase::kReady) request_waiter_.resume(Outcome::kReady);
}

// Takes the next request out of the input as far as it is there.
void Session::parse() {
  if (phase_ != Phase::kIdle && phase_ != Phase::kHead && phase_ != Phase::kBody) return;
  if (phase_ == Phase::kIdle && input_.size() > 0) enter(Phase::kHead);
  const auto consumed = parser_.feed(input_.view());
  if (!consumed) {
    ++server_->counters.bad_requests;
    return respond_and_close(consumed.error().status, consumed.error().message);
  }
  input_.consume(*consumed);
  if (parser_.done()) return enter(Phase::kReady);
  if (!parser_.head_done()) return;
  if (phase_ == Phase::kHead) enter(Phase::kBody);
  if (parser_.expects_continue() && !continue_sent_) {
    continue_sent_ = true;
    output_.tail() += kContinue;
    schedule_flush();
  }
}

void Session::on_tick(Time now) {
  if (phase_ == Phase::kClosed) return;
  if (now >= stall_deadline_) {
    ++server_->counters.stalls;
    if (phase_ == Phase::kHandling) return lose(Code::kTimeout);
    return close_socket(true);
  }
  if (now < deadline_) return;
  if (phase_ == Phase::kHead || phase_ == Phase::kBody) {
    ++server_->counters.bad_requests;
    const bool in_head = phase_ == Phase::kHead;
    const Duration limit = in_head ? server_->options.head_timeout : server_->options.body_timeout;
    return respond_and_close(408, fmt::format("request {}: not whole after {} ms", in_head ? "head" : "body",
                                              limit.count() / 1'000'000));
  }
  close_socket(phase_ == Phase::kClosing);
}

void Session::begin_drain() {
  if (phase_ == Phase::kIdle) close_socket(false);
}

bool Session::has_said_all() const { return phase_ == Phase::kClosing && output_.empty(); }

void Session::cut() {
  if (phase_ == Phase::kClosed) return;
  if (phase_ == Phase::kHandling || phase_ == Phase::kReady) return lose(Code::kCancelled);
  close_socket(!has_said_all());
}

// ---- handling

Awaitable<void> Session::run(std::shared_ptr<Session> self) {
  co_await asio::this_coro::throw_if_cancelled(false);
  co_await self->handle_requests();
}

Awaitable<void> Session::handle_requests() {
  while (true) {
    const bool have = co_await next_request();
    if (!have) co_return;
    co_await call_handler();
    if (phase_ != Phase::kHandling) co_return;
    finish_answer();
    if (phase_ == Phase::kClosing) co_return;
    const Result<void> room = co_await wait_for_room();
    if (!room) co_return;
    parser_.reset();
    continue_sent_ = false;
    enter(Phase::kIdle);
    // A pipelined request may be here already.
    if (input_.size() > 0) parse();
    if (read_paused_) start_read();
  }
}

// False when the session is over.
Awaitable<bool> Session::next_request() {
  while (phase_ == Phase::kIdle || phase_ == Phase::kHead || phase_ == Phase::kBody) {
    const Outcome outcome = co_await request_waiter_.park();
    if (outcome == Outcome::kCancelled) co_return false;
  }
  co_return phase_ == Phase::kReady;
}

Awaitable<void> Session::call_handler() {
  enter(Phase::kHandling);
  Request& request = parser_.request();
  request.peer = peer_;
  answer_ = Answer::kNone;
  truncated_ = false;
  ended_ = false;
  is_head_request_ = request.method == "HEAD";
  close_after_answer_ = !request.keep_alive || server_->draining;
  ++server_->counters.requests;
  ++server_->counters.handlers;
  ResponseWriter writer(*this);
  try {
    co_await server_->handler(request, writer);
  } catch (const std::exception& error) {
    log_error("http", fmt::format("{} {}: {}", request.method, request.path(), error.what()));
    truncated_ = answer_ == Answer::kStream;
  }
  --server_->counters.handlers;
  on_hang_up_ = nullptr;
}

void Session::finish_answer() {
  if (answer_ == Answer::kNone) send_error(500, "the request was not answered");
  if (answer_ == Answer::kStream) {
    release_head();
    if (!truncated_) end_stream();
    if (!chunked_ || truncated_) close_after_answer_ = true;
  }
  schedule_flush();
  if (close_after_answer_ || server_->draining) close_after_flush();
}

// The client is gone, or too slow: nothing more is sent, and whatever the handler waits for ends.
void Session::lose(Code reason) {
  if (hung_up_) return;
  hung_up_ = true;
  lost_reason_ = reason;
  if (reason == Code::kCancelled) ++server_->counters.hang_ups;
  const auto self = shared_from_this();
  close_socket(true);
  if (const auto task = std::move(on_hang_up_)) task();
  on_hang_up_ = nullptr;
  cancel_.emit(asio::cancellation_type::terminal);
}

void Session::on_hang_up(std::function<void()> task) {
  if (hung_up_) return task();
  on_hang_up_ = std::move(task);
}

// ---- writing

// The status line and all fields but the framing; the empty line is the caller's.
void Session::append_head(std::string& to, int status, std::string_view content_type,
                          const Headers* headers) {
  to += "HTTP/1.1 ";
  append_number(to, static_cast<size_t>(status), 10);
  to += ' ';
  to += reason_phrase(status);
  to += "\r\n";
  append_field(to, "Date", server_->date());
  append_field(to, "Server", server_->options.server_name);
  if (!content_type.empty()) append_field(to, "Content-Type", content_type);
  if (headers != nullptr) {
    for (const Header header : *headers) append_field(to, header.name, header.value);
  }
  if (close_after_answer_ || server_->draining) {
    close_after_answer_ = true;
    append_field(to, "Connection", "close");
  } else if (parser_.head_done() && parser_.request().is_http10) {
    append_field(to, "Connection", "keep-alive");
  }
}

void Session::release_head() {
  output_.tail() += held_head_;
  held_head_.clear();
}

void Session::send_whole(int status, std::string_view content_type, const Headers* headers,
                         std::string_view body) {
  CHECK(answer_ == Answer::kNone, "a request is answered twice");
  answer_ = Answer::kWhole;
  if (hung_up_) return;
  std::string& to = output_.tail();
  append_head(to, status, content_type, headers);
  if (may_have_body(status)) {
    to += "Content-Length: ";
    append_number(to, body.size(), 10);
    to += "\r\n";
  }
  to += "\r\n";
  if (may_have_body(status) && !is_head_request_) to += body;
  schedule_flush();
}

void Session::send_error(int status, std::string_view message) {
  send_whole(status, kJson, nullptr, server_->options.error_body(status, message));
}

void Session::start_stream(int status, std::string_view content_type, const Headers* headers) {
  CHECK(answer_ == Answer::kNone, "a request is answered twice");
  answer_ = Answer::kStream;
  chunked_ = !parser_.request().is_http10;
  if (hung_up_) return;
  if (!chunked_) close_after_answer_ = true;
  held_head_.clear();
  append_head(held_head_, status, content_type, headers);
  held_head_ += chunked_ ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n";
}

void Session::append_piece(std::string_view piece) {
  CHECK(answer_ == Answer::kStream && !ended_, "a piece without a stream");
  if (hung_up_ || piece.empty()) return;
  release_head();
  if (is_head_request_) return;
  std::string& to = output_.tail();
  if (chunked_) {
    append_number(to, piece.size(), 16);
    to += "\r\n";
  }
  to += piece;
  if (chunked_) to += "\r\n";
  schedule_flush();
}

void Session::end_stream() {
  CHECK(answer_ == Answer::kStream, "the end of no stream");
  if (hung_up_ || std::exchange(ended_, true)) return;
  release_head();
  if (chunked_ && !is_head_request_) output_.tail() += kLastChunk;
  schedule_flush();
}

void Session::flush_head() {
  if (hung_up_) return;
  release_head();
  schedule_flush();
}

void Session::truncate() {
  truncated_ = true;
  close_after_answer_ = true;
}

bool Session::has_room() const { return output_.size() <= server_->options.outgoing_bytes_max; }

Awaitable<Result<void>> Session::wait_for_room() {
  const auto self = shared_from_this();
  while (!hung_up_ && !has_room()) {
    const Outcome outcome = co_await room_waiter_.park();
    if (outcome == Outcome::kCancelled) break;
  }
  if (hung_up_) {
    co_return fail(lost_reason_,
                   lost_reason_ == Code::kTimeout ? "the client reads too slowly" : "the client hung up");
  }
  co_return Result<void>();
}

void Session::schedule_flush() {
  if (flush_scheduled_ || awaiting_writable_ || phase_ == Phase::kClosed) return;
  flush_scheduled_ = true;
  Turn::at_end(server_->loop.state(), shared_from_this());
}

void Session::at_turn_end() {
  flush_scheduled_ = false;
  flush();
}

void Session::flush() {
  if (phase_ == Phase::kClosed || awaiting_writable_) return;
  const size_t before = output_.size();
  const OutputBuffer::Sent sent = output_.send_to(socket_.native_handle());
  if (sent == OutputBuffer::Sent::kFailed) {
    if (phase_ == Phase::kHandling) return lose(Code::kCancelled);
    return close_socket(true);
  }
  if (output_.empty()) {
    stall_deadline_ = kNever;
  } else if (output_.size() < before || stall_deadline_ == kNever) {
    stall_deadline_ = server_->loop.now() + server_->options.stall_timeout;
  }
  announce_room();
  if (sent == OutputBuffer::Sent::kBlocked) return await_writable();
  if (phase_ == Phase::kClosing) {
    error_code ignored;
    socket_.shutdown(Socket::shutdown_send, ignored);
    if (server_->draining) server_->drain_progress.notify();
  }
}

// In a turn of its own, so that a handler with endless output and a fast reader leave room for others.
void Session::announce_room() {
  if (!room_waiter_.parked() || room_announced_) return;
  if (output_.size() > server_->options.outgoing_bytes_max / 2) return;
  room_announced_ = true;
  asio::post(server_->loop.context(), [self = shared_from_this()] {
    const Turn turn(self->server_->loop.state());
    self->room_announced_ = false;
    self->room_waiter_.resume(Outcome::kReady);
  });
}

void Session::await_writable() {
  awaiting_writable_ = true;
  socket_.async_wait(Socket::wait_write, [self = shared_from_this()](const error_code& error) {
    const Turn turn(self->server_->loop.state());
    self->awaiting_writable_ = false;
    if (error) return;
    self->flush();
  });
}

void Session::close_after_flush() {
  enter(Phase::kClosing);
  discarded_ += input_.size();
  input_.clear();
  schedule_flush();
  request_waiter_.resume(Outcome::kCancelled);
  start_read();
}

void Session::respond_and_close(int status, std::string_view message) {
  close_after_answer_ = true;
  answer_ = Answer::kNone;
  is_head_request_ = false;
  send_error(status, message);
  close_after_flush();
}

void Session::close_socket(bool reset) {
  if (phase_ == Phase::kClosed) return;
  const auto self = shared_from_this();
  enter(Phase::kClosed);
  stall_deadline_ = kNever;
  output_.clear();
  error_code ignored;
  if (reset) socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  socket_.close(ignored);
  if (!hung_up_) request_waiter_.resume(Outcome::kCancelled);
}

}  // namespace baton::http
