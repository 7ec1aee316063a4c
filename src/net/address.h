// Where a peer is. An Address is what a person writes (a host, which may be a name, and a port); an Endpoint
// is what the kernel takes (an IP address and a port). Plain values; safe from any thread.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::net {

inline constexpr size_t kHostBytesMax = 253;  // RFC 1035, 2.3.4, without the root's dot

struct Address {
  std::string host;  // a name, an IPv4 or an IPv6 literal (without brackets, a zone allowed: "fe80::1%eth0")
  uint16_t port = 0;

  bool operator==(const Address&) const = default;
  auto operator<=>(const Address&) const = default;
};

// "host:port", "1.2.3.4:80", "[::1]:8000". With `default_port` the port may be left out, and a bare IPv6
// literal ("::1") is taken whole. Refuses schemes, paths, spaces, ports outside [0, 65535] and names with
// characters that no host has (two hosts run together by a shell typo, say). kInvalid names the text.
Result<Address> parse_address(std::string_view text, std::optional<uint16_t> default_port = std::nullopt);

// Checks a host alone: what an Address holds. Brackets around an IPv6 literal are taken off.
Result<std::string> parse_host(std::string_view text);

// The text that parse_address reads: an IPv6 host gets its brackets.
std::string to_string(const Address& address);

// A sockaddr_in or sockaddr_in6 with its size.
struct Endpoint {
  sockaddr_storage storage{};
  socklen_t size = 0;

  const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
  uint16_t port() const;
  void set_port(uint16_t port);
};

// Nothing unless `host` is an IPv4 or IPv6 literal. Never asks a resolver.
std::optional<Endpoint> literal_endpoint(std::string_view host, uint16_t port);

// All endpoints of a host, in the resolver's order. Blocks (getaddrinfo): for start-up and threads that may
// wait. kUnavailable names the host and what the resolver said.
Result<std::vector<Endpoint>> resolve(const Address& address);

// "127.0.0.1" and port, as an Address with a literal host.
Address to_address(const Endpoint& endpoint);
std::string to_string(const Endpoint& endpoint);

// 127.0.0.0/8, ::1 and the IPv4-mapped form of the first.
bool is_loopback(const Endpoint& endpoint);

// 0.0.0.0 and ::, which nobody can be reached at.
bool is_wildcard(std::string_view host);

}  // namespace baton::net
