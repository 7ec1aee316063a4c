#include "net/socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>

#include <cerrno>
#include <cstring>

namespace baton::net {
namespace {

using std::chrono::milliseconds;

void set_option(int fd, int level, int option, int value) {
  setsockopt(fd, level, option, &value, sizeof(value));
}

Failure listen_failed(const Endpoint& endpoint, int error) {
  const Address at = to_address(endpoint);
  if (error == EADDRINUSE) {
    const std::string holder = describe_port_holder(at.port);
    return fail(Code::kUnavailable, fmt::format("port {} on {}: {}, expected a free port", at.port, at.host,
                                                holder.empty() ? "in use" : holder));
  }
  return fail(Code::kUnavailable, fmt::format("listen on {}: {}", to_string(at), std::strerror(error)));
}

Result<Listener> listen_at(const Endpoint& endpoint, int backlog) {
  Listener listener;
  listener.fd.reset(socket(endpoint.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.fd) return listen_failed(endpoint, errno);
  const int fd = listener.fd.get();
  set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  // Accepted sockets inherit it.
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  if (endpoint.family() == AF_INET6) {
    const bool any = is_wildcard(to_address(endpoint).host);
    set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, any ? 0 : 1);
  }
  if (bind(fd, endpoint.data(), endpoint.size) != 0) return listen_failed(endpoint, errno);
  // Two sockets may bind one port before either listens (SO_REUSEADDR): the second listen() fails.
  if (::listen(fd, backlog) != 0) return listen_failed(endpoint, errno);
  listener.local = local_endpoint(fd);
  return listener;
}

Failure connect_failed(const Endpoint& endpoint, int error) {
  const Code code = error == ETIMEDOUT ? Code::kTimeout : Code::kUnavailable;
  return fail(code, fmt::format("connect to {}: {}", to_string(endpoint), std::strerror(error)));
}

// Waits for a connection in progress; 0 or the error.
int await_connected(int fd, Duration timeout) {
  const SteadyClock clock;
  const Time deadline = clock.now() + timeout;
  while (true) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - clock.now());
    if (left.count() <= 0) return ETIMEDOUT;
    pollfd waiting{.fd = fd, .events = POLLOUT, .revents = 0};
    const int ready = poll(&waiting, 1, static_cast<int>(std::min<int64_t>(left.count(), 1 << 30)));
    if (ready > 0) break;
    if (ready < 0 && errno != EINTR) return errno;
  }
  int error = 0;
  socklen_t size = sizeof(error);
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error;
}

}  // namespace

Result<Listener> listen(const Address& address, int backlog) {
  TRY(const std::vector<Endpoint> endpoints, resolve(address));
  Result<Listener> listener = fail(Code::kUnavailable, "no endpoint");
  for (const Endpoint& endpoint : endpoints) {
    listener = listen_at(endpoint, backlog);
    if (listener) break;
  }
  return listener;
}

Result<Fd> connect(const Endpoint& endpoint, Duration timeout) {
  Fd fd(socket(endpoint.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return connect_failed(endpoint, errno);
  set_no_delay(fd.get());
  if (::connect(fd.get(), endpoint.data(), endpoint.size) != 0) {
    const int error = errno == EINPROGRESS ? await_connected(fd.get(), timeout) : errno;
    if (error != 0) return connect_failed(endpoint, error);
  }
  const int flags = fcntl(fd.get(), F_GETFL);
  fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK);
  return fd;
}

Result<Fd> connect(const Address& address, Duration timeout) {
  TRY(const std::vector<Endpoint> endpoints, resolve(address));
  Result<Fd> fd = fail(Code::kUnavailable, "no endpoint");
  for (const Endpoint& endpoint : endpoints) {
    fd = connect(endpoint, timeout);
    if (fd) break;
  }
  return fd;
}

void set_no_delay(int fd) { set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1); }

Endpoint local_endpoint(int fd) {
  Endpoint endpoint;
  endpoint.size = sizeof(endpoint.storage);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&endpoint.storage), &endpoint.size) != 0) return {};
  return endpoint;
}

Endpoint peer_endpoint(int fd) {
  Endpoint endpoint;
  endpoint.size = sizeof(endpoint.storage);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&endpoint.storage), &endpoint.size) != 0) return {};
  return endpoint;
}

}  // namespace baton::net
