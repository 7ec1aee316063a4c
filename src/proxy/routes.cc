#include "proxy/routes.h"

#include <fmt/format.h>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <array>

#include "api/fields.h"
#include "api/json.h"
#include "api/response.h"
#include "base/log.h"
#include "http/route_table.h"
#include "proxy/any_instance.h"
#include "proxy/live_request.h"
#include "proxy/metaserver.h"
#include "proxy/prober.h"
#include "proxy/session.h"

namespace baton::proxy {
namespace {

namespace json = api::json;
constexpr std::string_view kJson = "application/json";
constexpr Duration kResetTimeout = std::chrono::seconds(3);

using Answer = http::Awaitable<void>;

struct Route {
  std::string_view method;
  std::string_view path;
  http::Access access;
  Answer (*answer)(Hub&, http::Request&, http::ResponseWriter&);
};

Answer answer_completions(Hub& hub, http::Request& request, http::ResponseWriter& writer) {
  return relay(hub, router::Route::kCompletions, request, writer);
}
Answer answer_chat(Hub& hub, http::Request& request, http::ResponseWriter& writer) {
  return relay(hub, router::Route::kChat, request, writer);
}

json::object describe(const router::Instance& instance, Time now) {
  json::object out{{"address", instance.address()},
                   {"role", router::side_name(instance.side)},
                   {"health", router::health_name(instance.health)},
                   {"draining", instance.is_draining},
                   {"breaker", router::breaker_state_name(instance.breaker.state(now))},
                   {"in_flight", instance.in_flight},
                   {"baton", instance.identity.has_value()}};
  if (!instance.reason.empty()) out["reason"] = instance.reason;
  if (!instance.notice.empty()) out["notice"] = instance.notice;
  return out;
}

Answer answer_healthcheck(Hub& hub, http::Request&, http::ResponseWriter& writer) {
  json::array instances;
  for (const auto& instance : hub.registry.instances())
    instances.push_back(describe(*instance, hub.loop.now()));
  json::array refused;
  for (const router::RefusedPair& pair : hub.registry.refused_pairs()) {
    refused.push_back({{"prefill", pair.prefill}, {"decode", pair.decode}, {"reason", pair.reason}});
  }
  json::array warnings;
  for (const std::string& warning : hub.registry.warnings()) warnings.emplace_back(warning);
  const auto order = hub.registry.order();
  const json::object body{{"status", "ok"},
                          {"prefill_instances", hub.registry.count(router::Side::kPrefill)},
                          {"decode_instances", hub.registry.count(router::Side::kDecode)},
                          {"request_num", hub.metrics.requests_in_flight},
                          {"instances", std::move(instances)},
                          {"refused_pairs", std::move(refused)},
                          {"warnings", std::move(warnings)},
                          {"order", order ? json::value(api::order_name(*order)) : json::value(nullptr)},
                          {"order_reason", order ? "" : order.error().message}};
  writer.send(200, kJson, json::serialize(body));
  co_return;
}

// Whether a request would find a pair of instances now.
Answer answer_health(Hub& hub, http::Request&, http::ResponseWriter& writer) {
  const auto order = hub.registry.order();
  const auto ready = order ? hub.registry.ready(hub.loop.now()) : Result<void>(Failure(order.error()));
  if (hub.draining) {
    writer.send(503, kJson, R"({"error":"draining"})");
  } else if (ready) {
    writer.send(200, kJson, "{}");
  } else {
    writer.send(503, kJson, api::render_error(ready.error(), 503));
  }
  co_return;
}

Answer answer_version(Hub&, http::Request&, http::ResponseWriter& writer) {
  writer.send(200, kJson, R"({"version":")" BATON_VERSION R"("})");
  co_return;
}

Answer answer_metrics(Hub& hub, http::Request&, http::ResponseWriter& writer) {
  hub.metrics.requests_waiting = static_cast<int64_t>(hub.registry.queue().size());
  hub.metrics.instances.clear();
  for (const auto& instance : hub.registry.instances()) {
    hub.metrics.instances.push_back({.address = instance->address(),
                                     .role = std::string(router::side_name(instance->side)),
                                     .up = instance->health == router::Health::kUp,
                                     .in_flight = instance->in_flight,
                                     .load = instance->active_tokens,
                                     .requests = instance->requests,
                                     .failures = instance->failures});
  }
  if (hub.spans) {
    hub.metrics.spans = {.exported = hub.spans->counters().exported,
                         .dropped = hub.spans->counters().dropped};
  }
  writer.send(200, api::kMetricsContentType, api::render_metrics(hub.metrics));
  co_return;
}

Answer answer_reset_prefix_cache(Hub& hub, http::Request& request, http::ResponseWriter& writer) {
  std::vector<router::InstanceId> order;
  for (const auto& instance : hub.registry.instances()) order.push_back(instance->id);
  json::array failed;
  for (const router::InstanceId id : order) {
    const router::Instance* instance = hub.registry.find(id);
    if (instance == nullptr) continue;
    std::string target = "/reset_prefix_cache";
    if (!request.query().empty()) target += "?" + std::string(request.query());
    const std::string base = "http://" + instance->address();
    http::ClientRequest ask{.to = hub.address_of(*instance),
                            .method = "POST",
                            .target = std::move(target),
                            .headers = {},
                            .body = {},
                            .head_timeout = kResetTimeout,
                            .idle_timeout = kResetTimeout};
    if (!hub.options.admin_key.empty()) ask.headers.add("Authorization", "Bearer " + hub.options.admin_key);
    const auto answer = co_await hub.client.request(std::move(ask));
    if (!answer || answer->status != 200) failed.emplace_back(base);
  }
  hub.registry.forget_caches();
  if (failed.empty()) {
    writer.send(200, kJson, "");
  } else {
    writer.send(500, kJson, json::serialize(json::object{{"failed", std::move(failed)}}));
  }
}

Answer answer_debug_requests(Hub& hub, http::Request&, http::ResponseWriter& writer) {
  writer.send(200, kJson, render_debug_requests(hub));
  co_return;
}

struct InstanceChange {
  router::Side side = router::Side::kPrefill;
  std::vector<options::Endpoint> endpoints;
  std::optional<uint16_t> bootstrap_port;  // of each, on its own host
};

Result<std::optional<uint16_t>> read_bootstrap_port(const json::object& object, router::Side side) {
  constexpr std::string_view kKey = "bootstrap_port";
  TRY(const auto port, api::read_integer(object, kKey, 1, 65535));
  if (!port) return std::nullopt;
  if (side != router::Side::kPrefill)
    return api::refuse_field(kKey, *port, "none: only prefill instances have a bootstrap server");
  return static_cast<uint16_t>(*port);
}

// {"type": "prefill"|"decode", "instances": "h:p" or ["h:p", ...]}; "bootstrap_port" as --prefill URL PORT.
Result<InstanceChange> parse_change(std::string_view body) {
  TRY(const json::object object, api::parse_json_object(body));
  InstanceChange change;
  const json::value* type = object.if_contains("type");
  const std::string_view name =
      type != nullptr && type->is_string() ? std::string_view(type->get_string()) : "";
  if (name != "prefill" && name != "decode") {
    return fail(Code::kInvalid, fmt::format("type: '{}', expected prefill or decode", name), "type");
  }
  change.side = name == "prefill" ? router::Side::kPrefill : router::Side::kDecode;
  const json::value* instances = object.if_contains("instances");
  json::array list;
  if (instances != nullptr && instances->is_array()) list = instances->get_array();
  if (instances != nullptr && instances->is_string()) list.push_back(*instances);
  if (list.empty()) {
    return fail(Code::kInvalid, "instances: expected \"host:port\" or a list of them", "instances");
  }
  for (const json::value& entry : list) {
    if (!entry.is_string())
      return fail(Code::kInvalid, "instances: expected strings \"host:port\"", "instances");
    TRY(options::Endpoint endpoint, options::parse_endpoint(std::string_view(entry.get_string())));
    change.endpoints.push_back(std::move(endpoint));
  }
  TRY(change.bootstrap_port, read_bootstrap_port(object, change.side));
  return change;
}

std::string changed_body(const Hub& hub, std::string message) {
  json::array sides[2];
  for (const auto& instance : hub.registry.instances()) {
    if (instance->is_waiting) continue;
    sides[static_cast<size_t>(instance->side)].emplace_back(instance->address());
  }
  return json::serialize(json::object{{"message", std::move(message)},
                                      {"current_prefill_instances", std::move(sides[0])},
                                      {"current_decode_instances", std::move(sides[1])}});
}

std::string list_text(const std::vector<options::Endpoint>& endpoints) {
  std::string text;
  for (const auto& endpoint : endpoints) {
    text += fmt::format("{}'{}'", text.empty() ? "" : ", ", options::endpoint_text(endpoint));
  }
  return "[" + text + "]";
}

// The original's words: an unknown type is no HTTP error there.
void refuse_change(http::ResponseWriter& writer, const Error& error) {
  if (error.param == "type") {
    writer.send(200, kJson, json::serialize(json::object{{"error", error.message}}));
  } else {
    writer.send(400, kJson, api::render_error(error));
  }
}

// Whether each new instance is up or not is known after its first probe, which is awaited.
http::Awaitable<void> await_first_probes(Hub& hub, const std::vector<router::InstanceId>& added) {
  constexpr Duration kStep = std::chrono::milliseconds(5);
  for (Duration waited{0}; waited < kProbeTimeout; waited += kStep) {
    const bool known = std::ranges::all_of(added, [&](router::InstanceId id) {
      const router::Instance* instance = hub.registry.find(id);
      return instance == nullptr || instance->health != router::Health::kUnknown;
    });
    if (known) break;
    const auto slept = co_await hub.loop.sleep(kStep);
    if (!slept) break;
  }
}

Answer answer_add(Hub& hub, http::Request& request, http::ResponseWriter& writer) {
  const auto change = parse_change(request.body);
  if (!change) {
    refuse_change(writer, change.error());
    co_return;
  }
  std::vector<router::InstanceId> added;
  for (const options::Endpoint& endpoint : change->endpoints) {
    const size_t before = hub.registry.instances().size();
    added.push_back(hub.registry.add(change->side, endpoint.host, endpoint.port, hub.loop.now()));
    if (hub.registry.instances().size() == before) continue;
    hub.registry.set_waiting(added.back());
    if (change->bootstrap_port) {
      hub.registry.set_bootstrap(
          added.back(), "http://" + options::endpoint_text({endpoint.host, *change->bootstrap_port}));
    }
    start_probing(hub, added.back());
  }
  co_await await_first_probes(hub, added);
  std::vector<options::Endpoint> live, waiting;
  for (size_t i = 0; i < added.size(); ++i) {
    const router::Instance* instance = hub.registry.find(added[i]);
    (instance != nullptr && !instance->is_waiting ? live : waiting).push_back(change->endpoints[i]);
  }
  std::string message;
  if (!live.empty())
    message = fmt::format("add {} instances: {}.", router::side_name(change->side), list_text(live));
  if (!waiting.empty()) {
    message += fmt::format("{}Instances {} are waiting to be added.", message.empty() ? "" : " ",
                           list_text(waiting));
  }
  writer.send(200, kJson, changed_body(hub, std::move(message)));
}

Answer answer_remove(Hub& hub, http::Request& request, http::ResponseWriter& writer) {
  const auto change = parse_change(request.body);
  if (!change) {
    refuse_change(writer, change.error());
    co_return;
  }
  for (const options::Endpoint& endpoint : change->endpoints) {
    static_cast<void>(hub.registry.remove(change->side, endpoint.host, endpoint.port));
  }
  writer.send(200, kJson,
              changed_body(hub, fmt::format("Instances {} are isolated and waiting to be removed.",
                                            list_text(change->endpoints))));
}

constexpr std::array kRoutes = {
    Route{"POST", "/v1/chat/completions", http::Access::kClient, answer_chat},
    Route{"POST", "/v1/completions", http::Access::kClient, answer_completions},
    Route{"POST", "/v1/metaserver", http::Access::kOpen, answer_metaserver},
    Route{"GET", "/v1/models", http::Access::kClient, answer_models},
    Route{"POST", "/tokenize", http::Access::kClient, answer_by_any},
    Route{"POST", "/detokenize", http::Access::kClient, answer_by_any},
    Route{"GET", "/healthcheck", http::Access::kOpen, answer_healthcheck},
    Route{"GET", "/health", http::Access::kOpen, answer_health},
    Route{"GET", "/ping", http::Access::kOpen, answer_health},
    Route{"POST", "/ping", http::Access::kOpen, answer_health},
    Route{"GET", "/version", http::Access::kOpen, answer_version},
    Route{"GET", "/metrics", http::Access::kOpen, answer_metrics},
    Route{"GET", "/debug/requests", http::Access::kAdmin, answer_debug_requests},
    Route{"POST", "/reset_prefix_cache", http::Access::kAdmin, answer_reset_prefix_cache},
    Route{"POST", "/instances/add", http::Access::kAdmin, answer_add},
    Route{"POST", "/instances/remove", http::Access::kAdmin, answer_remove},
};

Answer route(Hub& hub, http::Request& request, http::ResponseWriter& writer) {
  const auto found = http::find_route(kRoutes, request, {hub.options.api_keys, hub.options.admin_key});
  if (const auto* refusal = std::get_if<http::Refusal>(&found)) return http::refuse(writer, *refusal);
  return std::get<const Route*>(found)->answer(hub, request, writer);
}

}  // namespace

http::Handler make_handler(Hub& hub) {
  return [&hub](http::Request& request, http::ResponseWriter& writer) { return route(hub, request, writer); };
}

}  // namespace baton::proxy
