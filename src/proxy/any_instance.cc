#include "proxy/any_instance.h"

#include <fmt/format.h>
#include <boost/json/serialize.hpp>

#include <string>
#include <utility>
#include <vector>

#include "api/json.h"
#include "api/response.h"

namespace baton::proxy {
namespace {

namespace json = api::json;
constexpr std::string_view kJson = "application/json";
constexpr Duration kModelsTimeout = std::chrono::seconds(3);
constexpr Duration kPassTimeout = std::chrono::seconds(10);  // the largest body is tokenised in 2 s

std::vector<router::InstanceId> in_order(const Hub& hub, bool only_up) {
  std::vector<router::InstanceId> order;
  for (const auto side : {router::Side::kPrefill, router::Side::kDecode}) {
    for (const auto& instance : hub.registry.instances()) {
      const bool is_asked = !only_up || instance->health == router::Health::kUp;
      if (instance->side == side && is_asked) order.push_back(instance->id);
    }
  }
  return order;
}

http::ClientRequest to_instance(const Hub& hub, const router::Instance& instance,
                                const http::Request& request, Duration timeout) {
  return {.to = hub.address_of(instance),
          .method = request.method == "HEAD" ? "GET" : request.method,
          .target = request.target,
          .headers = hub.upstream_headers(&request, {}),
          .body = request.body,
          .head_timeout = timeout,
          .idle_timeout = timeout};
}

void pass_on(const http::Response& answer, http::ResponseWriter& writer) {
  http::Response response{.status = answer.status, .headers = {}, .body = answer.body};
  response.headers.add("Content-Type", answer.headers.get("Content-Type").value_or(kJson));
  writer.send(response);
}

}  // namespace

http::Awaitable<void> answer_models(Hub& hub, http::Request& request, http::ResponseWriter& writer) {
  const std::vector<router::InstanceId> order = in_order(hub, false);
  json::array failed;
  for (const router::InstanceId id : order) {
    const router::Instance* instance = hub.registry.find(id);
    if (instance == nullptr) continue;
    const std::string address = instance->address();
    const auto answer = co_await hub.client.request(to_instance(hub, *instance, request, kModelsTimeout));
    if (answer && answer->status == 200) {
      writer.send(200, kJson, answer->body);
      co_return;
    }
    failed.emplace_back(address);
  }
  json::object body{{"error", order.empty() ? "no instance is known" : "no instance answers GET /v1/models"}};
  if (!order.empty()) body["failed"] = std::move(failed);
  writer.send(503, kJson, json::serialize(body));
}

http::Awaitable<void> answer_by_any(Hub& hub, http::Request& request, http::ResponseWriter& writer) {
  Error last{Code::kUnavailable,
             fmt::format("{}: no instance is up, expected one to answer it", request.path())};
  int status = 503;
  for (const router::InstanceId id : in_order(hub, true)) {
    const router::Instance* instance = hub.registry.find(id);
    if (instance == nullptr) continue;
    const std::string name =
        fmt::format("{} instance {}", router::side_name(instance->side), instance->address());
    const auto answer = co_await hub.client.request(to_instance(hub, *instance, request, kPassTimeout));
    if (answer && answer->status != 503) {
      pass_on(*answer, writer);
      co_return;
    }
    if (!answer) hub.probe_now(id);
    last.message = fmt::format("{}: {}", name, answer ? "it answers 503" : answer.error().message);
    status = answer ? 503 : 502;
  }
  writer.send(status, kJson, api::render_error(last, status));
}

}  // namespace baton::proxy
