#include "http/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <optional>

#include "base/check.h"

namespace baton::http {
namespace {

namespace beast = boost::beast;
using beast::error_code;
using beast::string_view;
using BeastError = beast::http::error;
using BeastField = beast::http::field;

constexpr size_t kBodyReserveMax = 1024 * 1024;  // reserved on the word of Content-Length alone
// A line of chunk framing or trailer that is longer is an attack: nothing useful is in either.
constexpr size_t kChunkLineBytesMax = 16 * 1024;

// A whole last chunk, "0 CR LF CR LF". Beast asserts that many bytes when it comes back to a last chunk whose
// trailer was not there yet; fewer hold nothing that could be used.
constexpr size_t kLastChunkBytes = 5;

std::string_view as_std(string_view text) { return {text.data(), text.size()}; }

// The printable start of foreign bytes, for a message.
std::string quoted(std::string_view text) {
  constexpr size_t kShownMax = 64;
  std::string shown;
  for (const char c : text.substr(0, kShownMax)) shown += c >= 0x20 && c < 0x7F ? c : '?';
  if (text.size() > kShownMax) shown += "...";
  return shown;
}

// The first failure that the room itself finds while Beast calls back.
class Verdict {
 public:
  void set(error_code& ec, int status, std::string message) {
    if (!error_) error_ = ParseError{status, std::move(message)};
    ec = BeastError::bad_value;
  }
  const std::optional<ParseError>& error() const { return error_; }

 private:
  std::optional<ParseError> error_;
};

ParseError translate(const error_code& ec, const ParserLimits& limits) {
  if (ec == BeastError::header_limit) {
    return {431, fmt::format("request head: more than {} bytes, expected fewer", limits.head_bytes_max)};
  }
  if (ec == BeastError::body_limit) {
    return {413, fmt::format("request body: more than {} bytes, expected fewer", limits.body_bytes_max)};
  }
  if (ec == BeastError::bad_version) return {400, "HTTP version: expected HTTP/1.0 or HTTP/1.1"};
  if (ec == BeastError::bad_method) return {400, "request line: expected \"METHOD target HTTP/1.1\""};
  if (ec == BeastError::bad_target) return {400, "request line: the target holds a character it may not"};
  return {400, fmt::format("malformed HTTP message: {}", ec.message())};
}

// Holds a head back from Beast until it is whole, so that its limit is of raw bytes (Beast's is of each
// section, and not of the same bytes when they come in pieces) and a head gets the same verdict however it
// was cut.
class HeadGate {
 public:
  // Whether `bytes`, from the head's first byte on, hold a whole head. Refuses one above the limit, and at
  // once what does not begin as HTTP does (a TLS hello on a plain port).
  std::expected<bool, ParseError> is_whole(std::string_view bytes, const ParserLimits& limits) {
    begun_ = begun_ || !bytes.empty();
    if (open_) return true;
    const auto is_letter = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); };
    if (!bytes.empty() && !is_letter(bytes.front())) {
      return std::unexpected(ParseError{400, "first byte: expected a letter, as an HTTP message begins"});
    }
    const size_t end = bytes.find("\r\n\r\n", scanned_);
    const size_t head_bytes = end == std::string_view::npos ? bytes.size() : end + 4;
    if (head_bytes > limits.head_bytes_max) {
      return std::unexpected(translate(BeastError::header_limit, limits));
    }
    for (size_t at = bytes.find('\n', std::max<size_t>(scanned_, 1)); at < head_bytes;
         at = bytes.find('\n', at + 1)) {
      if (bytes[at - 1] == '\r') continue;
      return std::unexpected(ParseError{400, "head: a line that ends in LF alone, expected CR LF"});
    }
    scanned_ = bytes.size() < 3 ? 0 : bytes.size() - 3;
    open_ = end != std::string_view::npos;
    return open_;
  }
  bool begun() const { return begun_; }

 private:
  size_t scanned_ = 0;  // no end of a head begins before
  bool begun_ = false;
  bool open_ = false;
};

// What request and response have in common: fields counted and collected, trailers passed over.
struct HeadReader {
  explicit HeadReader(const ParserLimits& limits) : limits(limits) {}

  void count(size_t bytes, error_code& ec) {
    head_bytes += bytes;
    if (head_bytes > limits.head_bytes_max) ec = BeastError::header_limit;
  }

  void take_field(Headers& headers, BeastField field, string_view name, string_view value, error_code& ec) {
    count(name.size() + value.size() + 4, ec);
    if (ec) return;
    if (++fields > limits.headers_max) {
      verdict.set(ec, 431,
                  fmt::format("request head: more than {} fields, expected fewer", limits.headers_max));
      return;
    }
    if (in_trailer) return;
    if (!is_field_value(as_std(value))) {
      verdict.set(ec, 400, fmt::format("field {}: holds a control character", quoted(as_std(name))));
      return;
    }
    if (field == BeastField::transfer_encoding) {
      // Anything but one plain "chunked" is either unknown or a way to smuggle a request (RFC 9112, 6.1).
      if (!equal_names(as_std(value), "chunked")) {
        verdict.set(ec, 501,
                    fmt::format("Transfer-Encoding: {}, expected \"chunked\"", quoted(as_std(value))));
        return;
      }
      has_transfer_encoding = true;
    }
    headers.add(as_std(name), as_std(value));
  }

  // Whether to wait for more than `available` bytes before Beast sees any.
  bool is_between_chunks(size_t available) const {
    return in_trailer && has_transfer_encoding && chunk_left == 0 && available < kLastChunkBytes;
  }

  ParserLimits limits;
  Verdict verdict;
  uint64_t chunk_left = 0;  // bytes of the current chunk that have not come
  size_t head_bytes = 0;
  size_t fields = 0;
  bool in_trailer = false;
  bool has_transfer_encoding = false;
};

}  // namespace

// ---- requests

namespace {

class BeastRequest final : public beast::http::basic_parser<true> {
 public:
  BeastRequest(const ParserLimits& limits, Request& request) : head_(limits), request_(request) {
    eager(true);
    // One above: Beast refuses a section that fills the limit exactly.
    header_limit(static_cast<std::uint32_t>(limits.head_bytes_max + 1));
    body_limit(limits.body_bytes_max);
  }

  const HeadReader& head() const { return head_; }
  bool expects_continue() const { return expects_continue_; }

 private:
  void on_request_impl(beast::http::verb, string_view method, string_view target, int version,
                       error_code& ec) override {
    head_.count(method.size() + target.size() + 12, ec);
    request_.method.assign(as_std(method));
    request_.target.assign(origin_form(as_std(target)));
    request_.is_http10 = version == 10;
    const bool is_asterisk = request_.target == "*" && request_.method == "OPTIONS";
    if (!request_.target.starts_with('/') && !is_asterisk) {
      head_.verdict.set(ec, 400,
                        fmt::format("request target \"{}\": expected a path", quoted(as_std(target))));
    }
  }

  // "http://host/path" is "/path" here (RFC 9112, 3.2.2).
  static std::string_view origin_form(std::string_view target) {
    for (const std::string_view scheme : {"http://", "https://"}) {
      if (target.size() < scheme.size() || !equal_names(target.substr(0, scheme.size()), scheme)) continue;
      const size_t slash = target.find_first_of("/?", scheme.size());
      if (slash == std::string_view::npos || target[slash] == '?') return "/";
      return target.substr(slash);
    }
    return target;
  }

  void on_response_impl(int, string_view, int, error_code&) override {}

  void on_field_impl(BeastField field, string_view name, string_view value, error_code& ec) override {
    if (field == BeastField::host && !head_.in_trailer && ++hosts_ > 1) {
      head_.verdict.set(ec, 400, "field Host: given twice, expected once");
      return;
    }
    if (field == BeastField::expect && !head_.in_trailer) {
      if (!equal_names(as_std(value), "100-continue")) {
        head_.verdict.set(ec, 417,
                          fmt::format("Expect: {}, expected \"100-continue\"", quoted(as_std(value))));
        return;
      }
      expects_continue_ = !request_.is_http10;
    }
    head_.take_field(request_.headers, field, name, value, ec);
  }

  void on_header_impl(error_code& ec) override {
    if (hosts_ == 0 && !request_.is_http10) {
      head_.verdict.set(ec, 400, "field Host: missing, expected one in HTTP/1.1");
      return;
    }
    if (request_.is_http10 && head_.has_transfer_encoding) {
      head_.verdict.set(ec, 400, "Transfer-Encoding: not in HTTP/1.0, expected Content-Length");
      return;
    }
    head_.in_trailer = true;
    request_.keep_alive = keep_alive();
  }

  void on_body_init_impl(const boost::optional<std::uint64_t>& length, error_code&) override {
    if (length) request_.body.reserve(std::min<size_t>(*length, kBodyReserveMax));
  }

  std::size_t on_body_impl(string_view bytes, error_code&) override {
    request_.body += as_std(bytes);
    return bytes.size();
  }

  void on_chunk_header_impl(std::uint64_t size, string_view, error_code&) override {
    head_.chunk_left = size;
  }

  std::size_t on_chunk_body_impl(std::uint64_t left, string_view bytes, error_code&) override {
    head_.chunk_left = left - bytes.size();
    request_.body += as_std(bytes);
    return bytes.size();
  }

  void on_finish_impl(error_code&) override {}

  HeadReader head_;
  Request& request_;
  int hosts_ = 0;
  bool expects_continue_ = false;
};

}  // namespace

struct RequestParser::Impl {
  explicit Impl(const ParserLimits& limits) : limits(limits) { beast.emplace(limits, request); }

  ParserLimits limits;
  Request request;
  HeadGate gate;
  std::optional<BeastRequest> beast;
  bool body_begun = false;
};

RequestParser::RequestParser(ParserLimits limits) : impl_(std::make_unique<Impl>(limits)) {}
RequestParser::~RequestParser() = default;
RequestParser::RequestParser(RequestParser&&) noexcept = default;

std::expected<size_t, ParseError> RequestParser::feed(std::string_view bytes) {
  BeastRequest& beast = *impl_->beast;
  if (beast.is_done() || bytes.empty()) return 0;
  size_t consumed = 0;
  // Empty lines before a request line are passed over (RFC 9112, 2.2).
  if (!impl_->gate.begun()) {
    while (bytes.substr(consumed).starts_with("\r\n")) consumed += 2;
    if (consumed == bytes.size() || bytes.substr(consumed) == "\r") return consumed;
  }
  if (beast.is_header_done()) impl_->body_begun = true;
  const std::string_view rest = bytes.substr(consumed);
  if (beast.head().is_between_chunks(rest.size())) return consumed;
  const auto head_is_whole = impl_->gate.is_whole(rest, impl_->limits);
  if (!head_is_whole) return std::unexpected(head_is_whole.error());
  if (!*head_is_whole) return consumed;
  error_code ec;
  consumed += beast.put({rest.data(), rest.size()}, ec);
  if (!ec) return consumed;
  if (ec != BeastError::need_more) {
    return std::unexpected(beast.head().verdict.error().value_or(translate(ec, impl_->limits)));
  }
  if (bytes.size() - consumed > kChunkLineBytesMax) {
    return std::unexpected(ParseError{400, "chunked body: a line of framing that never ends"});
  }
  return consumed;
}

bool RequestParser::head_done() const { return impl_->beast->is_header_done(); }
bool RequestParser::done() const { return impl_->beast->is_done(); }

bool RequestParser::expects_continue() const {
  return head_done() && !done() && impl_->beast->expects_continue() && !impl_->body_begun;
}

Request& RequestParser::request() { return impl_->request; }

void RequestParser::reset() {
  Request& request = impl_->request;
  request.method.clear();
  request.target.clear();
  request.headers.clear();
  request.body = std::string();
  request.keep_alive = true;
  request.is_http10 = false;
  impl_->body_begun = false;
  impl_->gate = {};
  impl_->beast.emplace(impl_->limits, request);
}

// ---- responses

namespace {

class BeastResponse final : public beast::http::basic_parser<false> {
 public:
  BeastResponse(const ParserLimits& limits, Headers& headers, bool answers_head)
      : head_(limits), headers_(headers) {
    eager(true);
    header_limit(static_cast<std::uint32_t>(limits.head_bytes_max + 1));
    // Bodies are bounded by whoever reads them.
    body_limit(boost::none);
    skip(answers_head);
  }

  void append_body_to(std::string* body) { body_ = body; }
  const HeadReader& head() const { return head_; }
  int status() const { return status_; }

 private:
  void on_request_impl(beast::http::verb, string_view, string_view, int, error_code&) override {}

  void on_response_impl(int code, string_view reason, int, error_code& ec) override {
    head_.count(reason.size() + 15, ec);
    status_ = code;
  }

  void on_field_impl(BeastField field, string_view name, string_view value, error_code& ec) override {
    head_.take_field(headers_, field, name, value, ec);
  }

  void on_header_impl(error_code&) override { head_.in_trailer = true; }
  void on_body_init_impl(const boost::optional<std::uint64_t>&, error_code&) override {}

  std::size_t on_body_impl(string_view bytes, error_code&) override {
    *body_ += as_std(bytes);
    return bytes.size();
  }

  void on_chunk_header_impl(std::uint64_t size, string_view, error_code&) override {
    head_.chunk_left = size;
  }

  std::size_t on_chunk_body_impl(std::uint64_t left, string_view bytes, error_code&) override {
    head_.chunk_left = left - bytes.size();
    *body_ += as_std(bytes);
    return bytes.size();
  }

  void on_finish_impl(error_code&) override {}

  HeadReader head_;
  Headers& headers_;
  std::string* body_ = nullptr;
  int status_ = 0;
};

constexpr int kInterimMax = 16;  // 1xx responses before the final one

}  // namespace

struct ResponseParser::Impl {
  explicit Impl(const ParserLimits& limits) : limits(limits) { beast.emplace(limits, headers, false); }

  bool is_interim() const { return beast->is_done() && beast->status() >= 100 && beast->status() < 200; }

  ParserLimits limits;
  Headers headers;
  HeadGate gate;
  std::optional<BeastResponse> beast;
  int interim = 0;
  bool answers_head = false;
};

ResponseParser::ResponseParser(ParserLimits limits) : impl_(std::make_unique<Impl>(limits)) {}
ResponseParser::~ResponseParser() = default;
ResponseParser::ResponseParser(ResponseParser&&) noexcept = default;

std::expected<size_t, ParseError> ResponseParser::feed(std::string_view bytes, std::string& body) {
  size_t consumed = 0;
  while (!done() && consumed < bytes.size()) {
    BeastResponse& beast = *impl_->beast;
    beast.append_body_to(&body);
    const std::string_view rest = bytes.substr(consumed);
    if (beast.head().is_between_chunks(rest.size())) break;
    const auto head_is_whole = impl_->gate.is_whole(rest, impl_->limits);
    if (!head_is_whole) return std::unexpected(head_is_whole.error());
    if (!*head_is_whole) break;
    error_code ec;
    consumed += beast.put({rest.data(), rest.size()}, ec);
    if (ec && ec != BeastError::need_more) {
      ParseError error = beast.head().verdict.error().value_or(translate(ec, impl_->limits));
      return std::unexpected(std::move(error));
    }
    const size_t unused = bytes.size() - consumed;
    if (!beast.is_done() && unused > kChunkLineBytesMax) {
      return std::unexpected(ParseError{400, "chunked body: a line of framing that never ends"});
    }
    if (!impl_->is_interim()) {
      if (ec) break;
      continue;
    }
    if (beast.status() == 101 || ++impl_->interim > kInterimMax) {
      return std::unexpected(ParseError{400, "interim responses: expected a final one"});
    }
    impl_->headers.clear();
    impl_->gate = {};
    impl_->beast.emplace(impl_->limits, impl_->headers, impl_->answers_head);
  }
  return consumed;
}

std::expected<void, ParseError> ResponseParser::finish() {
  BeastResponse& beast = *impl_->beast;
  if (beast.is_done()) return {};
  if (!impl_->gate.begun()) return std::unexpected(ParseError{400, "closed before the response"});
  if (!beast.got_some()) return std::unexpected(ParseError{400, "closed in the middle of the response"});
  error_code ec;
  beast.put_eof(ec);
  if (ec) return std::unexpected(ParseError{400, "closed in the middle of the response"});
  return {};
}

bool ResponseParser::started() const { return impl_->gate.begun() || impl_->interim > 0; }
bool ResponseParser::head_done() const { return impl_->beast->is_header_done() && !impl_->is_interim(); }
bool ResponseParser::done() const { return impl_->beast->is_done() && !impl_->is_interim(); }
int ResponseParser::status() const { return impl_->beast->status(); }
bool ResponseParser::keep_alive() const { return impl_->beast->keep_alive(); }
Headers& ResponseParser::headers() { return impl_->headers; }

void ResponseParser::reset(bool answers_head) {
  impl_->headers.clear();
  impl_->interim = 0;
  impl_->answers_head = answers_head;
  impl_->gate = {};
  impl_->beast.emplace(impl_->limits, impl_->headers, answers_head);
}

}  // namespace baton::http
