// What a flow and its shell say to each other. A flow is one request's way through the instances as a
// function of what happened; the shell (proxy/answer_exchange.h) does what the flow says, one step at a time,
// and reports how it went.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "router/registry.h"
#include "router/timings.h"

namespace baton::router {

struct FlowLimits {
  int32_t attempts = 3;             // of each stage, at least 1
  Duration retry_delay{1'000'000};  // doubles with each attempt
  Duration retry_delay_max = std::chrono::seconds(1);
  Duration queue_timeout = std::chrono::seconds(30);  // of a wait for an instance with room
};

// The one thing to do next.
struct AskPrefill {
  InstanceId instance{};
  std::string body;
  std::optional<int32_t> data_parallel_rank =
      {};  // X-data-parallel-rank, of a P that has several (router/rendezvous.h)
};
struct AskDecode {
  InstanceId instance{};
  std::string body;
  bool notes = false;  // D shall note what its events say (api::kResumeHeader)
};
struct Pause {
  Duration duration{0};
};
// The answer to the client; the request is over.
struct Reply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::string retry_after = {};  // the header of that name, an instance's own where it gave one; empty: none
};
// D answers 200 to a streaming request: forward its events.
struct Relay {};
// What is left of the stream whose events the client has; the request is over.
struct End {
  std::string events = {};
};
// Layer-wise order: D's answer is here, P's is not: go on with on_prefill_over.
struct AwaitPrefill {};
// The chosen instances hold the KV of one choice only: the request has to be split into its choices
// (router/parts.h). Nothing was asked of anybody.
struct Split {};
// Every instance is full, the request has a place in the registry's queue: until the flow's wake is called
// (on_room), at most this long (on_wait_over).
struct Wait {
  Duration duration{0};
};
using Step = std::variant<AskPrefill, AskDecode, Pause, Reply, Relay, AwaitPrefill, Split, Wait, End>;

// What P or D must be told after the request went another way: its part of the work is not wanted.
struct Cleanup {
  InstanceId instance{};
  std::string host;  // its address: with the last reservation a draining instance leaves the registry
  uint16_t port = 0;
  std::vector<std::string> ids;  // for /abort_request of a Baton instance
  // A P that is no Baton instance knows no /abort_request: D is given the hand-over and left at once, so that
  // it tells P by itself.
  std::string decode_body;
};

// How an upstream exchange ended.
struct UpstreamAnswer {
  int status = 0;
  std::string body;
  std::string retry_after = {};  // as in Reply
};

// What the receiver of an answer may ask the flow that makes it.
class FlowReport {
 public:
  virtual ~FlowReport() = default;
  virtual const std::string& request_id() const = 0;
  virtual std::optional<InstanceId> prefill_instance() const = 0;  // that prefilled
  virtual std::optional<InstanceId> decode_instance() const = 0;   // that decodes
  virtual const std::string& outcome() const = 0;                  // for metrics: "ok", "p_failed", ...
  virtual bool has_failed() const = 0;
  // Of a part: the data of its stream's event with usage or receipt; empty if there was none.
  virtual std::string_view usage_event() const = 0;
  virtual const FlowTimes& times() const = 0;
};

}  // namespace baton::router
