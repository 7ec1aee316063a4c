// An HTTP/1.1 server (RFC 9112) whose sessions all live on one io thread.
//
//   Server server(loop, std::move(listener), options, [&](Request& request, ResponseWriter& writer)
//       -> Awaitable<void> { return router.handle(request, writer); });
//   server.start();
//   loop.run();
//
// A session reads a request whole (bounded), runs the handler, and goes on with the next (pipelined or not).
// While a handler runs the session keeps reading, so it notices at once when the client hangs up: the
// handler's coroutine is then cancelled, that is, whatever it awaits in this room ends with kCancelled, now
// and later. A handler that must tell others (abort) spawns that on the loop. End of stream from the client
// counts as hanging up, as in nginx and uvicorn.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "http/io_loop.h"
#include "http/message.h"
#include "net/socket.h"

namespace baton::http {

// Every bound of a server. Exceeding one answers with the status named here, then closes the connection.
struct ServerOptions {
  size_t head_bytes_max = 32 * 1024;         // request line and fields: 431
  size_t headers_max = 100;                  // fields: 431
  size_t body_bytes_max = 32 * 1024 * 1024;  // 413
  size_t connections_max = 16 * 1024;        // 503
  size_t outgoing_bytes_max = 256 * 1024;    // unsent bytes of one session; write() waits above this
  Duration head_timeout =
      std::chrono::seconds(10);  // from the first byte of a request to its last field: 408
  Duration body_timeout = std::chrono::seconds(60);   // from there to its last byte: 408
  Duration idle_timeout = std::chrono::seconds(75);   // between requests: closed without a word
  Duration stall_timeout = std::chrono::seconds(30);  // a client that takes no byte for this long is lost
  std::string server_name = "baton";                  // the Server field

  // The body of an error that the server answers by itself.
  std::function<std::string(int status, std::string_view message)> error_body = http::error_body;
};

// What a server counts; read on the io thread.
struct ServerCounters {
  uint64_t connections_accepted = 0;
  uint64_t connections_refused = 0;  // above connections_max
  uint64_t accept_pauses = 0;        // out of descriptors
  uint64_t requests = 0;             // handed to the handler
  uint64_t bad_requests = 0;         // answered by the server itself
  uint64_t hang_ups = 0;             // while a handler ran
  uint64_t stalls = 0;               // clients lost to stall_timeout
  size_t connections = 0;            // now
  size_t handlers = 0;               // now
};

class Session;

// A handler's way to answer its request, valid while the handler runs. Exactly one response: either send, or
// start_stream and then pieces. A handler that returns without a response makes a 500. io thread only.
//
// Nothing reaches the socket before the handler suspends or returns, and a stream's head waits for its first
// piece: head, first event and end share a write where they are ready together.
class ResponseWriter {
 public:
  explicit ResponseWriter(Session& session) : session_(session) {}
  ResponseWriter(const ResponseWriter&) = delete;
  ResponseWriter& operator=(const ResponseWriter&) = delete;

  // A whole response.
  void send(int status, std::string_view content_type, std::string_view body);
  void send(const Response& response);
  // error_body(status, message) of the options, as application/json.
  void send_error(int status, std::string_view message);

  // Begins a response of unknown length: chunked, or up to the end of the connection for HTTP/1.0.
  void start_stream(int status, std::string_view content_type);
  void start_stream(int status, const Headers& headers);
  // A piece of the body, taken at once; returns when there is room for another. kCancelled when the client
  // hung up, kTimeout when it was lost to stall_timeout; nothing can be sent after either.
  Awaitable<Result<void>> write(std::string_view piece);
  // As write, without waiting: for a piece that must not suspend (the last, an error). Bounded by the
  // caller: the piece is taken even above outgoing_bytes_max, where has_room() is false.
  void append(std::string_view piece);
  bool has_room() const;
  // What write waits for.
  Awaitable<Result<void>> wait_for_room();
  void flush();  // sends a head that has no piece yet
  // The stream is whole: its end goes out with the last piece, also when the handler has work left. No piece
  // follows; without it the stream ends when the handler returns.
  void end();
  // Ends the connection without the end of the body, so that the client sees that it is not whole.
  void abort();

  bool started() const;  // a response was sent or a stream begun: the status can no longer change
  bool hung_up() const;  // the client is gone, nothing can be sent
  // Called once when the client hangs up, before the handler is cancelled; at once if it already did. Dropped
  // when the handler returns.
  void on_hang_up(std::function<void()> task);

 private:
  Session& session_;
};

using Handler = std::function<Awaitable<void>(Request&, ResponseWriter&)>;

class Server {
 public:
  // `listener` is bound already; nothing is accepted before start().
  Server(IoLoop& loop, net::Listener listener, ServerOptions options, Handler handler);
  ~Server();  // closes everything; on the io thread or when the loop does not run
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  void start();
  // No new connections, idle ones closed; every response from now on says Connection: close. Returns when
  // the last session ended, or after `limit`, when the rest are cut off. How many were cut.
  Awaitable<size_t> drain(Duration limit);

  const ServerCounters& counters() const;
  const net::Endpoint& local() const;

  struct State;  // for the sources of this room

 private:
  std::shared_ptr<State> state_;
};

}  // namespace baton::http
