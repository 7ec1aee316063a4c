#include "http/client.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>

#include "http/client_state.h"

namespace baton::http {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(50);  // how late a limit may be noticed
constexpr size_t kResolvedMax = 1024;                      // names remembered

bool has_body(const ClientRequest& request) {
  return !request.body.empty() || request.method == "POST" || request.method == "PUT" ||
         request.method == "PATCH";
}

bool is_token(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7F && c != ':'; });
}

Result<void> check(const ClientRequest& request) {
  if (!is_token(request.method)) {
    return fail(Code::kInvalid, fmt::format("method \"{}\": expected a word", request.method));
  }
  const bool plain = std::ranges::all_of(request.target, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte > 0x20 && byte != 0x7F;
  });
  if (!plain || !(request.target.starts_with('/') || request.target == "*")) {
    return fail(Code::kInvalid, fmt::format("target \"{}\": expected a path without spaces", request.target));
  }
  return {};
}

std::string head_of(const ClientRequest& request) {
  std::string bytes;
  size_t size = 128 + request.method.size() + request.target.size() + request.to.host.size();
  for (const Header header : request.headers) size += header.name.size() + header.value.size() + 4;
  bytes.reserve(size);
  const auto field = [&](std::string_view name, std::string_view value) {
    bytes += name;
    bytes += ": ";
    bytes += value;
    bytes += "\r\n";
  };
  bytes += request.method;
  bytes += ' ';
  bytes += request.target;
  bytes += " HTTP/1.1\r\n";
  if (!request.headers.has("Host")) field("Host", net::to_string(request.to));
  for (const Header header : request.headers) field(header.name, header.value);
  if (has_body(request)) field("Content-Length", std::to_string(request.body.size()));
  bytes += "\r\n";
  return bytes;
}

Failure cancelled(const net::Address& to) {
  return fail(Code::kCancelled, fmt::format("{}: the request was cancelled", net::to_string(to)));
}

}  // namespace

// ---- interrupts

Interrupt::Interrupt() : state_(std::make_shared<State>()) {}

void Interrupt::trigger() {
  state_->is_triggered = true;
  if (const auto connection = state_->busy.lock()) connection->interrupt();
}

void Interrupt::reset() { state_->is_triggered = false; }

// ---- the pool

std::shared_ptr<Connection> Client::State::take(const net::Address& to) {
  const auto found = resting.find(to);
  if (found == resting.end()) return nullptr;
  auto& kept = found->second;
  const Time oldest = loop.now() - options.keep_idle;
  while (!kept.empty()) {
    std::shared_ptr<Connection> connection = std::move(kept.back());
    kept.pop_back();
    --counters.connections_idle;
    if (connection->is_open() && connection->resting_since() >= oldest) return connection;
    connection->close();
  }
  return nullptr;
}

void Client::State::set_busy(const std::shared_ptr<Connection>& connection) {
  busy.insert(connection);
  counters.connections_busy = busy.size();
  if (!ticker) ticker = loop.every(kTick, [this] { tick(); });
}

void Client::State::give_back(const std::shared_ptr<Connection>& connection) {
  busy.erase(connection);
  counters.connections_busy = busy.size();
  auto& kept = resting[connection->to()];
  if (closed || !connection->reusable() || kept.size() >= options.idle_connections_max) {
    return connection->close();
  }
  kept.push_back(connection);
  ++counters.connections_idle;
  connection->rest();
}

void Client::State::forget_resting(Connection* connection) {
  const auto found = resting.find(connection->to());
  if (found == resting.end()) return;
  counters.connections_idle -= std::erase_if(
      found->second, [&](const std::shared_ptr<Connection>& kept) { return kept.get() == connection; });
}

void Client::State::tick() {
  const Time now = loop.now();
  const std::vector<std::shared_ptr<Connection>> all(busy.begin(), busy.end());
  for (const auto& connection : all) connection->on_tick(now);
  const Time oldest = now - options.keep_idle;
  for (auto at = resting.begin(); at != resting.end();) {
    counters.connections_idle -= std::erase_if(at->second, [&](const std::shared_ptr<Connection>& kept) {
      const bool old = kept->resting_since() < oldest;
      if (old) kept->close();
      return old;
    });
    at = at->second.empty() ? resting.erase(at) : std::next(at);
  }
  if (busy.empty() && resting.empty()) ticker.reset();
}

void Client::State::close_all() {
  closed = true;
  const std::vector<std::shared_ptr<Connection>> all(busy.begin(), busy.end());
  for (const auto& connection : all) connection->cancel();
  for (const auto& [to, kept] : resting) {
    for (const auto& connection : kept) connection->close();
  }
  resting.clear();
  counters.connections_idle = 0;
  ticker.reset();
}

Awaitable<Result<std::vector<net::Endpoint>>> Client::State::resolve(const net::Address& to) {
  if (const auto literal = net::literal_endpoint(to.host, to.port)) co_return std::vector{*literal};
  const auto found = resolved.find(to.host);
  std::vector<net::Endpoint> endpoints;
  if (found != resolved.end() && found->second.until > loop.now()) {
    endpoints = found->second.endpoints;
  } else {
    asio::ip::basic_resolver<asio::ip::tcp, Executor> resolver(loop.context().get_executor());
    const auto [error, results] =
        co_await resolver.async_resolve(to.host, "", asio::as_tuple(asio::use_awaitable));
    if (error == asio::error::operation_aborted) co_return cancelled(to);
    if (error) {
      co_return fail(Code::kUnavailable, fmt::format("host \"{}\": {}", to.host, error.message()));
    }
    for (const auto& result : results) {
      const asio::ip::tcp::endpoint endpoint = result.endpoint();
      net::Endpoint converted;
      std::memcpy(&converted.storage, endpoint.data(), endpoint.size());
      converted.size = static_cast<socklen_t>(endpoint.size());
      endpoints.push_back(converted);
    }
    if (resolved.size() >= kResolvedMax) resolved.clear();
    resolved[to.host] = {endpoints, loop.now() + options.resolve_keep};
  }
  for (net::Endpoint& endpoint : endpoints) endpoint.set_port(to.port);
  co_return endpoints;
}

Awaitable<Result<std::shared_ptr<Connection>>> Client::State::connect(const net::Address& to,
                                                                      Interrupt::State* interrupt) {
  const auto self = shared_from_this();
  CO_TRY(const std::vector<net::Endpoint> endpoints, co_await resolve(to));
  Error last{Code::kUnavailable, fmt::format("host \"{}\": no address", to.host)};
  for (const net::Endpoint& endpoint : endpoints) {
    if (closed || (interrupt != nullptr && interrupt->is_triggered)) co_return cancelled(to);
    auto connection = std::make_shared<Connection>(self, to);
    set_busy(connection);
    if (interrupt != nullptr) interrupt->busy = connection;
    const Result<void> connected = co_await connection->connect(endpoint);
    if (connected) {
      ++counters.connections_opened;
      co_return connection;
    }
    if (interrupt != nullptr) interrupt->busy.reset();
    give_back(connection);
    last = connected.error();
    if (last.code == Code::kCancelled) break;
  }
  co_return Failure(last);
}

// ---- streams

// Holds a busy connection; gives it back, closed unless the body was read to its end.
struct ResponseStream::State {
  State(std::shared_ptr<Client::State> client, std::shared_ptr<Connection> connection,
        std::shared_ptr<Interrupt::State> interrupt)
      : client(std::move(client)), connection(std::move(connection)), interrupt(std::move(interrupt)) {
    if (this->interrupt) this->interrupt->busy = this->connection;
  }
  ~State() { finish(); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void finish() {
    if (!connection) return;
    if (interrupt) interrupt->busy.reset();
    client->give_back(connection);
    connection.reset();
  }

  std::shared_ptr<Client::State> client;
  std::shared_ptr<Connection> connection;       // none once the body has ended
  std::shared_ptr<Interrupt::State> interrupt;  // empty where there is none
  int status = 0;
  Headers headers;
  std::string piece;
};

ResponseStream::ResponseStream(std::unique_ptr<State> state) : state_(std::move(state)) {}
ResponseStream::ResponseStream(ResponseStream&&) noexcept = default;
ResponseStream& ResponseStream::operator=(ResponseStream&&) noexcept = default;
ResponseStream::~ResponseStream() = default;

int ResponseStream::status() const { return state_->status; }
const Headers& ResponseStream::headers() const { return state_->headers; }

Awaitable<Result<std::string_view>> ResponseStream::read() {
  State& state = *state_;
  if (!state.connection) co_return std::string_view();
  const std::shared_ptr<Connection> connection = state.connection;
  const asio::cancellation_state cancellation = co_await asio::this_coro::cancellation_state;
  if (cancellation.cancelled() != asio::cancellation_type::none) {
    connection->close();
    co_return cancelled(connection->to());
  }
  while (true) {
    const auto taken = connection->take_piece(state.piece);
    if (taken) {
      CO_TRY_DO(*taken);
      if (state.piece.empty()) state.finish();
      co_return state.piece;
    }
    const Outcome outcome = co_await connection->wait();
    if (outcome == Outcome::kCancelled) connection->stop_reading();
  }
}

Awaitable<Result<std::string>> ResponseStream::read_all(size_t bytes_max) {
  std::string body;
  while (true) {
    CO_TRY(const std::string_view piece, co_await read());
    if (piece.empty()) co_return body;
    if (body.size() + piece.size() > bytes_max) {
      co_return fail(Code::kExhausted,
                     fmt::format("response: more than {} bytes, expected fewer", bytes_max));
    }
    body += piece;
  }
}

// ---- requests

Client::Client(IoLoop& loop, ClientOptions options)
    : state_(std::make_shared<State>(loop, std::move(options))) {}

Client::~Client() {
  state_->close_all();
  if (!state_->loop.state().running) {
    state_->loop.context().restart();
    state_->loop.context().poll();
  }
}

void Client::close_idle() {
  for (const auto& [to, kept] : state_->resting) {
    for (const auto& connection : kept) connection->close();
  }
  state_->resting.clear();
  state_->counters.connections_idle = 0;
}

const ClientCounters& Client::counters() const { return state_->counters; }

Awaitable<Result<ResponseStream>> Client::open(ClientRequest request) {
  const std::shared_ptr<State> state = state_;
  const ClientOptions& options = state->options;
  CO_TRY_DO(check(request));
  const bool stop = co_await is_cancelled();
  const auto interrupt = request.interrupt ? request.interrupt->state_ : std::shared_ptr<Interrupt::State>();
  if (stop || state->closed || (interrupt && interrupt->is_triggered)) co_return cancelled(request.to);
  ++state->counters.requests;
  const Duration head_timeout =
      request.head_timeout > Duration::zero() ? request.head_timeout : options.head_timeout;
  const Duration idle_timeout =
      request.idle_timeout > Duration::zero() ? request.idle_timeout : options.idle_timeout;
  const bool answers_head = request.method == "HEAD";
  bool may_reuse = true;
  while (true) {
    std::shared_ptr<Connection> connection;
    if (may_reuse) connection = state->take(request.to);
    if (connection) {
      state->set_busy(connection);
    } else {
      CO_TRY(connection, co_await state->connect(request.to, interrupt.get()));
    }
    // Owns the connection from here on, however this returns.
    auto stream = std::make_unique<ResponseStream::State>(state, connection, interrupt);
    std::string request_head = head_of(request);
    connection->send(std::move(request_head), std::move(request.body), answers_head, head_timeout,
                     idle_timeout);
    const Result<void> head = co_await connection->wait_for_head();
    if (head) {
      stream->status = connection->parser().status();
      stream->headers = std::move(connection->parser().headers());
      co_return ResponseStream(std::move(stream));
    }
    if (!connection->went_stale() || !request.resend) co_return Failure(head.error());
    // The peer closed the kept connection as it was taken: nobody has seen the request.
    request.body = connection->take_request_body();
    ++state->counters.resent;
    may_reuse = false;
  }
}

Awaitable<Result<Response>> Client::request(ClientRequest request) {
  CO_TRY(ResponseStream stream, co_await open(std::move(request)));
  Response response;
  response.status = stream.status();
  CO_TRY(response.body, co_await stream.read_all(state_->options.body_bytes_max));
  response.headers = stream.headers();
  for (const std::string_view framing : {"Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive"}) {
    response.headers.remove(framing);
  }
  co_return response;
}

}  // namespace baton::http
