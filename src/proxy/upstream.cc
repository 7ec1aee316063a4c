#include "proxy/upstream.h"

#include <fmt/format.h>

#include <utility>

#include "api/json.h"
#include "base/log.h"

namespace baton::proxy {
namespace {

constexpr Duration kCleanupTimeout = std::chrono::seconds(2);

http::Awaitable<void> clean_up(Hub& hub, router::Cleanup cleanup, http::ClientRequest request) {
  if (cleanup.decode_body.empty()) {
    const auto told = co_await hub.client.request(std::move(request));
    if (!told)
      log_warning("proxy",
                  fmt::format("abort of {}: {}", fmt::join(cleanup.ids, ", "), told.error().message));
    co_return;
  }
  // D reads the request and finds its client gone: it gives the hand-over back to P by itself.
  const auto opened = co_await hub.client.open(std::move(request));
}

}  // namespace

router::FlowLimits flow_limits(const options::ProxyOptions& options) {
  return {.attempts = options.attempts,
          .retry_delay = options.retry_delay,
          .queue_timeout = options.queue_timeout};
}

std::string retry_after(const http::Headers& headers) {
  const auto value = headers.get("Retry-After");
  return std::string(value && http::is_field_value(*value) ? *value : std::string_view());
}

void start_cleanups(Hub& hub, std::vector<router::Cleanup> cleanups, const std::string& request_id,
                    router::Route route) {
  for (router::Cleanup& cleanup : cleanups) {
    http::ClientRequest request{.to = {cleanup.host, cleanup.port},
                                .method = "POST",
                                .headers = hub.upstream_headers(nullptr, request_id),
                                .body = {},
                                .head_timeout = kCleanupTimeout,
                                .idle_timeout = kCleanupTimeout};
    if (cleanup.decode_body.empty()) {
      if (!hub.options.admin_key.empty())
        request.headers.set("Authorization", "Bearer " + hub.options.admin_key);
      request.target = "/abort_request";
      request.body = R"({"request_id":[)";
      for (size_t i = 0; i < cleanup.ids.size(); ++i) {
        if (i > 0) request.body += ',';
        api::append_json_string(request.body, cleanup.ids[i]);
      }
      request.body += "]}";
    } else {
      request.target = router::route_path(route);
      request.body = cleanup.decode_body;
    }
    hub.loop.spawn("cleanup", clean_up(hub, std::move(cleanup), std::move(request)));
  }
}

}  // namespace baton::proxy
