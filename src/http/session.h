// One client's connection: reads requests, runs the handler for each, sends what it writes. Only for the
// sources of this room.
#pragma once

#include <boost/asio/cancellation_signal.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "http/loop_parts.h"
#include "http/parser.h"
#include "http/server_state.h"

namespace baton::http {

class Session final : public std::enable_shared_from_this<Session>, public TurnEnd {
 public:
  Session(std::shared_ptr<Server::State> server, Socket socket, const net::Endpoint& peer);
  ~Session() override;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void start();
  void refuse(int status, std::string_view message);  // instead of start
  void on_tick(Time now);
  void begin_drain();
  bool has_said_all() const;  // everything is sent, only the client's end is awaited
  void cut();                 // closes at once; a running handler is cancelled

  // For the handler, through its ResponseWriter. `headers` may be null.
  void send_whole(int status, std::string_view content_type, const Headers* headers, std::string_view body);
  void send_error(int status, std::string_view message);
  void start_stream(int status, std::string_view content_type, const Headers* headers);
  void append_piece(std::string_view piece);
  void end_stream();
  void flush_head();
  void truncate();
  bool has_room() const;
  Awaitable<Result<void>> wait_for_room();
  bool started() const { return answer_ != Answer::kNone; }
  bool hung_up() const { return hung_up_; }
  void on_hang_up(std::function<void()> task);

 private:
  enum class Phase {
    kIdle,      // no byte of a request yet
    kHead,      // some bytes
    kBody,      // the head is there
    kReady,     // a whole request waits for the handler
    kHandling,  // the handler runs
    kClosing,   // what is written is sent, then the client's end is awaited
    kClosed,
  };
  enum class Answer { kNone, kWhole, kStream };

  void at_turn_end() override;

  // Reading
  void start_read();
  void on_read(const error_code& error, size_t count);
  void parse();
  void enter(Phase phase);
  bool wants_input() const;

  // Handling
  static Awaitable<void> run(std::shared_ptr<Session> self);
  Awaitable<void> handle_requests();
  Awaitable<bool> next_request();
  Awaitable<void> call_handler();
  void finish_answer();
  void lose(Code reason);

  // Writing
  void append_head(std::string& to, int status, std::string_view content_type, const Headers* headers);
  void release_head();
  void schedule_flush();
  void flush();
  void announce_room();
  void await_writable();
  void close_after_flush();
  void close_socket(bool reset);
  void respond_and_close(int status, std::string_view message);

  std::shared_ptr<Server::State> server_;
  Socket socket_;
  net::Endpoint peer_;
  RequestParser parser_;
  InputBuffer input_;
  OutputBuffer output_;
  std::string held_head_;  // of a stream that has no piece yet
  Waiter request_waiter_;
  Waiter room_waiter_;
  asio::cancellation_signal cancel_;
  std::function<void()> on_hang_up_;
  Phase phase_ = Phase::kIdle;
  Answer answer_ = Answer::kNone;
  Time deadline_ = kNever;        // of the phase
  Time stall_deadline_ = kNever;  // for the next byte that the client takes
  Code lost_reason_ = Code::kCancelled;
  size_t discarded_ = 0;  // bytes read while closing
  bool reading_ = false;
  bool awaiting_writable_ = false;
  bool flush_scheduled_ = false;
  bool room_announced_ = false;
  bool read_paused_ = false;
  bool chunked_ = false;
  bool truncated_ = false;
  bool ended_ = false;  // the stream's last piece was taken
  bool close_after_answer_ = false;
  bool is_head_request_ = false;
  bool continue_sent_ = false;
  bool hung_up_ = false;
};

}  // namespace baton::http
