// What the sessions of one proxy share: the registry of instances, the client that talks to them, counters,
// and who is being served right now. Owned by the io thread.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "api/metrics.h"
#include "http/client.h"
#include "http/io_loop.h"
#include "http/wake.h"
#include "options/proxy_options.h"
#include "router/registry.h"
#include "router/timings.h"
#include "traces/exporter.h"

namespace baton::proxy {

// What waits for an instance: given up when a probe finds the instance down, so that nobody hangs on a peer
// that is frozen with its connections open.
struct Watch {
  explicit Watch(http::IoLoop& loop) : given_up(loop), room(loop) {}
  // The instance is asked something from here on.
  void begin(router::InstanceId id) {
    instance = id;
    is_given_up = false;
    asked.reset();
  }
  // What is asked is not waited for any longer.
  void give_up() {
    is_given_up = true;
    asked.trigger();
    given_up.notify();
  }

  router::InstanceId instance{};
  http::Interrupt asked;  // of the request to it
  bool is_given_up = false;
  http::Wake given_up;  // may be notified for an instance that was asked before
  http::Wake room;      // there may be room for a request that waits
};

class LayerwiseExchange;
class LiveRequest;
class Shadows;

router::RegistryOptions registry_options(const options::ProxyOptions& options);

struct Hub {
  Hub(http::IoLoop& io, const options::ProxyOptions& proxy_options)
      : loop(io),
        options(proxy_options),
        registry(registry_options(proxy_options)),
        client(io, {.connect_timeout = proxy_options.connect_timeout,
                    .idle_timeout = proxy_options.idle_timeout}) {}

  http::IoLoop& loop;
  const options::ProxyOptions& options;
  router::Registry registry;
  http::Client client;
  std::unique_ptr<traces::SpanExporter> spans;  // empty without --otlp-traces-endpoint
  std::shared_ptr<Shadows> shadows;             // empty without --shadow
  api::ProxyMetrics metrics;
  std::unordered_set<Watch*> watches;
  std::unordered_set<const LiveRequest*> live;                                 // for GET /debug/requests
  std::unordered_map<router::InstanceId, std::unique_ptr<http::Wake>> probes;  // end a prober's pause
  std::mt19937_64 seeds{std::random_device{}()};
  bool draining = false;
  // Layer-wise order: who waits for the post of which name.
  std::unordered_map<std::string, LayerwiseExchange*> reservations;
  uint16_t port = 0;  // where this proxy listens

  net::Address address_of(const router::Instance& instance) const { return {instance.host, instance.port}; }
  // Headers that every request to an instance carries.
  http::Headers upstream_headers(const http::Request* from, std::string_view request_id) const;
  // Where `d` reaches the metaserver: --advertise-host, else --host unless it is a wildcard, else the address
  // of this machine that faces `d`.
  std::string metaserver_url(const router::Instance& d) const;
  // A flow is over: where its prompt was computed.
  void count(const router::FlowTimes& times);
  // An instance went down: whoever waits for it gives it up.
  void give_up(router::InstanceId instance);
  // A request has failed there: it is asked at once whether it is up, not at the next interval.
  void probe_now(router::InstanceId instance);
};

}  // namespace baton::proxy
