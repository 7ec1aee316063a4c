#include "proxy/live_request.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include "api/limits.h"

namespace baton::proxy {
namespace json = boost::json;

namespace {

std::string address_of(const Hub& hub, std::optional<router::InstanceId> id) {
  const router::Instance* instance = id ? hub.registry.find(*id) : nullptr;
  return instance == nullptr ? std::string() : instance->address();
}

json::value text_or_null(std::string_view text) {
  return text.empty() ? json::value(nullptr) : json::value(text);
}

std::string waits_for(router::Awaited awaited, const std::string& p, const std::string& d) {
  switch (awaited) {
    case router::Awaited::kRoom:
      return "an instance with room";
    case router::Awaited::kPrefill:
      return "the prefill at " + p;
    case router::Awaited::kReserved:
      return "blocks at " + d;
    case router::Awaited::kAnswer:
      return "the answer of " + d;
    case router::Awaited::kEvents:
      return "events of " + d;
  }
  return {};
}

}  // namespace

LiveRequest::LiveRequest(const Visit& visit, const router::FlowReport& flow, const http::Request& from)
    : visit_(visit), flow_(flow), path_(from.path()) {
  if (const auto id = from.headers.get("X-Request-Id")) client_id_ = id->substr(0, api::kNameBytesMax);
  visit_.hub().live.insert(this);
}

LiveRequest::~LiveRequest() { visit_.hub().live.erase(this); }

std::string render_debug_requests(const Hub& hub) {
  const Time now = hub.loop.now();
  const router::ProgressLimits limits{.queue_timeout = hub.options.queue_timeout,
                                      .prefill_timeout = hub.options.prefill_timeout,
                                      .first_byte_timeout = hub.options.first_byte_timeout};
  json::array requests;
  for (const LiveRequest* live : hub.live) {
    const router::Progress progress =
        progress_of(live->visit_.order, live->flow_.times(), live->visit_.started(), live->begun_, limits);
    const std::string p = address_of(hub, live->flow_.prefill_instance());
    const std::string d = address_of(hub, live->flow_.decode_instance());
    json::object out{{"request_id", live->flow_.request_id()},
                     {"client_id", text_or_null(live->client_id_)},
                     {"path", live->path_},
                     {"age_ms", milliseconds(now - live->visit_.started())},
                     {"phase", phase_of(progress.awaited)},
                     {"waits_for", waits_for(progress.awaited, p, d)},
                     {"since_ms", milliseconds(now - progress.since)},
                     {"until_ms", nullptr},
                     {"prefill", text_or_null(p)},
                     {"decode", text_or_null(d)}};
    if (progress.until != kNever) out["until_ms"] = milliseconds(progress.until - now);
    requests.push_back(std::move(out));
  }
  json::array instances;
  for (const auto& instance : hub.registry.instances()) {
    json::object out{{"address", instance->address()},
                     {"role", router::side_name(instance->side)},
                     {"health", router::health_name(instance->health)},
                     {"in_flight", instance->in_flight},
                     {"baton", instance->identity.has_value()}};
    if (!instance->reason.empty()) out["reason"] = instance->reason;
    instances.push_back(std::move(out));
  }
  return json::serialize(json::object{{"requests", std::move(requests)},
                                      {"instances", std::move(instances)},
                                      {"waiting", hub.registry.queue().size()}});
}

}  // namespace baton::proxy
