// One connection of the client, busy with one exchange or waiting in the pool. Only for the sources of this
// room. Owner: the io thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "http/client.h"
#include "http/loop_parts.h"
#include "http/parser.h"

namespace baton::http {

class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(const std::shared_ptr<Client::State>& client, net::Address to);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  Awaitable<Result<void>> connect(const net::Endpoint& endpoint);
  // Begins an exchange: `head` and `body` are the whole request.
  void send(std::string head, std::string body, bool answers_head, Duration head_timeout,
            Duration idle_timeout);
  // The body given to send(), to be sent elsewhere.
  std::string take_request_body() { return std::move(request_body_); }
  // Returns once the head is parsed.
  Awaitable<Result<void>> wait_for_head();
  // Moves what has arrived of the body into `piece`; empty at the end. Nothing where wait() comes first.
  std::optional<Result<void>> take_piece(std::string& piece);
  // Until there may be more to take. After kCancelled, stop_reading().
  Awaitable<Outcome> wait() { return waiter_.park(); }
  void stop_reading() { fail_with(Code::kCancelled, "reading the response was cancelled"); }

  ResponseParser& parser() { return parser_; }
  bool done() const { return phase_ == Phase::kDone; }
  // Whether it may wait for another exchange. Then park in the pool: a byte or an end from the peer closes
  // it.
  bool reusable() const;
  void rest();
  // The peer closed a kept connection before it answered anything.
  bool went_stale() const { return reused_ && went_stale_; }
  bool is_open() const { return phase_ != Phase::kClosed; }
  Time resting_since() const { return resting_since_; }
  const net::Address& to() const { return to_; }

  void on_tick(Time now);
  void close();
  void cancel();     // closes; the exchange ends with kCancelled
  void interrupt();  // as cancel, but whoever waits runs in a later turn

 private:
  enum class Phase { kConnecting, kResting, kHead, kBody, kDone, kClosed };

  void flush();
  bool is_all_sent() const { return sent_ == request_head_.size() + request_body_.size(); }
  void drop_request();
  void start_read();
  void on_read(const error_code& error, size_t count);
  void parse();
  void on_end(const error_code& error);
  void fail_with(Code code, std::string_view what);
  Failure failure() const { return Failure(*error_); }
  void wake();

  IoLoop& loop_;
  const ClientOptions options_;
  std::weak_ptr<Client::State> client_;  // may be gone when a last callback comes
  net::Address to_;
  Socket socket_;
  ResponseParser parser_;
  InputBuffer input_;
  std::string request_head_;
  std::string request_body_;
  size_t sent_ = 0;   // of both
  std::string body_;  // arrived and not yet asked for
  Waiter waiter_;
  std::optional<Error> error_;
  Phase phase_ = Phase::kConnecting;
  Time deadline_ = kNever;
  Time resting_since_{};
  Duration idle_timeout_{};
  bool reading_ = false;
  bool awaiting_writable_ = false;
  bool reused_ = false;
  bool went_stale_ = false;
};

}  // namespace baton::http
