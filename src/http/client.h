// An HTTP/1.1 client (RFC 9112) that keeps its connections. Owner: the io thread. It never looks at
// http_proxy and its like.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "http/io_loop.h"
#include "http/message.h"
#include "net/address.h"

namespace baton::http {

struct ClientOptions {
  Duration connect_timeout = std::chrono::seconds(5);  // each address of a host
  Duration head_timeout =
      std::chrono::minutes(10);  // from the request's first byte to the response's last field
  Duration idle_timeout = std::chrono::minutes(5);  // between two pieces of a body, of a request or response
  size_t head_bytes_max = 32 * 1024;
  size_t headers_max = 100;
  size_t body_bytes_max = 32 * 1024 * 1024;  // of whole responses; a stream is bounded by its reader
  size_t piece_bytes_max = 64 * 1024;        // what a stream reads ahead
  size_t idle_connections_max = 256;         // kept for each (host, port)
  // Kept connections older than this are not used again. Below the 5 s after which uvicorn closes them.
  Duration keep_idle = std::chrono::seconds(4);
  Duration resolve_keep = std::chrono::seconds(30);  // how long the addresses of a name are remembered
};

// Ends a request from outside: what was asked with it ends with kCancelled, also what is asked later, until
// reset(). A handle; copies are the same. One request at a time. Owner: the io thread.
class Interrupt {
 public:
  Interrupt();

  // Whoever awaits the request runs in a later turn, not within this call.
  void trigger();
  void reset();

  struct State;  // for the sources of this room

 private:
  friend class Client;
  std::shared_ptr<State> state_;
};

// What to ask. Host, Content-Length and Connection are added.
struct ClientRequest {
  net::Address to;
  std::string method = "GET";
  std::string target = "/";
  Headers headers;
  std::string body;
  Duration head_timeout = Duration::zero();  // zero: the client's
  Duration idle_timeout = Duration::zero();  // zero: the client's
  std::optional<Interrupt> interrupt = {};   // ends it, to the end of its body
  // Whether it may be sent once more if a kept connection closes before any byte of the response.
  bool resend = true;
};

struct ClientCounters {
  uint64_t requests = 0;
  uint64_t connections_opened = 0;
  uint64_t resent = 0;
  size_t connections_idle = 0;
  size_t connections_busy = 0;
};

// A response whose head is here and whose body is still coming. Destroyed before its end, it closes its
// connection at once: that is how a peer learns that nobody listens any more.
class ResponseStream {
 public:
  ResponseStream(ResponseStream&&) noexcept;
  ResponseStream& operator=(ResponseStream&&) noexcept;
  ~ResponseStream();

  int status() const;
  const Headers& headers() const;

  // The next bytes of the body as they arrived, chunk framing taken off; empty at its end. The view lives
  // until the next read. kUnavailable: the peer closed early; kTimeout: silence; kCorrupt: bad framing;
  // kCancelled. After an error or the end, only destruction.
  Awaitable<Result<std::string_view>> read();
  // Everything that is left, kExhausted above `bytes_max`.
  Awaitable<Result<std::string>> read_all(size_t bytes_max);

 private:
  friend class Client;
  struct State;
  explicit ResponseStream(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

class Client {
 public:
  Client(IoLoop& loop, ClientOptions options);
  ~Client();  // on the io thread or when the loop does not run; open streams end with kCancelled
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // The whole exchange. Any status is a success here. Errors name the address: kUnavailable (refused,
  // unreachable, closed early), kTimeout, kCorrupt, kExhausted (too long), kCancelled.
  Awaitable<Result<Response>> request(ClientRequest request);
  // Returns with the head; the body is read from the stream.
  Awaitable<Result<ResponseStream>> open(ClientRequest request);

  void close_idle();  // forgets every kept connection
  const ClientCounters& counters() const;

  struct State;  // for the sources of this room

 private:
  std::shared_ptr<State> state_;
};

}  // namespace baton::http
