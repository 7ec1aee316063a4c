#include "net/address.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>

#include <fmt/format.h>

namespace baton::net {
namespace {

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
         c == '.';
}

// Names of hosts as people use them: RFC 1123 labels and the underscores of container networks.
bool is_name(std::string_view host) {
  if (host.empty() || host.size() > kHostBytesMax) return false;
  if (!std::ranges::all_of(host, is_name_character)) return false;
  if (host.front() == '.' || host.front() == '-') return false;
  if (host.find("..") != std::string_view::npos) return false;
  // Digits and dots alone are a mistyped IPv4 address ("10.0.0.1.10.0.0.2"), never a name.
  return !std::ranges::all_of(host, [](char c) { return c == '.' || (c >= '0' && c <= '9'); });
}

Failure bad_host(std::string_view text) {
  return fail(Code::kInvalid, fmt::format("host \"{}\": expected a name, an IPv4 or an IPv6 address", text));
}

Failure bad_address(std::string_view text, std::string_view expectation) {
  return fail(Code::kInvalid, fmt::format("address \"{}\": expected {}", text, expectation));
}

Result<uint16_t> parse_port(std::string_view address, std::string_view text) {
  unsigned port = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, port);
  if (text.empty() || error != std::errc() || stop != end || port > 65535) {
    return bad_address(address, fmt::format("a port in [0, 65535] after the host, got \"{}\"", text));
  }
  return static_cast<uint16_t>(port);
}

}  // namespace

Result<std::string> parse_host(std::string_view text) {
  if (text.size() >= 2 && text.front() == '[' && text.back() == ']') {
    const std::string_view inside = text.substr(1, text.size() - 2);
    if (inside.find(':') == std::string_view::npos || !literal_endpoint(inside, 0)) return bad_host(text);
    return std::string(inside);
  }
  if (literal_endpoint(text, 0) || is_name(text)) return std::string(text);
  return bad_host(text);
}

Result<Address> parse_address(std::string_view text, std::optional<uint16_t> default_port) {
  std::string_view host = text;
  std::optional<std::string_view> port_text;
  if (!text.empty() && text.front() == '[') {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) return bad_address(text, "a ']' after the IPv6 address");
    host = text.substr(0, close + 1);
    const std::string_view after = text.substr(close + 1);
    if (!after.empty() && after.front() != ':') return bad_address(text, "\":port\" after the ']'");
    if (!after.empty()) port_text = after.substr(1);
  } else {
    const size_t colon = text.rfind(':');
    const bool several = colon != std::string_view::npos && text.find(':') != colon;
    if (several && !default_port) return bad_address(text, "host:port, or [v6]:port for an IPv6 address");
    if (colon != std::string_view::npos && !several) {
      host = text.substr(0, colon);
      port_text = text.substr(colon + 1);
    }
  }
  Address address;
  TRY(address.host, parse_host(host));
  if (port_text) {
    TRY(address.port, parse_port(text, *port_text));
  } else if (default_port) {
    address.port = *default_port;
  } else {
    return bad_address(text, "host:port");
  }
  return address;
}

std::string to_string(const Address& address) {
  const bool is_v6 = address.host.find(':') != std::string::npos;
  return fmt::format(fmt::runtime(is_v6 ? "[{}]:{}" : "{}:{}"), address.host, address.port);
}

uint16_t Endpoint::port() const {
  if (family() == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
  if (family() == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port);
  return 0;
}

void Endpoint::set_port(uint16_t port) {
  if (family() == AF_INET) reinterpret_cast<sockaddr_in*>(&storage)->sin_port = htons(port);
  if (family() == AF_INET6) reinterpret_cast<sockaddr_in6*>(&storage)->sin6_port = htons(port);
}

std::optional<Endpoint> literal_endpoint(std::string_view host, uint16_t port) {
  char text[INET6_ADDRSTRLEN + 1 + IF_NAMESIZE] = {};
  if (host.empty() || host.size() >= sizeof(text) || host.find('\0') != std::string_view::npos) {
    return std::nullopt;
  }
  std::ranges::copy(host, text);
  Endpoint endpoint;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&endpoint.storage);
  if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    endpoint.size = sizeof(sockaddr_in);
    endpoint.set_port(port);
    return endpoint;
  }
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&endpoint.storage);
  char* const zone = std::strchr(text, '%');
  if (zone != nullptr) {
    *zone = '\0';
    // The kernel takes "eth0:anything" for eth0; an address does not.
    if (!std::ranges::all_of(std::string_view(zone + 1), is_name_character)) return std::nullopt;
    v6->sin6_scope_id = if_nametoindex(zone + 1);
    if (v6->sin6_scope_id == 0) return std::nullopt;
  }
  if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1) return std::nullopt;
  v6->sin6_family = AF_INET6;
  endpoint.size = sizeof(sockaddr_in6);
  endpoint.set_port(port);
  return endpoint;
}

Result<std::vector<Endpoint>> resolve(const Address& address) {
  if (const auto literal = literal_endpoint(address.host, address.port)) return std::vector{*literal};
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(address.host.c_str(), nullptr, &hints, &list);
  if (error != 0) {
    return fail(Code::kUnavailable, fmt::format("host \"{}\": {}, expected a name that resolves",
                                                address.host, gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, freeaddrinfo);
  std::vector<Endpoint> endpoints;
  for (const addrinfo* at = list; at != nullptr; at = at->ai_next) {
    if (at->ai_family != AF_INET && at->ai_family != AF_INET6) continue;
    Endpoint endpoint;
    std::memcpy(&endpoint.storage, at->ai_addr, at->ai_addrlen);
    endpoint.size = at->ai_addrlen;
    endpoint.set_port(address.port);
    endpoints.push_back(endpoint);
  }
  if (endpoints.empty())
    return fail(Code::kUnavailable, fmt::format("host \"{}\": no IP address", address.host));
  return endpoints;
}

Address to_address(const Endpoint& endpoint) {
  char text[INET6_ADDRSTRLEN] = "";
  if (endpoint.family() == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(&endpoint.storage)->sin_addr, text,
              sizeof(text));
  }
  if (endpoint.family() != AF_INET6) return {text, endpoint.port()};

  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&endpoint.storage);
  inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
  Address address{text, endpoint.port()};
  char zone[IF_NAMESIZE] = "";
  if (v6->sin6_scope_id != 0 && if_indextoname(v6->sin6_scope_id, zone) != nullptr) {
    address.host += fmt::format("%{}", zone);
  }
  return address;
}

std::string to_string(const Endpoint& endpoint) { return to_string(to_address(endpoint)); }

bool is_loopback(const Endpoint& endpoint) {
  if (endpoint.family() == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&endpoint.storage);
    return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
  }
  if (endpoint.family() != AF_INET6) return false;
  const in6_addr& v6 = reinterpret_cast<const sockaddr_in6*>(&endpoint.storage)->sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

bool is_wildcard(std::string_view host) {
  const auto endpoint = literal_endpoint(host, 0);
  if (!endpoint) return false;
  if (endpoint->family() == AF_INET) {
    return reinterpret_cast<const sockaddr_in*>(&endpoint->storage)->sin_addr.s_addr == INADDR_ANY;
  }
  const in6_addr& v6 = reinterpret_cast<const sockaddr_in6*>(&endpoint->storage)->sin6_addr;
  const bool mapped_any = IN6_IS_ADDR_V4MAPPED(&v6) && std::all_of(v6.s6_addr + 12, v6.s6_addr + 16,
                                                                   [](uint8_t byte) { return byte == 0; });
  return IN6_IS_ADDR_UNSPECIFIED(&v6) || mapped_any;
}

}  // namespace baton::net
