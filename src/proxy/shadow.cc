#include "proxy/shadow.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/ids.h"
#include "base/log.h"

namespace baton::proxy {
namespace {

constexpr Duration kRecordTimeout = std::chrono::seconds(30);

bool hub_goes(const Error& error) { return error.code == Code::kCancelled; }

http::Awaitable<void> ask_for_record(Hub& hub, std::string address, std::string request_id,
                                     http::ClientRequest ask) {
  const auto answer = co_await hub.client.request(std::move(ask));
  if (!answer && hub_goes(answer.error())) co_return;
  const bool is_there = answer && answer->status == 200;
  log_error("proxy",
            fmt::format("parity: {}: flight record of {}: {}", request_id, address,
                        is_there ? answer->body.substr(0, 512)
                        : answer ? fmt::format("POST /debug/record answers {}, expected 200", answer->status)
                                 : answer.error().message));
}

}  // namespace

bool Shadows::takes(const router::ClientBody& client, std::string_view request_id) const {
  return router::is_sampled(request_id, hub_.options.shadow) &&
         router::can_be_shadowed(client, hub_.registry);
}

void Shadows::add(const http::Request& request, router::Route route, const router::FlowReport& flow,
                  api::Receipt claimed) {
  const auto client = router::read_client_body(route, request.body);
  const bool fits = client && jobs_.size() < kShadowsWaitingMax &&
                    std::cmp_less_equal(claimed.prompts.front().tokens.count, router::kShadowPromptTokensMax);
  if (!fits) {
    ++hub_.metrics.parity_skipped;
    return;
  }
  ShadowJob job{.request_id = flow.request_id(),
                .route = route,
                .body = router::shadow_body(*client, claimed, random_id<HandoverId>().hex()),
                .headers = hub_.upstream_headers(&request, flow.request_id() + "-shadow"),
                .claimed = std::move(claimed),
                .had_part = {}};
  for (const char* name : {"traceparent", "tracestate"}) job.headers.remove(name);
  for (const auto& id : {flow.prefill_instance(), flow.decode_instance()})
    if (id) job.had_part.push_back(*id);
  jobs_.push_back(std::move(job));
  news_.notify();
}

http::Awaitable<void> Shadows::run() {
  while (true) {
    if (jobs_.empty()) {
      const auto woken = co_await news_.wait();
      if (!woken) co_return;
      continue;
    }
    ShadowJob job = std::move(jobs_.front());
    const Verdict verdict = co_await check(job);
    if (verdict == Verdict::kHubGoes) co_return;
    jobs_.pop_front();  // it counted as waiting until now
    if (verdict == Verdict::kSkipped) ++hub_.metrics.parity_skipped;
  }
}

http::Awaitable<Shadows::Verdict> Shadows::check(ShadowJob& job) {
  const Time begun = hub_.loop.now();
  std::optional<router::InstanceId> place;
  while (!(place = router::shadow_place(hub_.registry, job.claimed, job.had_part))) {
    if (hub_.loop.now() - begun > kShadowPatience) co_return Verdict::kSkipped;
    const auto woken = co_await news_.wait_for(kShadowPause);
    if (!woken && hub_goes(woken.error())) co_return Verdict::kHubGoes;
  }
  const router::Instance* instance = hub_.registry.find(*place);
  http::ClientRequest ask{.to = hub_.address_of(*instance),
                          .method = "POST",
                          .target = std::string(router::route_path(job.route)),
                          .headers = std::move(job.headers),
                          .body = std::move(job.body),
                          .head_timeout = hub_.options.first_byte_timeout,
                          .idle_timeout = hub_.options.idle_timeout};
  const auto answer = co_await hub_.client.request(std::move(ask));
  if (!answer && hub_goes(answer.error())) co_return Verdict::kHubGoes;
  if (!answer || answer->status != 200) co_return Verdict::kSkipped;
  const auto again = api::parse_receipt(answer->body);
  if (!again) co_return Verdict::kSkipped;
  compare(job, *place, *again);
  co_return Verdict::kChecked;
}

void Shadows::compare(const ShadowJob& job, router::InstanceId place, const api::Receipt& again) {
  ++hub_.metrics.parity_checked;
  const auto difference = api::first_difference(job.claimed, again, {"in the answer", "recomputed"});
  if (!difference) return;
  ++hub_.metrics.parity_mismatches;
  std::string who;
  for (const router::InstanceId id : job.had_part) {
    const router::Instance* instance = hub_.registry.find(id);
    if (instance != nullptr) who += fmt::format("{}{}", who.empty() ? "" : ", ", instance->address());
  }
  const router::Instance* other = hub_.registry.find(place);
  log_error("proxy", fmt::format("parity: {} answered by {} and recomputed as {}-shadow by {}: {}",
                                 job.request_id, who, job.request_id,
                                 other == nullptr ? "an instance that left" : other->address(), *difference));
  ask_for_records(job, place);
}

// Of everybody who computed: what their engines did is in their recorders still.
void Shadows::ask_for_records(const ShadowJob& job, router::InstanceId place) {
  std::vector<router::InstanceId> all = job.had_part;
  if (std::ranges::find(all, place) == all.end()) all.push_back(place);
  for (const router::InstanceId id : all) {
    const router::Instance* instance = hub_.registry.find(id);
    if (instance == nullptr) continue;
    http::ClientRequest ask{.to = hub_.address_of(*instance),
                            .method = "POST",
                            .target = "/debug/record",
                            .headers = {},
                            .body = {},
                            .head_timeout = kRecordTimeout,
                            .idle_timeout = kRecordTimeout};
    if (!hub_.options.admin_key.empty()) ask.headers.add("Authorization", "Bearer " + hub_.options.admin_key);
    hub_.loop.spawn("record", ask_for_record(hub_, instance->address(), job.request_id, std::move(ask)));
  }
}

}  // namespace baton::proxy
