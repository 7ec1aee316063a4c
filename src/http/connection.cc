#include "http/connection.h"

#include <fmt/format.h>

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "http/client_state.h"
#include "net/socket.h"

namespace baton::http {
namespace {

constexpr size_t kReadBytes = 16 * 1024;

ParserLimits parser_limits(const ClientOptions& options) {
  return {options.head_bytes_max, options.headers_max, options.body_bytes_max};
}

// What the kernel takes of the bytes of `head` and `body` from `begin` on; -1 with errno.
ssize_t send_parts(int fd, std::string& head, std::string& body, size_t begin) {
  const size_t of_head = std::min(begin, head.size());
  const size_t of_body = begin - of_head;
  std::array<iovec, 2> parts{iovec{head.data() + of_head, head.size() - of_head},
                             iovec{body.data() + of_body, body.size() - of_body}};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  return ::sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

asio::ip::tcp::endpoint as_asio(const net::Endpoint& endpoint) {
  asio::ip::tcp::endpoint converted;
  converted.resize(endpoint.size);
  std::memcpy(converted.data(), endpoint.data(), endpoint.size);
  converted.resize(endpoint.size);
  return converted;
}

}  // namespace

Connection::Connection(const std::shared_ptr<Client::State>& client, net::Address to)
    : loop_(client->loop),
      options_(client->options),
      client_(client),
      to_(std::move(to)),
      socket_(loop_.context().get_executor()),
      parser_(parser_limits(options_)),
      waiter_(loop_) {}

Awaitable<Result<void>> Connection::connect(const net::Endpoint& endpoint) {
  const auto self = shared_from_this();
  deadline_ = loop_.now() + options_.connect_timeout;
  error_code error;
  const auto target = as_asio(endpoint);
  socket_.open(target.protocol(), error);
  if (error) {
    fail_with(Code::kExhausted, error.message());
    co_return failure();
  }
  net::set_no_delay(socket_.native_handle());
  bool connected = false;
  socket_.async_connect(target, [self, &connected](const error_code& outcome) {
    if (self->phase_ != Phase::kConnecting) return;
    const Turn turn(self->loop_.state());
    if (outcome) {
      const Code code = outcome == asio::error::timed_out ? Code::kTimeout : Code::kUnavailable;
      self->fail_with(code, outcome.message());
    } else {
      connected = true;
      self->wake();
    }
  });
  const Outcome outcome = co_await waiter_.park();
  if (outcome == Outcome::kCancelled) fail_with(Code::kCancelled, "connecting was cancelled");
  if (!connected) co_return failure();
  deadline_ = kNever;
  phase_ = Phase::kResting;
  co_return Result<void>();
}

void Connection::send(std::string head, std::string body, bool answers_head, Duration head_timeout,
                      Duration idle_timeout) {
  CHECK(phase_ == Phase::kResting, "a connection takes one exchange at a time");
  reused_ = resting_since_ != Time();
  phase_ = Phase::kHead;
  idle_timeout_ = idle_timeout;
  deadline_ = loop_.now() + head_timeout;
  parser_.reset(answers_head);
  body_.clear();
  request_head_ = std::move(head);
  request_body_ = std::move(body);
  sent_ = 0;
  flush();
  start_read();
}

Awaitable<Result<void>> Connection::wait_for_head() {
  const auto self = shared_from_this();
  while (true) {
    if (parser_.head_done()) {
      if (is_all_sent()) drop_request();
      co_return Result<void>();
    }
    if (error_) co_return failure();
    const Outcome outcome = co_await waiter_.park();
    if (outcome == Outcome::kCancelled) fail_with(Code::kCancelled, "the request was cancelled");
  }
}

std::optional<Result<void>> Connection::take_piece(std::string& piece) {
  piece.clear();
  // What arrived before an error is given before it.
  if (!body_.empty()) {
    piece.swap(body_);
    start_read();
    return Result<void>();
  }
  if (error_) return failure();
  if (done()) return Result<void>();
  return std::nullopt;
}

bool Connection::reusable() const {
  return phase_ == Phase::kDone && parser_.keep_alive() && input_.size() == 0 && is_all_sent();
}

void Connection::drop_request() {
  request_head_ = {};
  request_body_ = {};
  sent_ = 0;
}

void Connection::rest() {
  drop_request();
  phase_ = Phase::kResting;
  deadline_ = kNever;
  resting_since_ = loop_.now();
  start_read();
}

void Connection::on_tick(Time now) {
  if (now < deadline_) return;
  switch (phase_) {
    case Phase::kConnecting:
      return fail_with(Code::kTimeout, "no connection in time");
    case Phase::kHead:
      return fail_with(Code::kTimeout, "no response in time");
    case Phase::kBody:
      return fail_with(Code::kTimeout, "the response stopped coming");
    case Phase::kResting:
    case Phase::kDone:
    case Phase::kClosed:
      return;
  }
}

// ---- writing

void Connection::flush() {
  if (phase_ == Phase::kClosed || awaiting_writable_) return;
  while (!is_all_sent()) {
    const ssize_t count = send_parts(socket_.native_handle(), request_head_, request_body_, sent_);
    if (count >= 0) {
      sent_ += static_cast<size_t>(count);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      break;
    } else if (errno != EINTR) {
      return;  // the peer may have answered before it closed: reading tells
    }
  }
  if (is_all_sent()) return;
  awaiting_writable_ = true;
  socket_.async_wait(Socket::wait_write, [self = shared_from_this()](const error_code& error) {
    self->awaiting_writable_ = false;
    if (!error) self->flush();
  });
}

// ---- reading

void Connection::start_read() {
  if (reading_ || phase_ == Phase::kClosed || phase_ == Phase::kDone) return;
  // While the reader is behind, the peer's silence is not the peer's.
  const bool is_full = body_.size() >= options_.piece_bytes_max;
  if (phase_ == Phase::kBody) deadline_ = is_full ? kNever : loop_.now() + idle_timeout_;
  if (is_full) return;
  reading_ = true;
  socket_.async_read_some(input_.prepare(kReadBytes),
                          [self = shared_from_this()](const error_code& error, size_t count) {
                            self->reading_ = false;
                            {
                              const Turn turn(self->loop_.state());
                              self->on_read(error, count);
                            }
                            // After the turn: what others wrote for these bytes leaves first.
                            self->start_read();
                          });
}

void Connection::on_read(const error_code& error, size_t count) {
  if (phase_ == Phase::kClosed) return;
  if (phase_ == Phase::kResting) {
    // Nothing was asked, so whatever comes ends the connection.
    if (const auto client = client_.lock()) client->forget_resting(this);
    return close();
  }
  if (error) return on_end(error);
  input_.commit(count);
  parse();
}

void Connection::parse() {
  const auto consumed = parser_.feed(input_.view(), body_);
  if (!consumed) return fail_with(Code::kCorrupt, consumed.error().message);
  input_.consume(*consumed);
  if (parser_.done()) {
    phase_ = Phase::kDone;
    deadline_ = kNever;
    return wake();
  }
  if (!parser_.head_done()) return;
  phase_ = Phase::kBody;
  wake();
}

void Connection::on_end(const error_code& error) {
  went_stale_ = !parser_.started();
  if (error == asio::error::eof && parser_.head_done() && parser_.finish()) {
    phase_ = Phase::kDone;
    deadline_ = kNever;
    return wake();
  }
  fail_with(Code::kUnavailable,
            parser_.started() ? "closed in the middle of the response" : "closed before the response");
}

void Connection::fail_with(Code code, std::string_view what) {
  if (!error_) {
    error_ = Error{code, fmt::format("{}: {}", net::to_string(to_), what)};
  }
  close();
  wake();
}

void Connection::cancel() { fail_with(Code::kCancelled, "the client is closing"); }

void Connection::interrupt() {
  if (phase_ == Phase::kClosed) return;
  if (!error_)
    error_ = Error{Code::kCancelled, fmt::format("{}: the request was interrupted", net::to_string(to_))};
  close();
  asio::post(loop_.context(), [self = shared_from_this()] {
    const Turn turn(self->loop_.state());
    self->wake();
  });
}

void Connection::wake() { waiter_.resume(Outcome::kReady); }

void Connection::close() {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  deadline_ = kNever;
  if (!error_)
    error_ = Error{Code::kCancelled, fmt::format("{}: the connection was closed", net::to_string(to_))};
  error_code ignored;
  socket_.close(ignored);
}

}  // namespace baton::http
