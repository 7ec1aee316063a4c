// The addresses of this machine, and the one that peers are told.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/address.h"

namespace baton::net {

struct Interface {
  std::string name;  // "eth0"
  Endpoint address;  // port 0
  bool is_up = false;
};

// One entry per address of each interface, in the kernel's order.
Result<std::vector<Interface>> interfaces();

using Environment = std::function<std::optional<std::string>(const char* name)>;
std::optional<std::string> process_environment(const char* name);  // getenv; empty counts as unset

// The host that peers shall dial: VLLM_HOST_IP, else HCCL_IF_IP, else the first address of
// GLOO_SOCKET_IFNAME (a comma-separated list of names; IPv4 before IPv6), else the address that the default
// route leaves from, else loopback. Never a wildcard: 0.0.0.0 in a variable is kInvalid, as is an interface
// that does not exist or has no address. Sends nothing.
Result<std::string> advertise_host(const Environment& environment = process_environment);

// The address of this machine from which `to` is reached, as `to` sees it unless a router translates it;
// nothing without a route. Sends nothing.
std::optional<std::string> source_host(const Endpoint& to);

// Whether `host` (a literal) is an address of this machine.
bool is_local_host(std::string_view host);

}  // namespace baton::net
