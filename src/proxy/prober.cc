#include "proxy/prober.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"

namespace baton::proxy {
namespace {

// What keeps an instance that lives from saying who it is, and how to mend it.
std::string notice_of(const Hub& hub, const http::Response& answer) {
  if (answer.status != 401 && answer.status != 403) return {};
  return fmt::format(
      "GET /v1/models answers {}: it asks for an API key, so it cannot say who it is and counts as no Baton "
      "instance; "
      "{} to one of its --api-key",
      answer.status,
      hub.options.backend_api_key.empty() ? "set the proxy's OPENAI_API_KEY"
                                          : "the proxy's OPENAI_API_KEY is another, set it");
}

// Whose engine ids a P's bootstrap server names; asked for each time, because P may be another process by
// now.
http::Awaitable<Result<std::vector<router::BootstrapRank>>> ask_bootstrap(Hub& hub, std::string url) {
  const auto endpoint =
      options::parse_endpoint(std::string_view(url).substr(std::string_view("http://").size()));
  if (!endpoint) co_return Failure(endpoint.error());
  const auto answer = co_await hub.client.request({.to = {endpoint->host, endpoint->port},
                                                   .target = "/query",
                                                   .headers = {},
                                                   .body = {},
                                                   .head_timeout = kProbeTimeout,
                                                   .idle_timeout = kProbeTimeout});
  auto ranks = answer ? answer->status == 200
                            ? router::read_bootstrap_answer(answer->body)
                            : fail(Code::kUnavailable, fmt::format("/query answers {}", answer->status))
                      : Failure(answer.error());
  if (ranks) co_return std::move(*ranks);
  co_return fail(ranks.error().code, fmt::format("its bootstrap server {}: {}", url, ranks.error().message));
}

void note(Hub& hub, router::InstanceId id, const Result<http::Response>& answer) {
  const router::Instance* before = hub.registry.find(id);
  if (before == nullptr) return;
  const router::Health was = before->health;
  const std::string known_notice = before->notice;
  const Time now = hub.loop.now();
  std::string reason;
  std::optional<api::InstanceIdentity> identity;
  if (!answer) {
    reason = answer.error().message;
  } else if (answer->status >= 500) {
    reason = fmt::format("GET /v1/models answers {}", answer->status);
  } else if (answer->status == 200) {
    // Any other answer comes from a server that lives but does not say who it is.
    if (auto parsed = api::parse_models_identity(answer->body)) identity = std::move(*parsed);
  }
  if (reason.empty()) {
    hub.registry.on_probe_ok(id, std::move(identity), now, notice_of(hub, *answer));
  } else {
    hub.registry.on_probe_failed(id, reason, now);
  }
  const router::Instance* after = hub.registry.find(id);
  if (!after->notice.empty() && after->notice != known_notice) {
    log_warning("proxy", fmt::format("{} instance {}: {}", router::side_name(after->side), after->address(),
                                     after->notice));
  }
  if (after->health == was) return;
  const std::string what =
      fmt::format("{} instance {} is {}{}{}", router::side_name(after->side), after->address(),
                  router::health_name(after->health), reason.empty() ? "" : ": ", reason);
  log(after->health == router::Health::kUp ? LogLevel::kInfo : LogLevel::kWarning, "proxy", what);
  if (after->health == router::Health::kDown) hub.give_up(id);
}

// The answer to a probe; of a P that hands over by a bootstrap server, its failure if that one has nothing to
// say.
http::Awaitable<Result<http::Response>> checked(Hub& hub, router::InstanceId id,
                                                Result<http::Response> answer) {
  const router::Instance* instance = hub.registry.find(id);
  const bool lives = answer && answer->status < 500;
  if (instance == nullptr || instance->bootstrap.empty() || !lives) co_return answer;
  if (answer->status == 200) {
    if (const auto identity = api::parse_models_identity(answer->body); identity && *identity)
      co_return answer;
  }
  auto ranks = co_await ask_bootstrap(hub, instance->bootstrap);
  if (!ranks) co_return Failure(ranks.error());
  hub.registry.on_bootstrap(id, std::move(*ranks));
  co_return answer;
}

http::Awaitable<void> probe(Hub& hub, router::InstanceId id) {
  const Time begun = hub.loop.now();
  while (true) {
    const router::Instance* instance = hub.registry.find(id);
    if (instance == nullptr) break;
    http::ClientRequest request{.to = hub.address_of(*instance),
                                .target = "/v1/models",
                                .headers = hub.upstream_headers(nullptr, {}),
                                .body = {},
                                .head_timeout = kProbeTimeout,
                                .idle_timeout = kProbeTimeout};
    const Time asked = hub.loop.now();
    const auto answer = co_await hub.client.request(std::move(request));
    if (answer) hub.registry.on_probe_took(id, hub.loop.now() - asked);
    if (!answer && answer.error().code == Code::kCancelled) co_return;  // the hub is going
    note(hub, id, co_await checked(hub, id, answer));
    instance = hub.registry.find(id);
    if (instance == nullptr) break;
    const Duration patience = hub.options.waiting_interval * hub.options.waiting_attempts;
    if (instance->is_waiting && patience > Duration{0} && hub.loop.now() - begun > patience) {
      log_warning("proxy",
                  fmt::format("{} is given up: it was not up within {:.0f} s (--max-waiting-retries)",
                              instance->address(), seconds(patience)));
      static_cast<void>(hub.registry.remove(instance->side, instance->host, instance->port));
      break;
    }
    const bool is_up = instance->health == router::Health::kUp;
    const Duration pause =
        is_up ? hub.options.health_interval : std::min(kDownProbeInterval, hub.options.health_interval);
    const auto slept = co_await hub.probes.at(id)->wait_for(pause);
    if (!slept && slept.error().code == Code::kCancelled) co_return;
  }
  hub.probes.erase(id);
}

}  // namespace

void start_probing(Hub& hub, router::InstanceId instance) {
  hub.probes.emplace(instance, std::make_unique<http::Wake>(hub.loop));
  hub.loop.spawn("probe", probe(hub, instance));
}

}  // namespace baton::proxy
