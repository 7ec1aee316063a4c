#include "proxy/hub.h"

#include "net/interfaces.h"

namespace baton::proxy {

router::RegistryOptions registry_options(const options::ProxyOptions& options) {
  router::RegistryOptions out{.in_flight_max = static_cast<uint32_t>(options.max_in_flight_per_instance),
                              .waiting_max = static_cast<size_t>(options.max_waiting)};
  if (options.local_prefill == options::ProxyLocalPrefill::kNever)
    out.local_prefill = router::LocalPrefill::kNever;
  if (options.local_prefill == options::ProxyLocalPrefill::kAlways)
    out.local_prefill = router::LocalPrefill::kAlways;
  if (options.policy == options::ProxyPolicy::kLeastTokens) out.policy = router::Policy::kLeastTokens;
  if (options.policy == options::ProxyPolicy::kPrefix) out.policy = router::Policy::kPrefix;
  return out;
}

http::Headers Hub::upstream_headers(const http::Request* from, std::string_view request_id) const {
  http::Headers headers;
  headers.add("Content-Type", "application/json");
  if (!request_id.empty()) headers.add("X-Request-Id", request_id);
  if (!options.backend_api_key.empty()) {
    headers.add("Authorization", "Bearer " + options.backend_api_key);
  } else if (from != nullptr) {
    if (const auto own = from->headers.get("Authorization")) headers.add("Authorization", *own);
  }
  if (from != nullptr) {
    for (const char* name : {"traceparent", "tracestate"}) {
      if (const auto value = from->headers.get(name)) headers.add(name, *value);
    }
  }
  return headers;
}

std::string Hub::metaserver_url(const router::Instance& d) const {
  std::string host = options.advertise_host;
  if (host.empty() && !net::is_wildcard(options.host)) host = options.host;
  if (host.empty()) {
    const auto literal = net::literal_endpoint(d.host, d.port);
    if (literal) host = net::source_host(*literal).value_or("");
    if (host.empty()) host = net::advertise_host().value_or("127.0.0.1");
  }
  return "http://" + net::to_string(net::Address{host, port}) + "/v1/metaserver";
}

void Hub::count(const router::FlowTimes& times) {
  if (!times.placement || (!times.prefill_asked && !times.decode_asked)) return;
  ++metrics.prefills[{std::string(times.placement->on), std::string(times.placement->reason)}];
}

void Hub::give_up(router::InstanceId instance) {
  for (Watch* watch : watches) {
    if (watch->instance == instance) watch->give_up();
  }
}

void Hub::probe_now(router::InstanceId instance) {
  if (const auto found = probes.find(instance); found != probes.end()) found->second->notify();
}

}  // namespace baton::proxy
