#include "http/route_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace baton::http {
namespace {

// Compares without telling by its duration how much of the key was right.
bool equal_keys(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  return difference == 0;
}

// The name of the scheme has no case (RFC 9110, section 11.1).
std::string_view bearer(const Request& request) {
  constexpr std::string_view kScheme = "Bearer ";
  const std::string_view value = request.headers.get("Authorization").value_or("");
  return value.size() > kScheme.size() && equal_names(value.substr(0, kScheme.size()), kScheme)
             ? value.substr(kScheme.size())
             : std::string_view();
}

bool may(const Request& request, Access access, const Keys& keys) {
  if (access == Access::kOpen) return true;
  if (access == Access::kClient) {
    return keys.api.empty() || std::ranges::any_of(keys.api, [&](const std::string& key) {
             return equal_keys(key, bearer(request));
           });
  }
  return keys.admin.empty() ? net::is_loopback(request.peer) : equal_keys(keys.admin, bearer(request));
}

}  // namespace

bool serves(std::string_view route_method, std::string_view method) {
  return route_method == method || (method == "HEAD" && route_method == "GET");
}

std::optional<Refusal> refusal_of(const Request& request, std::string_view path, Access access,
                                  const Keys& keys) {
  if (!may(request, access, keys)) {
    return Refusal{
        401,
        access == Access::kAdmin
            ? fmt::format("{} is for loopback, or for `Authorization: Bearer` with the --admin-key", path)
            : "Authorization: expected `Bearer` with a valid API key"};
  }
  if (const auto coding = request.headers.get("Content-Encoding"); coding && *coding != "identity")
    return Refusal{415, fmt::format("Content-Encoding: {}, expected none or identity", *coding)};
  return std::nullopt;
}

Refusal no_route(const Request& request, std::string allow) {
  if (allow.empty()) return {404, fmt::format("{}: no such path", request.path())};
  return {405, fmt::format("{} is not allowed on {}", request.method, request.path()), std::move(allow)};
}

void append_method(std::string_view route_method, std::string& allow) {
  if (!allow.empty()) allow += ", ";
  allow += route_method == "GET" ? "GET, HEAD" : route_method;
}

Awaitable<void> refuse(ResponseWriter& writer, Refusal refusal) {
  Response response{
      .status = refusal.status, .headers = {}, .body = error_body(refusal.status, refusal.message)};
  response.headers.add("Content-Type", "application/json");
  if (!refusal.allow.empty()) response.headers.add("Allow", refusal.allow);
  writer.send(response);
  co_return;
}

}  // namespace baton::http
