#include "proxy/request_trace.h"

#include <utility>
#include <vector>

#include "traces/span.h"

namespace baton::proxy {
namespace {

std::string address_of(const Hub& hub, std::optional<router::InstanceId> id) {
  const router::Instance* instance = id ? hub.registry.find(*id) : nullptr;
  return instance == nullptr ? std::string() : instance->address();
}

}  // namespace

RequestTrace::RequestTrace(Hub& hub, http::Request& request, std::string_view path)
    : hub_(hub), begin_(hub.loop.now()), is_on_(hub.spans != nullptr) {
  if (!is_on_) return;
  sender_ = traces::context_of(request.headers);
  place_ = traces::begin_span(sender_);
  traces::put(place_, request.headers);
  path_ = path;
}

void RequestTrace::note(const router::FlowReport& flow) {
  if (!is_on_) return;
  request_id_ = flow.request_id();
  prefill_ = address_of(hub_, flow.prefill_instance());
  decode_ = address_of(hub_, flow.decode_instance());
  times_ = flow.times();
}

RequestTrace::~RequestTrace() {
  if (!is_on_ || !place_.is_sampled()) return;
  const Time end = hub_.loop.now();
  traces::Span whole{.place = place_,
                     .parent = sender_ ? sender_->span : 0,
                     .parent_is_remote = sender_.has_value(),
                     .name = "proxy_request",
                     .kind = traces::SpanKind::kServer,
                     .begin = begin_,
                     .end = end};
  const auto add = [&whole](std::string_view key, std::string value) {
    if (!value.empty()) whole.attributes.push_back({std::string(key), std::move(value)});
  };
  add("http.request.method", "POST");
  add("url.path", path_);
  add(traces::attribute::kRequestId, request_id_);
  add("baton.outcome", outcome_);
  add("baton.prefill_instance", prefill_);
  add("baton.decode_instance", decode_);
  if (outcome_ != "ok") whole.error = outcome_;
  std::vector<traces::Span> spans{whole};
  const auto ask = [&](const char* name, std::optional<Time> from, Time until) {
    if (!from || until < *from) return;
    traces::append_parts(whole, {{name, until - *from}}, *from, spans);
    spans.back().kind = traces::SpanKind::kClient;
  };
  ask("prefill", times_.prefill_asked, times_.prefill_answered.value_or(end));
  ask("decode", times_.decode_asked, end);
  hub_.spans->add(std::move(spans));
}

}  // namespace baton::proxy
