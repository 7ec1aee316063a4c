#include "proxy/metaserver.h"

#include <fmt/format.h>

#include "api/json.h"
#include "proxy/layerwise_exchange.h"

namespace baton::proxy {
namespace {

constexpr std::string_view kJson = "application/json";

void refuse(http::ResponseWriter& writer, int status, std::string_view detail) {
  std::string body = R"({"detail":)";
  api::append_json_string(body, detail);
  writer.send(status, kJson, body + "}");
}

}  // namespace

http::Awaitable<void> answer_metaserver(Hub& hub, http::Request& request, http::ResponseWriter& writer) {
  if (request.body.size() > router::kMetaserverPostBytesMax) {
    refuse(
        writer, 413,
        fmt::format("{} bytes, expected at most {}", request.body.size(), router::kMetaserverPostBytesMax));
    co_return;
  }
  const auto post = router::read_metaserver_post(request.body);
  if (!post) {
    refuse(writer, 400, post.error().message);
    co_return;
  }
  const auto waiting = hub.reservations.find(post->request_id);
  if (waiting == hub.reservations.end()) {
    refuse(writer, 404, fmt::format("request_id: nobody waits for {}", post->request_id));
    co_return;
  }
  const router::PostVerdict verdict = waiting->second->on_post(*post, request.peer);
  const std::shared_ptr<PrefillRun> run = waiting->second->prefill_run();
  if (verdict.status != 200 || !run) {
    refuse(writer, verdict.status == 200 ? 502 : verdict.status, verdict.detail);
    co_return;
  }
  // The exchange may end meanwhile, and the run with it.
  const auto ended = co_await PrefillRun::wait(run, std::nullopt);
  if (!ended) co_return;
  if (run->over().ok) {
    writer.send(200, kJson, R"({"status":"ok"})");
  } else {
    refuse(writer, 502, run->over().detail);
  }
}

}  // namespace baton::proxy
