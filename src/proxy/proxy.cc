#include "proxy/proxy.h"

#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "api/limits.h"
#include "base/log.h"
#include "http/server.h"
#include "net/socket.h"
#include "options/help.h"
#include "options/proxy_options.h"
#include "proxy/hub.h"
#include "proxy/prober.h"
#include "proxy/routes.h"
#include "proxy/shadow.h"

namespace baton::proxy {
namespace {

constexpr Duration kDrainLimit = std::chrono::seconds(30);

http::Awaitable<void> drain(Hub& hub, http::Server& server) {
  hub.draining = true;
  const size_t cut = co_await server.drain(kDrainLimit);
  if (cut > 0) log_warning("proxy", fmt::format("{} requests were cut off", cut));
  if (hub.spans) {
    co_await hub.spans->flush(traces::kLastSpansLimit);
  }
  hub.loop.stop();
}

}  // namespace

int run(std::span<const std::string> arguments) {
  const auto options = options::parse_proxy(arguments, options::process_environment());
  if (!options) {
    fmt::print(stderr, "baton proxy: {}\n", options.error().message);
    return 2;
  }
  if (options->help) {
    fmt::print("{}", options::help_text(options::proxy_command()));
    return 0;
  }
  std::signal(SIGPIPE, SIG_IGN);
  set_log_level(options->log_level);
  for (const std::string& notice : options->notices) log_warning("proxy", notice);
  auto listener = net::listen({options->host, options->port});
  if (!listener) {
    fmt::print(stderr, "baton proxy: {}\n", listener.error().message);
    return 1;
  }
  http::IoLoop loop;
  Hub hub(loop, *options);
  if (const auto& otlp = options->otlp_traces) {
    hub.spans = std::make_unique<traces::SpanExporter>(
        loop, traces::exporter_options({otlp->host, otlp->port}, otlp->target, options->service_name));
  }
  if (options->shadow > 0) {
    hub.shadows = std::make_shared<Shadows>(hub);
    loop.spawn("shadow", hub.shadows->run());
  }
  for (const auto& [side, endpoints] : {std::pair(router::Side::kPrefill, &options->prefillers),
                                        std::pair(router::Side::kDecode, &options->decoders)}) {
    for (const options::Endpoint& endpoint : *endpoints) {
      const router::InstanceId id = hub.registry.add(side, endpoint.host, endpoint.port, loop.now());
      const auto bootstrap = options->bootstraps.find(endpoint);
      if (side == router::Side::kPrefill && bootstrap != options->bootstraps.end())
        hub.registry.set_bootstrap(id, "http://" + options::endpoint_text(bootstrap->second));
      start_probing(hub, id);
    }
  }
  if (options->order != options::ProxyOrder::kAuto) {
    hub.registry.ask_order(options->order == options::ProxyOrder::kPull ? api::HandoverOrder::kPull
                                                                        : api::HandoverOrder::kLayerwise);
  }
  http::Server server(loop, std::move(*listener), {.body_bytes_max = api::kClientBodyBytesMax},
                      make_handler(hub));
  hub.port = net::to_address(server.local()).port;
  server.start();
  log_info("proxy",
           fmt::format("listening on {}; {} prefill and {} decode instances", net::to_string(server.local()),
                       options->prefillers.size(), options->decoders.size()));
  loop.on_signal({SIGTERM, SIGINT}, [&](int signal) {
    if (hub.draining) std::_Exit(1);  // asked twice: at once
    log_info("proxy", fmt::format("signal {}: ending what runs, at most {} s", signal, seconds(kDrainLimit)));
    loop.spawn("drain", drain(hub, server));
  });
  loop.run();
  return 0;
}

}  // namespace baton::proxy
