// One request's way through the pull order, sans-I/O: the shell does what the flow says, one thing at a time,
// and reports how it went. The flow chooses instances, rewrites bodies, decides what is tried again and what
// the client is told; it holds the reservations, so that they are released exactly once however the request
// ends.
//
//   start ─► AskPrefill ─► on_prefill ─► AskDecode ─► on_decode_head ─► Relay ─► events ─► end
//              │  failed: another P, after a pause                │  failed before the first byte: another D,
//              ▼                                                  ▼  from a new prefill if the KV is lost
//            Reply (the true status)                            Reply
//
// Tried again: transport failures, answers that are none, 408, 429, 500 to 599, as often as the limits say.
// Never: other 4xx, and nothing after the client has received a byte. Lists of prompts and requests whose P
// says that the answer ended with its first token need no hand-over.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "router/bodies.h"
#include "router/registry.h"

namespace baton::router {

struct FlowLimits {
  int32_t attempts = 3;             // of each stage, at least 1
  Duration retry_delay{1'000'000};  // doubles with each attempt
  Duration retry_delay_max = std::chrono::seconds(1);
};

// The one thing to do next.
struct AskPrefill {
  InstanceId instance{};
  std::string body;
};
struct AskDecode {
  InstanceId instance{};
  std::string body;
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
using Step = std::variant<AskPrefill, AskDecode, Pause, Reply, Relay>;

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

class PullFlow {
 public:
  // `request_id` goes to P and D as X-Request-Id. `seed` counts where the client sent none.
  PullFlow(Registry& registry, FlowLimits limits, ClientBody client, std::string request_id, uint64_t seed)
      : registry_(registry),
        limits_(limits),
        client_(std::move(client)),
        request_id_(std::move(request_id)),
        seed_(seed) {}

  Step start();
  Step on_pause_done();
  Step on_prefill(Result<UpstreamAnswer> answer, Time now);
  // D's status. For 200 and a stream: Relay. Else the shell reads the body and calls on_decode_whole.
  bool relays(int status) const { return status == 200 && client_.stream; }
  // D's answer says that it computed the prompt itself (api::kKvUnusedHeader): P is told to let go. Before
  // on_decode_head or on_decode_whole.
  void on_kv_unused() { abandon_held(); }
  Step on_decode_head();  // relays() held
  Step on_decode_whole(Result<UpstreamAnswer> answer, Time now);
  // Instead of any on_event: the stream ended, well or not, before there was anything to forward.
  Step on_decode_empty(const Result<void>& end, Time now);

  // While relaying: appends what the client gets for one event of D. `raw` is the event with its blank line,
  // `data` its data.
  void on_event(std::string_view raw, std::string_view data, std::string& out);
  // D's stream ended. Without [DONE] or after a failure the client gets an error event.
  void on_stream_end(const Result<void>& end, Time now, std::string& out);

  // The client left, or the shell gives up. What is still running upstream is closed by the shell.
  void on_client_gone();

  // Whom to tell what; empty after the call.
  std::vector<Cleanup> take_cleanups();

  const std::string& request_id() const { return request_id_; }
  const ClientBody& client() const { return client_; }
  std::optional<InstanceId> prefill_instance() const { return p_instance_; }  // that prefilled
  std::optional<InstanceId> decode_instance() const { return d_instance_; }   // that decodes
  const std::string& outcome() const { return outcome_; }  // for metrics: "ok", "p_failed", ...
  uint32_t retries() const { return retries_; }

 private:
  enum class Stage : uint8_t { kPrefill, kDecode, kOver };
  Step begin_prefill();
  Step begin_decode();
  Step again(Stage stage, const Error& error);
  Step finish(Reply reply, std::string outcome);
  Step finish_error(const Error& error, std::string outcome);
  void abandon_held();
  void abort_at(InstanceId instance, std::string id);
  Error named(InstanceId instance, const Error& error) const;
  bool is_baton(InstanceId id) const;

  Registry& registry_;
  FlowLimits limits_;
  ClientBody client_;
  std::string request_id_;
  uint64_t seed_;

  Stage stage_ = Stage::kPrefill;
  Stage after_pause_ = Stage::kPrefill;
  int32_t prefill_attempts_ = 0;
  int32_t decode_attempts_ = 0;
  uint32_t retries_ = 0;
  Reservation p_;
  Reservation d_;
  std::optional<InstanceId> p_instance_;
  std::optional<InstanceId> d_instance_;
  std::vector<InstanceId> avoid_;
  std::optional<PrefillAnswer> held_;  // P's answer whose KV waits
  std::optional<EventMerger> merger_;
  bool kv_taken_ = false;
  bool saw_done_ = false;
  bool saw_error_ = false;
  std::vector<Cleanup> cleanups_;
  std::string outcome_;
};

}  // namespace baton::router
