#include "options/otlp.h"

#include <fmt/format.h>

#include <algorithm>

#include "options/proxy_options.h"
#include "options/spelling.h"

namespace baton::options {
namespace {

constexpr std::string_view kScheme = "http://";
constexpr std::string_view kPortDefault = ":4318";

Failure refuse(std::string_view url, std::string_view why) {
  return fail(Code::kInvalid, fmt::format("--otlp-traces-endpoint: {}, expected http://HOST[:PORT][/PATH]{}",
                                          excerpt(url), why));
}

}  // namespace

Result<OtlpEndpoint> parse_otlp_endpoint(std::string_view url) {
  if (!url.starts_with(kScheme)) {
    return refuse(url, ": OTLP over HTTP, which collectors take on port 4318, not gRPC and not TLS");
  }
  const auto is_printable = [](char c) { return c > 0x20 && c < 0x7F; };
  if (!std::ranges::all_of(url, is_printable) || url.find_first_of("@#") != std::string_view::npos) {
    return refuse(url, " without user and fragment");
  }
  const std::string_view rest = url.substr(kScheme.size());
  const size_t slash = rest.find_first_of("/?");
  std::string authority(rest.substr(0, slash));
  if (authority.empty()) return refuse(url, "");
  const size_t after_host = authority.starts_with('[') ? authority.find(']') : 0;
  if (after_host != std::string::npos && authority.find(':', after_host) == std::string::npos) {
    authority += kPortDefault;
  }
  auto at = parse_endpoint(authority);
  if (!at) return refuse(url, ": " + at.error().message);
  OtlpEndpoint endpoint{.host = std::move(at->host), .port = at->port, .target = {}};
  if (slash != std::string_view::npos) endpoint.target = rest.substr(slash);
  if (endpoint.target.empty() || endpoint.target == "/") endpoint.target = kOtlpTarget;
  if (endpoint.target.starts_with('?')) endpoint.target.insert(0, "/");
  return endpoint;
}

}  // namespace baton::options
