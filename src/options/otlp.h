// --otlp-traces-endpoint: where spans go. vLLM's flag; of its protocols, OTLP over HTTP.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::options {

inline constexpr std::string_view kOtlpTarget = "/v1/traces";  // where the URL names no path

struct OtlpEndpoint {
  std::string host;  // unbracketed
  uint16_t port = 4318;
  std::string target;  // path and query
  bool operator==(const OtlpEndpoint&) const = default;
};

// "http://host[:port][/path]"; the port is 4318 if left out. kInvalid names the flag: another scheme (gRPC
// and TLS are not spoken), a user, a fragment, no host.
Result<OtlpEndpoint> parse_otlp_endpoint(std::string_view url);

}  // namespace baton::options
