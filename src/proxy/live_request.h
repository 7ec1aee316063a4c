// GET /debug/requests of the proxy: what runs now and what each request waits for. io thread.
#pragma once

#include <optional>
#include <string>

#include "base/clock.h"
#include "http/message.h"
#include "proxy/answer.h"
#include "router/flow.h"
#include "router/progress.h"

namespace baton::proxy {

// One flow while it runs: listed in its hub from here until it goes out of scope. `flow` and `visit` outlive
// it.
class LiveRequest {
 public:
  LiveRequest(const Visit& visit, const router::FlowReport& flow, const http::Request& from);
  ~LiveRequest();
  LiveRequest(const LiveRequest&) = delete;
  LiveRequest& operator=(const LiveRequest&) = delete;

  void on_first_byte() {
    if (!begun_) begun_ = visit_.hub().loop.now();
  }

 private:
  friend std::string render_debug_requests(const Hub& hub);

  const Visit& visit_;
  const router::FlowReport& flow_;
  std::string client_id_;  // the client's own X-Request-Id
  std::string path_;
  std::optional<Time> begun_;
};

// {"requests": [...], "instances": [...], "waiting": N}. Times are milliseconds before or after now.
std::string render_debug_requests(const Hub& hub);

}  // namespace baton::proxy
