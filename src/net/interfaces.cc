#include "net/interfaces.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "net/fd.h"
#include "net/socket.h"

namespace baton::net {
namespace {

constexpr const char* kExplicitHosts[] = {"VLLM_HOST_IP", "HCCL_IF_IP"};
constexpr const char* kInterfaceNames = "GLOO_SOCKET_IFNAME";

Result<std::string> checked_host(const char* variable, const std::string& value) {
  const auto host = parse_host(value);
  if (!host) return fail(Code::kInvalid, fmt::format("{}: {}", variable, host.error().message));
  if (is_wildcard(*host)) {
    return fail(Code::kInvalid, fmt::format("{}: {} is every address, expected the one that peers can reach",
                                            variable, *host));
  }
  return *host;
}

// The first address of the first interface of the list that has one, IPv4 before IPv6.
Result<std::string> host_of_interfaces(const std::string& names) {
  TRY(const std::vector<Interface> all, interfaces());
  for (size_t start = 0; start <= names.size();) {
    const size_t comma = std::min(names.find(',', start), names.size());
    const std::string_view name = std::string_view(names).substr(start, comma - start);
    for (const int family : {AF_INET, AF_INET6}) {
      for (const Interface& interface : all) {
        if (interface.name != name || interface.address.family() != family) continue;
        return to_address(interface.address).host;
      }
    }
    start = comma + 1;
  }
  std::string known;
  for (const Interface& interface : all) {
    if (known.find(interface.name) == std::string::npos)
      known += (known.empty() ? "" : ", ") + interface.name;
  }
  return fail(Code::kInvalid, fmt::format("{}: \"{}\" is no interface with an address, expected one of: {}",
                                          kInterfaceNames, names, known));
}

// The targets are documentation addresses (RFC 5737, RFC 3849): nobody answers there, which does not matter.
std::optional<std::string> host_of_default_route() {
  for (const char* const target : {"192.0.2.1", "2001:db8::1"}) {
    if (auto host = source_host(*literal_endpoint(target, 9))) return host;
  }
  return std::nullopt;
}

}  // namespace

// Connecting a datagram socket chooses the local address of the route and sends nothing.
std::optional<std::string> source_host(const Endpoint& to) {
  const Fd fd(socket(to.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd || ::connect(fd.get(), to.data(), to.size) != 0) return std::nullopt;
  std::string host = to_address(local_endpoint(fd.get())).host;
  if (host.empty() || is_wildcard(host)) return std::nullopt;
  return host;
}

Result<std::vector<Interface>> interfaces() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return fail(Code::kIo, fmt::format("getifaddrs: {}", std::strerror(errno)));
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, freeifaddrs);
  std::vector<Interface> found;
  for (const ifaddrs* at = list; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr) continue;
    const int family = at->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    Interface interface;
    interface.name = at->ifa_name;
    interface.address.size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    std::memcpy(&interface.address.storage, at->ifa_addr, interface.address.size);
    interface.is_up = (at->ifa_flags & IFF_UP) != 0;
    found.push_back(std::move(interface));
  }
  return found;
}

std::optional<std::string> process_environment(const char* name) {
  const char* const value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

Result<std::string> advertise_host(const Environment& environment) {
  for (const char* const variable : kExplicitHosts) {
    if (const auto value = environment(variable)) return checked_host(variable, *value);
  }
  if (const auto names = environment(kInterfaceNames)) return host_of_interfaces(*names);
  return host_of_default_route().value_or("127.0.0.1");
}

bool is_local_host(std::string_view host) {
  const auto wanted = literal_endpoint(host, 0);
  if (!wanted) return false;
  if (is_loopback(*wanted)) return true;
  const auto all = interfaces();
  if (!all) return false;
  const std::string text = to_address(*wanted).host;
  for (const Interface& interface : *all) {
    if (to_address(interface.address).host == text) return true;
  }
  return false;
}

}  // namespace baton::net
