// A client's request as spans (traces/span.h): one for its time at the proxy, below the client's own, and one
// below that for each instance that was asked. Instances are told the first as their parent, so proxy, P and
// D are one trace. io thread.
#pragma once

#include <optional>
#include <string>

#include "base/clock.h"
#include "http/message.h"
#include "proxy/hub.h"
#include "router/flow.h"
#include "traces/trace_context.h"

namespace baton::proxy {

class RequestTrace {
 public:
  // Changes nothing without --otlp-traces-endpoint. Else `request`, from which the headers of requests to
  // instances are taken, has this span as its sender's from now on.
  RequestTrace(Hub& hub, http::Request& request, std::string_view path);
  // Hands the spans over.
  ~RequestTrace();
  RequestTrace(const RequestTrace&) = delete;
  RequestTrace& operator=(const RequestTrace&) = delete;

  // How the request went, once that is known.
  void note(const router::FlowReport& flow);
  void set_outcome(std::string outcome) { outcome_ = std::move(outcome); }

 private:
  Hub& hub_;
  Time begin_;
  bool is_on_ = false;
  std::optional<traces::TraceContext> sender_;
  traces::TraceContext place_;
  std::string path_;
  std::string request_id_;
  std::string prefill_;  // addresses; empty: nobody
  std::string decode_;
  std::string outcome_ = "client_gone";
  router::FlowTimes times_;
};

}  // namespace baton::proxy
