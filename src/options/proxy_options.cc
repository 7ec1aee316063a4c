#include "options/proxy_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "options/spelling.h"

namespace baton::options {
namespace {

constexpr int64_t kBootstrapPortDefault = 8998;  // VLLM_MOONCAKE_BOOTSTRAP_PORT's
constexpr double kSecondsMax = 1e6;
constexpr int64_t kRequestsMax = 1 << 20;
constexpr size_t kEndpointsMax = 4096;  // of one side
constexpr size_t kHostBytesMax = 253;   // RFC 1035

Duration as_duration(double seconds) { return Duration(static_cast<int64_t>(seconds * 1e9)); }

bool is_ipv4(std::string_view host) {
  int parts = 0;
  bool fits = true;
  split(host, '.', [&](std::string_view part) {
    unsigned number = 256;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), number);
    fits =
        fits && error == std::errc{} && end == part.data() + part.size() && number < 256 && part.size() <= 3;
    ++parts;
  });
  return fits && parts == 4;
}

// A name, an IPv4 address, or an IPv6 address without brackets.
Result<void> check_host(std::string_view host) {
  const auto refuse = [host](std::string_view expectation) {
    return fail(Code::kInvalid, fmt::format("{}: not a host, expected {}", excerpt(host), expectation));
  };
  if (host.empty() || host.size() > kHostBytesMax) return refuse("a name or an address");
  if (host.find(':') != std::string_view::npos) {
    const size_t odd = host.find_first_not_of("0123456789abcdefABCDEF:.%");
    return odd == std::string_view::npos || host.find('%') != std::string_view::npos
               ? Result<void>{}
               : refuse("an IPv6 address");
  }
  const bool allowed = std::ranges::all_of(
      host, [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '.' || c == '_'; });
  if (!allowed) return refuse("letters, digits, dots and dashes");
  if (host.find_first_not_of("0123456789.") == std::string_view::npos && !is_ipv4(host)) {
    return refuse("an IPv4 address (a blank missing before a line's backslash?)");
  }
  // "192.0.0.3192.0.0.3" is caught above; a name's last label is never all digits (RFC 3696, section 2).
  const std::string_view last =
      host.substr(host.rfind('.') == std::string_view::npos ? 0 : host.rfind('.') + 1);
  if (!is_ipv4(host) && last.find_first_not_of("0123456789") == std::string_view::npos) {
    return refuse("a name whose last label is not a number");
  }
  return {};
}

// 0.0.0.0 and ::, however they are written.
bool is_wildcard(std::string_view host) { return host.find_first_not_of("0.:") == std::string_view::npos; }

Result<uint16_t> as_port(std::string_view name, int64_t port) {
  if (port >= 1 && port <= 65535) return static_cast<uint16_t>(port);
  return fail(Code::kInvalid,
              fmt::format("{}: {}, expected a port from 1 to 65535{}", name, port,
                          port > 65535 ? " (a blank missing before a line's backslash?)" : ""));
}

template <class T>
std::vector<T> copied(std::span<const T> values) {
  return {values.begin(), values.end()};
}

Result<void> check_count(std::string_view name, size_t count, std::string_view of, size_t expected) {
  if (count == expected) return {};
  return fail(Code::kInvalid,
              fmt::format("{}: {} values, expected as many as {}, {}", name, count, of, expected));
}

// Whether a text names a port too; an IPv6 address alone has more than one colon and no bracket.
bool has_port(std::string_view host) { return host.starts_with('[') || std::ranges::count(host, ':') == 1; }

struct Lists {
  std::string hosts_flag;
  std::string ports_flag;
  std::vector<std::string> hosts;
  std::vector<int64_t> ports;
};

Result<void> repeat_hosts(Lists& lists, std::span<const int64_t> num) {
  if (num.empty()) return {};
  TRY_DO(check_count(lists.hosts_flag + "-num", num.size(), lists.hosts_flag, lists.hosts.size()));
  std::vector<std::string> repeated;
  for (size_t i = 0; i < num.size(); ++i) {
    if (num[i] < 1 || repeated.size() + static_cast<size_t>(num[i]) > kEndpointsMax) {
      return fail(Code::kInvalid, fmt::format("{}-num: {}, expected 1 to {} in all", lists.hosts_flag, num[i],
                                              kEndpointsMax));
    }
    repeated.insert(repeated.end(), static_cast<size_t>(num[i]), lists.hosts[i]);
  }
  lists.hosts = std::move(repeated);
  return {};
}

Result<void> count_up_ports(Lists& lists, std::span<const int64_t> inc) {
  if (inc.empty()) return {};
  TRY_DO(check_count(lists.ports_flag + "-inc", inc.size(), lists.ports_flag, lists.ports.size()));
  std::vector<int64_t> counted;
  for (size_t i = 0; i < inc.size(); ++i) {
    if (inc[i] < 1 || counted.size() + static_cast<size_t>(inc[i]) > kEndpointsMax) {
      return fail(Code::kInvalid, fmt::format("{}-inc: {}, expected 1 to {} in all", lists.ports_flag, inc[i],
                                              kEndpointsMax));
    }
    for (int64_t k = 0; k < inc[i]; ++k) counted.push_back(lists.ports[i] + k);
  }
  lists.ports = std::move(counted);
  return {};
}

Result<void> check_distinct(std::string_view flag, const std::vector<Endpoint>& endpoints) {
  std::set<Endpoint> seen;
  for (const Endpoint& endpoint : endpoints) {
    if (seen.insert(endpoint).second) continue;
    return fail(Code::kInvalid, fmt::format("{}: {} is given twice, expected each instance once", flag,
                                            endpoint_text(endpoint)));
  }
  return {};
}

class Binder {
 public:
  Binder(const Arguments& arguments, const Environment& environment)
      : given_(arguments), environment_(environment) {}

  Result<ProxyOptions> run() {
    if (!given_.positionals.empty()) {
      return fail(Code::kInvalid,
                  fmt::format("{}: a word without a flag, expected none", excerpt(given_.positionals[0])));
    }
    TRY_DO(bind_door());
    TRY_DO(bind_flow());
    TRY(options_.prefillers, bind_side("prefiller", "8001"));
    TRY(options_.decoders, bind_side("decoder", "8002"));
    TRY_DO(bind_urls());
    for (const Endpoint& endpoint : options_.decoders) {
      if (std::ranges::find(options_.prefillers, endpoint) == options_.prefillers.end()) continue;
      return fail(Code::kInvalid,
                  fmt::format("{}: {} is a prefill instance too, expected one or the other",
                              given_.find("--decode") == nullptr ? "--decoder-hosts" : "--decode",
                              endpoint_text(endpoint)));
    }
    options_.notices = given_.warnings;
    if (!given_.no_effect.empty()) {
      options_.notices.push_back(
          fmt::format("accepted, no effect here: {}", fmt::join(given_.no_effect, ", ")));
    }
    return std::move(options_);
  }

 private:
  template <class Int>
  Result<void> integer(std::string_view flag, int64_t least, int64_t most, Int& into) {
    TRY(const auto value, given_.integer(flag, least, most));
    if (value) into = static_cast<Int>(*value);
    return {};
  }
  Result<void> seconds(std::string_view flag, double least, Duration& into) {
    TRY(const auto value, given_.number(flag, least, kSecondsMax));
    if (value) into = as_duration(*value);
    return {};
  }
  std::string variable(std::string_view name) const {
    const auto at = environment_.find(name);
    return at == environment_.end() ? std::string{} : at->second;
  }

  Result<void> bind_door() {
    options_.host = given_.text("--host").value_or(options_.host);
    TRY_DO(check_host(options_.host));
    TRY_DO(integer("--port", 0, 65535, options_.port));
    options_.advertise_host = given_.text("--advertise-host").value_or("");
    if (!options_.advertise_host.empty()) {
      TRY_DO(check_host(options_.advertise_host));
      if (is_wildcard(options_.advertise_host)) {
        return fail(Code::kInvalid,
                    fmt::format("--advertise-host: {}, expected an address that instances can dial",
                                options_.advertise_host));
      }
    }
    options_.api_keys = given_.texts("--api-key");
    options_.backend_api_key = variable("OPENAI_API_KEY");
    options_.admin_key = given_.text("--admin-key").value_or(variable("BATON_ADMIN_KEY"));
    for (const char* flag : {"--api-key", "--admin-key"}) TRY_DO(given_.filled(flag));
    TRY_DO(integer("--max-in-flight", 1, kRequestsMax, options_.max_in_flight));
    if (const auto url = given_.text("--otlp-traces-endpoint")) {
      TRY(options_.otlp_traces, parse_otlp_endpoint(*url));
    }
    if (const std::string service = variable("OTEL_SERVICE_NAME"); !service.empty())
      options_.service_name = service;
    TRY_DO(integer("--workers", 1, 1024, options_.workers));
    std::string level = given_.text("--log-level").value_or("info");
    std::ranges::transform(level, level.begin(),
                           [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (level == "debug") options_.log_level = LogLevel::kDebug;
    if (level == "warning") options_.log_level = LogLevel::kWarning;
    if (level == "error" || level == "critical") options_.log_level = LogLevel::kError;
    return {};
  }

  Result<void> bind_flow() {
    const std::string order = given_.text("--order").value_or("auto");
    if (order == "pull") options_.order = ProxyOrder::kPull;
    if (order == "layerwise") options_.order = ProxyOrder::kLayerwise;
    const std::string policy = given_.text("--policy").value_or("tutorial");
    if (policy == "least-tokens") options_.policy = ProxyPolicy::kLeastTokens;
    if (policy == "prefix") options_.policy = ProxyPolicy::kPrefix;
    const std::string local_prefill = given_.text("--local-prefill").value_or("auto");
    if (local_prefill == "never") options_.local_prefill = ProxyLocalPrefill::kNever;
    if (local_prefill == "always") options_.local_prefill = ProxyLocalPrefill::kAlways;
    TRY_DO(integer("--max-in-flight-per-instance", 0, kRequestsMax, options_.max_in_flight_per_instance));
    TRY_DO(seconds("--queue-timeout", 0, options_.queue_timeout));
    if (const auto share = given_.text("--shadow")) {
      const auto parsed = parse_share(*share);
      if (!parsed) return fail(Code::kInvalid, "--shadow: " + parsed.error().message);
      options_.shadow = *parsed;
    }
    TRY_DO(integer("--max-retries", 0, 100, options_.attempts));
    options_.attempts = std::max(options_.attempts, 1);
    TRY_DO(seconds("--retry-delay", 0, options_.retry_delay));
    TRY_DO(integer("--max-waiting-retries", 0, kRequestsMax, options_.waiting_attempts));
    TRY_DO(seconds("--waiting-retry-interval", 0.001, options_.waiting_interval));
    TRY_DO(seconds("--health-interval", 0.001, options_.health_interval));
    TRY_DO(integer("--max-waiting", 0, kRequestsMax, options_.max_waiting));
    TRY_DO(seconds("--connect-timeout", 0.001, options_.connect_timeout));
    TRY_DO(seconds("--prefill-timeout", 0.001, options_.prefill_timeout));
    TRY_DO(seconds("--first-byte-timeout", 0.001, options_.first_byte_timeout));
    return seconds("--idle-timeout", 0.001, options_.idle_timeout);
  }

  Result<std::vector<Endpoint>> bind_side(std::string_view side, std::string_view default_port) {
    const std::string hosts_flag = fmt::format("--{}-hosts", side);
    const std::string ports_flag = fmt::format("--{}-ports", side);
    std::vector<std::string> hosts = given_.texts(hosts_flag);
    TRY(std::vector<int64_t> ports, given_.integers(ports_flag, 1, INT32_MAX));
    TRY(const auto num, given_.integers(hosts_flag + "-num", 1, static_cast<int64_t>(kEndpointsMax)));
    TRY(const auto inc, given_.integers(ports_flag + "-inc", 1, static_cast<int64_t>(kEndpointsMax)));
    const bool all_have_ports = !hosts.empty() && std::ranges::all_of(hosts, has_port);
    if (hosts.empty()) hosts.emplace_back("localhost");
    if (ports.empty() && !all_have_ports) {
      int64_t port = 0;
      std::from_chars(default_port.data(), default_port.data() + default_port.size(), port);
      ports.push_back(port);
    }
    return expand_endpoints(side, hosts, ports, num, inc);
  }

  // --prefill and --decode: the way in which upstream vLLM's Mooncake proxy names instances.
  Result<void> bind_urls() {
    const auto prefill = given_.texts("--prefill");
    const auto decode = given_.texts("--decode");
    if (prefill.empty() && decode.empty()) return {};
    for (const std::string_view flag :
         {"--prefiller-hosts", "--prefiller-ports", "--decoder-hosts", "--decoder-ports"}) {
      if (given_.find(flag) == nullptr) continue;
      return fail(Code::kInvalid,
                  fmt::format("{}: instances are named by --prefill and --decode, expected one way", flag));
    }
    if (prefill.empty() || decode.empty()) {
      return fail(Code::kInvalid, fmt::format("{}: none given, expected at least one beside {}",
                                              prefill.empty() ? "--prefill" : "--decode",
                                              prefill.empty() ? "--decode" : "--prefill"));
    }
    options_.prefillers.clear();
    options_.decoders.clear();
    for (size_t i = 0; i < prefill.size(); ++i) {
      TRY(const Endpoint p, url_of("--prefill", prefill[i]));
      options_.prefillers.push_back(p);
      const bool says_port = i + 1 < prefill.size() && !prefill[i + 1].contains("://");
      int64_t port = kBootstrapPortDefault;
      if (says_port && prefill[++i] != "none") {
        const std::string& word = prefill[i];
        const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), port);
        if (error != std::errc{} || end != word.data() + word.size()) {
          return fail(
              Code::kInvalid,
              fmt::format("--prefill: {}, expected the port of a bootstrap server or none", excerpt(word)));
        }
      } else if (says_port) {
        continue;
      }
      TRY(const uint16_t checked, as_port("--prefill", port));
      options_.bootstraps[p] = {p.host, checked};
    }
    for (const std::string& url : decode) {
      TRY(const Endpoint d, url_of("--decode", url));
      options_.decoders.push_back(d);
    }
    TRY_DO(check_distinct("--prefill", options_.prefillers));
    return check_distinct("--decode", options_.decoders);
  }

  static Result<Endpoint> url_of(std::string_view flag, std::string_view url) {
    auto endpoint = parse_instance_url(url);
    if (!endpoint) return fail(Code::kInvalid, fmt::format("{}: {}", flag, endpoint.error().message));
    return endpoint;
  }

  const Arguments& given_;
  const Environment& environment_;
  ProxyOptions options_;
};

}  // namespace

Result<Endpoint> parse_endpoint(std::string_view text) {
  const size_t colon = text.rfind(':');
  const auto refuse = [text] {
    return fail(Code::kInvalid, fmt::format("{}: expected host:port or [IPv6]:port", excerpt(text)));
  };
  if (colon == std::string_view::npos || !has_port(text)) return refuse();
  std::string_view host = text.substr(0, colon);
  const std::string_view digits = text.substr(colon + 1);
  if (host.starts_with('[')) {
    if (!host.ends_with(']')) return refuse();
    host = host.substr(1, host.size() - 2);
  }
  int64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc{} || end != digits.data() + digits.size()) return refuse();
  TRY_DO(check_host(host));
  TRY(const uint16_t port, as_port(excerpt(text), number));
  return Endpoint{std::string(host), port};
}

Result<Endpoint> parse_instance_url(std::string_view url) {
  constexpr std::string_view kScheme = "http://";
  if (!url.starts_with(kScheme))
    return fail(Code::kInvalid, fmt::format("{}: expected http://host:port", excerpt(url)));
  std::string_view rest = url.substr(kScheme.size());
  if (rest.ends_with('/')) rest.remove_suffix(1);
  return parse_endpoint(rest);
}

Result<double> parse_share(std::string_view text) {
  const bool is_percent = text.ends_with('%');
  const std::string_view digits = is_percent ? text.substr(0, text.size() - 1) : text;
  double value = -1;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, std::chars_format::fixed);
  const bool is_number = error == std::errc{} && end == digits.data() + digits.size();
  const double share = is_percent ? value / 100 : value;
  if (is_number && share >= 0 && share <= 1) return share;
  return fail(Code::kInvalid, fmt::format("{}, expected 0% to 100%, or 0 to 1", excerpt(text)));
}

std::string endpoint_text(const Endpoint& endpoint) {
  const bool is_ipv6 = endpoint.host.find(':') != std::string::npos;
  return is_ipv6 ? fmt::format("[{}]:{}", endpoint.host, endpoint.port)
                 : fmt::format("{}:{}", endpoint.host, endpoint.port);
}

Result<std::vector<Endpoint>> expand_endpoints(std::string_view side, std::span<const std::string> hosts,
                                               std::span<const int64_t> ports, std::span<const int64_t> num,
                                               std::span<const int64_t> inc) {
  Lists lists{fmt::format("--{}-hosts", side), fmt::format("--{}-ports", side), copied(hosts), copied(ports)};
  std::vector<Endpoint> endpoints;
  if (hosts.size() > kEndpointsMax) {
    return fail(Code::kInvalid, fmt::format("{}: {} values, expected at most {}", lists.hosts_flag,
                                            hosts.size(), kEndpointsMax));
  }
  if (std::ranges::any_of(hosts, has_port)) {
    const bool plain = ports.empty() && num.empty() && inc.empty();
    if (!plain) {
      return fail(Code::kInvalid,
                  fmt::format("{}: values name ports, expected no {}", lists.hosts_flag, lists.ports_flag));
    }
    for (const std::string& host : hosts) {
      const auto endpoint = parse_endpoint(host);
      if (!endpoint)
        return fail(Code::kInvalid, fmt::format("{}: {}", lists.hosts_flag, endpoint.error().message));
      endpoints.push_back(*endpoint);
    }
    TRY_DO(check_distinct(lists.hosts_flag, endpoints));
    return endpoints;
  }
  TRY_DO(check_count(lists.ports_flag, lists.ports.size(), lists.hosts_flag, lists.hosts.size()));
  TRY_DO(repeat_hosts(lists, num));
  TRY_DO(count_up_ports(lists, inc));
  if (lists.hosts.size() != lists.ports.size()) {
    return fail(Code::kInvalid, fmt::format("{}: {} hosts and {} ports after -num and -inc, expected as many",
                                            lists.hosts_flag, lists.hosts.size(), lists.ports.size()));
  }
  for (size_t i = 0; i < lists.hosts.size(); ++i) {
    const auto fits = check_host(lists.hosts[i]);
    if (!fits) return fail(Code::kInvalid, fmt::format("{}: {}", lists.hosts_flag, fits.error().message));
    TRY(const uint16_t port, as_port(lists.ports_flag, lists.ports[i]));
    endpoints.push_back({lists.hosts[i], port});
  }
  TRY_DO(check_distinct(lists.hosts_flag, endpoints));
  return endpoints;
}

Result<ProxyOptions> parse_proxy(std::span<const std::string> argv, const Environment& environment) {
  TRY(const Arguments arguments, parse_arguments(proxy_command(), argv));
  if (arguments.help) {
    ProxyOptions options;
    options.help = true;
    return options;
  }
  return Binder(arguments, environment).run();
}

}  // namespace baton::options
