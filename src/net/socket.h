// TCP sockets, made with the settings every socket of Baton has: close-on-exec, TCP_NODELAY on connections
// (one known router lacks it: 44 ms on every first event), SO_REUSEADDR on listeners.
#pragma once

#include "base/clock.h"
#include "base/result.h"
#include "net/address.h"
#include "net/fd.h"

namespace baton::net {

inline constexpr int kBacklog = 1024;  // connections the kernel holds until they are accepted

// A listening socket, bound before anything slow happens so that a taken port is known at once.
struct Listener {
  Fd fd;
  Endpoint local;  // with the port the kernel chose where 0 was asked for
};

// Binds and listens; non-blocking. Names resolve (blocking); the first endpoint that binds wins. "::" also
// takes IPv4. A taken port: kUnavailable "port 8000 on 0.0.0.0: in use by pid 4242 (python3), expected a free
// port", the holder where /proc shows it to this user.
Result<Listener> listen(const Address& address, int backlog = kBacklog);

// Connects and waits for it at most `timeout`; the socket is left blocking, with TCP_NODELAY. kTimeout,
// kUnavailable (refused, unreachable), each naming the address. For threads that may wait.
Result<Fd> connect(const Address& address, Duration timeout);
Result<Fd> connect(const Endpoint& endpoint, Duration timeout);

void set_no_delay(int fd);
Endpoint local_endpoint(int fd);
Endpoint peer_endpoint(int fd);

// "in use by pid 4242 (python3)" for a listening TCP port, read from /proc/net/tcp* and /proc/PID/fd; empty
// where nothing is seen.
std::string describe_port_holder(uint16_t port);

}  // namespace baton::net
