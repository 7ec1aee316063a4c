// The options of `baton proxy`: the flags of vllm-ascend's load_balance_proxy_server_example.py, those that
// its v0.9.1 had (-num, -inc), and our own.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/result.h"
#include "options/flags.h"
#include "options/otlp.h"

namespace baton::options {

// host:port of an instance; `host` is a name, an IPv4 or an unbracketed IPv6 address.
struct Endpoint {
  std::string host;
  uint16_t port = 0;
  auto operator<=>(const Endpoint&) const = default;
};

// "h:p", "[v6]:p". kInvalid names what is wrong. A host of dotted digits must be an IPv4 address: two of them
// run together ("192.0.0.3192.0.0.3") are a blank missing before a line's backslash.
Result<Endpoint> parse_endpoint(std::string_view text);
// "http://h:p", with or without a slash behind it.
Result<Endpoint> parse_instance_url(std::string_view url);
// "h:p", IPv6 bracketed.
std::string endpoint_text(const Endpoint& endpoint);

enum class ProxyOrder {
  kAuto,  // what the instances say of themselves
  kPull,
  kLayerwise,
};
enum class ProxyLocalPrefill { kAuto, kNever, kAlways };      // router/placement.h
enum class ProxyPolicy { kTutorial, kLeastTokens, kPrefix };  // router/registry.h

struct ProxyOptions {
  bool help = false;  // --help: print help_text(proxy_command()) and exit 0; nothing below is checked

  std::string host = "localhost";
  uint16_t port = 8000;
  std::string advertise_host;        // told to others; empty: host if it is not a wildcard, else found out
  std::vector<Endpoint> prefillers;  // in the order of the command line; no two the same
  std::vector<Endpoint> decoders;

  std::map<Endpoint, Endpoint> bootstraps;  // of a prefill instance given by --prefill: its bootstrap server

  ProxyOrder order = ProxyOrder::kAuto;
  int32_t attempts = 3;             // --max-retries: total attempts, at least 1
  Duration retry_delay{1'000'000};  // doubles with each attempt
  int32_t waiting_attempts = 0;  // --max-waiting-retries: probes of an added instance; 0: as long as it takes
  Duration waiting_interval = std::chrono::seconds(10);  // between them, and between drain checks
  int32_t workers = 1;  // one process serves all; more are accepted with a notice

  ProxyPolicy policy = ProxyPolicy::kTutorial;
  ProxyLocalPrefill local_prefill = ProxyLocalPrefill::kAuto;
  std::vector<std::string> api_keys;  // asked of clients; empty: open
  std::string backend_api_key;  // OPENAI_API_KEY: sent to instances; empty: the client's own is forwarded
  std::string admin_key;        // empty: admin routes take loopback only

  Duration connect_timeout = std::chrono::seconds(3);
  Duration prefill_timeout = std::chrono::seconds(300);     // P's whole answer
  Duration first_byte_timeout = std::chrono::seconds(300);  // from D's request to its first byte
  Duration idle_timeout = std::chrono::seconds(120);        // between two events of a stream
  Duration health_interval = std::chrono::seconds(2);
  int32_t max_in_flight_per_instance = 512;           // then requests wait; 0: no bound
  int32_t max_waiting = 1024;                         // requests that wait for an instance; then 429
  Duration queue_timeout = std::chrono::seconds(30);  // of such a wait; then 429
  int32_t max_in_flight = 4096;                       // requests at once; then 429

  double shadow = 0;  // --shadow: share of requests, [0, 1]

  std::optional<OtlpEndpoint> otlp_traces;   // nothing: no spans
  std::string service_name = "baton-proxy";  // OTEL_SERVICE_NAME: of the spans

  LogLevel log_level = LogLevel::kInfo;
  std::vector<std::string> notices;  // lines to log at the start, warnings first
};

// `argv`: the words after "proxy". kInvalid: exit 2, message on stderr.
Result<ProxyOptions> parse_proxy(std::span<const std::string> argv, const Environment& environment);

// "0.1%", "0.001": a share of all, [0, 1].
Result<double> parse_share(std::string_view text);

// One side's hosts and ports by the rules of v0.9.1: host i num[i] times, port i counted up inc[i] times,
// then paired. Empty `num` or `inc`: not given. Entries of `hosts` may be host:port, then no ports are given
// for them. Unequal lists are kInvalid (the original cut them off in silence). `side` is "prefiller" or
// "decoder".
Result<std::vector<Endpoint>> expand_endpoints(std::string_view side, std::span<const std::string> hosts,
                                               std::span<const int64_t> ports, std::span<const int64_t> num,
                                               std::span<const int64_t> inc);

}  // namespace baton::options
