// Which entry of a server's table a request takes, and what it is told where it takes none: the rules for
// methods, keys and content codings that every server of the house has. Plain functions, any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "http/message.h"
#include "http/server.h"

namespace baton::http {

enum class Access : uint8_t {
  kOpen,    // anybody
  kClient,  // `Authorization: Bearer` with an API key, if the server has any
  kAdmin,   // the same with the admin key; loopback where there is none
};

struct Keys {
  std::span<const std::string> api;  // empty: open
  std::string_view admin;            // empty: none
};

struct Refusal {
  int status = 404;
  std::string message;
  std::string allow =
      {};  // of a 405: the methods of its path, for the Allow field (RFC 9110, section 10.2.1)
};

// HEAD is GET without its body (RFC 9110, section 9.3.2), which the server leaves out.
bool serves(std::string_view route_method, std::string_view method);

// 401 for a request without the key that `access` wants, 415 for a body in a coding; nothing if it may pass.
std::optional<Refusal> refusal_of(const Request& request, std::string_view path, Access access,
                                  const Keys& keys);

// Of a request that no route takes: 405 where its path has other methods, else 404.
Refusal no_route(const Request& request, std::string allow);

void append_method(std::string_view route_method, std::string& allow);

// The entry of `routes` that the request takes. Entries have `method`, `path` and `access`; one path may have
// several.
template <typename Routes>
std::variant<const typename Routes::value_type*, Refusal> find_route(const Routes& routes,
                                                                     const Request& request,
                                                                     const Keys& keys) {
  std::string allow;
  for (const auto& route : routes) {
    if (route.path != request.path()) continue;
    append_method(route.method, allow);
    if (!serves(route.method, request.method)) continue;
    if (auto refusal = refusal_of(request, route.path, route.access, keys)) return *std::move(refusal);
    return &route;
  }
  return no_route(request, std::move(allow));
}

// Answers with it, as error_body says.
Awaitable<void> refuse(ResponseWriter& writer, Refusal refusal);

}  // namespace baton::http
