// HTTP/1.1 framing without sockets: bytes cut anywhere go in, one message comes out. Wraps Beast's parser.
#pragma once

#include <cstddef>
#include <expected>
#include <memory>
#include <string>
#include <string_view>

#include "http/message.h"

namespace baton::http {

// Why bytes are not a message, with the status a server answers (400, 413, 417, 431, 501, 505).
struct ParseError {
  int status = 400;
  std::string message;
};

struct ParserLimits {
  size_t head_bytes_max = 32 * 1024;
  size_t headers_max = 100;
  size_t body_bytes_max = 32 * 1024 * 1024;
};

// Reads one request after the other.
class RequestParser {
 public:
  explicit RequestParser(ParserLimits limits);
  ~RequestParser();
  RequestParser(RequestParser&&) noexcept;

  // Consumes a prefix of `bytes` and returns its size. What is left must be given again, with more behind it.
  // Stops at the end of a request.
  std::expected<size_t, ParseError> feed(std::string_view bytes);

  bool head_done() const;
  bool done() const;
  bool expects_continue() const;  // the head asked for "100 Continue" and no byte of the body has come
  Request& request();             // the head once head_done(), the body once done()
  void reset();                   // for the next request

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Reads one response after the other; its body leaves piece by piece.
class ResponseParser {
 public:
  explicit ResponseParser(ParserLimits limits);
  ~ResponseParser();
  ResponseParser(ResponseParser&&) noexcept;

  // As RequestParser::feed, but interim (1xx) responses are passed over and the bytes of the body are
  // appended to `body`. `is_head`: the answer to a HEAD request, which has no body.
  std::expected<size_t, ParseError> feed(std::string_view bytes, std::string& body);
  // The peer closed: the end of a body without length, an error for every other unfinished message.
  std::expected<void, ParseError> finish();

  bool started() const;  // a byte of the final response was consumed
  bool head_done() const;
  bool done() const;
  int status() const;
  bool keep_alive() const;  // whether the connection may carry another message
  Headers& headers();
  void reset(bool answers_head);  // for the next response; whether it answers a HEAD request

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::http
