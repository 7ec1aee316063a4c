// What direct and parted answers share: how a visit is counted, the headers of an answer.
#pragma once

#include <string>
#include <string_view>

#include "http/message.h"
#include "http/server.h"
#include "proxy/hub.h"
#include "router/flow.h"

namespace baton::proxy {

inline constexpr std::string_view kEventStream = "text/event-stream; charset=utf-8";

// One client's request while it is served: in flight from here until it goes out of scope, then counted.
class Visit {
 public:
  Visit(Hub& hub, api::HandoverOrder handover_order)
      : order(handover_order), hub_(hub), started_(hub.loop.now()) {
    ++hub_.metrics.requests_in_flight;
  }
  ~Visit() {
    --hub_.metrics.requests_in_flight;
    ++hub_.metrics.outcomes[outcome];
    hub_.metrics.e2e_latency_s.observe(seconds(hub_.loop.now() - started_));
  }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;

  Hub& hub() const { return hub_; }
  Time started() const { return started_; }
  void on_first_byte() { hub_.metrics.time_to_first_byte_s.observe(seconds(hub_.loop.now() - started_)); }

  const api::HandoverOrder order;
  std::string outcome = "client_gone";  // as router::FlowReport::outcome()

 private:
  Hub& hub_;
  Time started_;
};

// X-Request-Id is the client's own name of the request if it has one.
http::Headers answer_headers(const http::Request& request, std::string_view id,
                             std::string_view content_type);
void send(http::ResponseWriter& writer, http::Headers headers, const router::Reply& reply);

}  // namespace baton::proxy
