#include "net/unix_socket.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace baton::net {
namespace {

constexpr int kUnixBacklog = 128;
constexpr size_t kFdsReadMax = 8;  // room for more than one, so that a surplus is seen and closed

struct UnixName {
  sockaddr_un address{};
  socklen_t size = 0;
  bool is_abstract = false;
};

Failure socket_failed(std::string_view what, std::string_view name, int error) {
  return fail(Code::kUnavailable, fmt::format("unix socket {}: {}: {}", name, what, std::strerror(error)));
}

Result<UnixName> parse_name(std::string_view name) {
  if (name.size() < 2 || name.size() > kUnixNameBytesMax || name.find('\0') != std::string_view::npos) {
    return fail(Code::kInvalid, fmt::format("unix socket \"{}\": expected 2 to {} bytes without NUL", name,
                                            kUnixNameBytesMax));
  }
  UnixName parsed;
  parsed.is_abstract = name.front() == '@';
  parsed.address.sun_family = AF_UNIX;
  std::ranges::copy(name, parsed.address.sun_path);
  if (parsed.is_abstract) parsed.address.sun_path[0] = '\0';
  const size_t bytes = name.size() + (parsed.is_abstract ? 0 : 1);
  parsed.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + bytes);
  return parsed;
}

const sockaddr* as_sockaddr(const UnixName& name) { return reinterpret_cast<const sockaddr*>(&name.address); }

Fd stream_socket(int flags) { return Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0)); }

// The control buffer of one message that carries descriptors.
template <size_t kCount>
struct Control {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kCount * sizeof(int))> bytes{};
};

}  // namespace

Result<Fd> listen_unix(std::string_view name) {
  TRY(const UnixName parsed, parse_name(name));
  Fd fd = stream_socket(SOCK_NONBLOCK);
  if (!fd) return socket_failed("socket", name, errno);
  int bound = bind(fd.get(), as_sockaddr(parsed), parsed.size);
  if (bound != 0 && errno == EADDRINUSE && !parsed.is_abstract) {
    // A file that nobody listens behind is the rest of a dead process.
    const Fd probe = stream_socket(0);
    const bool refused =
        ::connect(probe.get(), as_sockaddr(parsed), parsed.size) != 0 && errno == ECONNREFUSED;
    if (!refused) return socket_failed("bind", name, EADDRINUSE);
    unlink(parsed.address.sun_path);
    bound = bind(fd.get(), as_sockaddr(parsed), parsed.size);
  }
  if (bound != 0) return socket_failed("bind", name, errno);
  if (::listen(fd.get(), kUnixBacklog) != 0) return socket_failed("listen", name, errno);
  return fd;
}

Result<Fd> connect_unix(std::string_view name) {
  TRY(const UnixName parsed, parse_name(name));
  Fd fd = stream_socket(0);
  if (!fd) return socket_failed("socket", name, errno);
  if (::connect(fd.get(), as_sockaddr(parsed), parsed.size) != 0)
    return socket_failed("connect", name, errno);
  return fd;
}

Result<Fd> accept_unix(int listener) {
  Fd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (fd) return fd;
  const Code code = errno == EMFILE || errno == ENFILE ? Code::kExhausted : Code::kUnavailable;
  return fail(code, fmt::format("unix socket: accept: {}", std::strerror(errno)));
}

Result<PeerCredentials> peer_credentials(int fd) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return fail(Code::kIo, fmt::format("unix socket: SO_PEERCRED: {}", std::strerror(errno)));
  }
  return PeerCredentials{credentials.pid, credentials.uid};
}

Result<void> send_with_fd(int socket, std::span<const std::byte> bytes, int passed) {
  if (bytes.empty())
    return fail(Code::kInvalid, "unix socket: a descriptor needs at least one byte to ride on");
  Control<1> control;
  msghdr message{};
  message.msg_control = control.bytes.data();
  message.msg_controllen = control.bytes.size();
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &passed, sizeof(int));
  while (!bytes.empty()) {
    iovec vector{const_cast<std::byte*>(bytes.data()), bytes.size()};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    const ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return fail(Code::kUnavailable, fmt::format("unix socket: send: {}", std::strerror(errno)));
    bytes = bytes.subspan(static_cast<size_t>(sent));
    // The descriptor went with the first bytes.
    message.msg_control = nullptr;
    message.msg_controllen = 0;
  }
  return {};
}

Result<ReceivedSome> receive_some_with_fd(int socket, std::span<std::byte> bytes) {
  Control<kFdsReadMax> control;
  iovec vector{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes.data();
  message.msg_controllen = control.bytes.size();
  ssize_t got = 0;
  do {
    got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0 && errno == EAGAIN) return ReceivedSome{};
  if (got < 0) return fail(Code::kUnavailable, fmt::format("unix socket: receive: {}", std::strerror(errno)));
  ReceivedSome received{.bytes = static_cast<size_t>(got), .fd = {}};
  size_t count = 0;
  for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at)) {
    if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) continue;
    const size_t fds = (at->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < fds; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(at) + i * sizeof(int), sizeof(int));
      received.fd.reset(fd);
      ++count;
    }
  }
  if (got == 0) return fail(Code::kUnavailable, "unix socket: the peer closed");
  if (count > 1) return fail(Code::kCorrupt, fmt::format("unix socket: {} descriptors, expected 1", count));
  return received;
}

Result<Fd> receive_with_fd(int socket, std::span<std::byte> bytes) {
  Fd passed;
  while (!bytes.empty()) {
    TRY(ReceivedSome some, receive_some_with_fd(socket, bytes));
    if (some.bytes == 0) return fail(Code::kUnavailable, "unix socket: nothing to receive");
    if (some.fd && passed) return fail(Code::kCorrupt, "unix socket: 2 descriptors, expected 1");
    if (some.fd) passed = std::move(some.fd);
    bytes = bytes.subspan(some.bytes);
  }
  return passed;
}

}  // namespace baton::net
