// Unix sockets: the fast way between processes of one host, and the only one that can hand over a file
// descriptor. A name that begins with '@' is abstract (no file; gone with its last socket).
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "net/fd.h"

namespace baton::net {

inline constexpr size_t kUnixNameBytesMax = 107;  // sun_path less its terminator

// Stream sockets, close-on-exec. A path left by a dead process is replaced; one that somebody listens on
// is kUnavailable. The listener is non-blocking; the connection is blocking.
Result<Fd> listen_unix(std::string_view name);
Result<Fd> connect_unix(std::string_view name);
Result<Fd> accept_unix(int listener);  // kUnavailable: nobody waits; kExhausted: no free descriptor

struct PeerCredentials {
  int pid = 0;
  unsigned uid = 0;
};
Result<PeerCredentials> peer_credentials(int fd);  // SO_PEERCRED

// Sends `bytes` (at least one) with the descriptor `passed` attached (SCM_RIGHTS); both arrive or neither.
// The caller keeps its own descriptor.
Result<void> send_with_fd(int socket, std::span<const std::byte> bytes, int passed);

// Fills `bytes` wholly and returns the descriptor that came with its first byte, or an empty Fd if none did.
// kCorrupt when several came; kUnavailable when the peer closed. Blocking sockets.
Result<Fd> receive_with_fd(int socket, std::span<std::byte> bytes);

// What is there to be read, at most bytes.size(), and the descriptor that came with it, if one did. No bytes
// when nothing waits on a non-blocking socket. Errors as above.
struct ReceivedSome {
  size_t bytes = 0;
  Fd fd;
};
Result<ReceivedSome> receive_some_with_fd(int socket, std::span<std::byte> bytes);

}  // namespace baton::net
