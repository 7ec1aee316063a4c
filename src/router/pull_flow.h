// One request's way through the pull order, sans-I/O: the shell does what the flow says, one thing at a time,
// and reports how it went. The flow chooses instances, rewrites bodies, decides what is tried again and what
// the client is told; it holds the reservations, so that they are released exactly once however the request
// ends.
//
// A request for which no instance has room waits in the registry's queue first; when the queue is full, and
// when its wait is over, it is a 429 with Retry-After and nothing was spent on it.
//
// Where the prompt is computed is decided first (router/placement.h): a request whose D computes it goes
// straight to AskDecode, and so does one for which no P is left, if there is a Baton D.
//
//   start ─► AskPrefill ─► on_prefill ─► AskDecode ─► on_decode_head ─► Relay ─► events ─► end
//              │  failed: another P, after a pause                │  failed before the first byte: another D,
//              ▼                                                  ▼  from a new prefill if the KV is lost
//            Reply (the true status)                            Reply
//
// Tried again: transport failures, answers that are none, 408, 429, 500 to 599, as often as the limits say.
// Never: other 4xx, a 500 that says that the request is wrong, and nothing after the client has received a
// byte. A forced tool call that a foreign P fails on goes to D alone. A request whose P says that the answer
// ended with its first token needs no hand-over.
//
// A flow of one part of a client's request (ClientBody::part) numbers its choices as the whole answer does,
// and keeps the usage and [DONE] to itself: they are said once, by whoever joins the parts.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "router/bodies.h"
#include "router/flow.h"
#include "router/registry.h"
#include "router/rendezvous.h"
#include "router/room_wait.h"

namespace baton::router {

class PullFlow final : public FlowReport {
 public:
  // `request_id` goes to P and D as X-Request-Id, with a suffix when it all begins again. `seed` counts where
  // the client sent none.
  PullFlow(Registry& registry, FlowLimits limits, ClientBody client, std::string request_id, uint64_t seed)
      : registry_(registry),
        limits_(limits),
        client_(std::move(client)),
        first_id_(std::move(request_id)),
        request_id_(first_id_),
        seed_(seed),
        demand_(registry.demand_of(client_)),
        room_(registry.queue(), limits.queue_timeout) {}

  // Before start: what is called when there may be room for a request that waits; it must not call the flow.
  void set_wake(std::function<void()> wake) { room_.set_wake(std::move(wake)); }

  Step start(Time now);
  Step on_pause_done(Time now);
  Step on_room(Time now) { return begin_prefill(now); }
  Step on_wait_over();
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

  const std::string& request_id() const override { return request_id_; }
  const ClientBody& client() const { return client_; }
  std::optional<InstanceId> prefill_instance() const override { return p_instance_; }  // that prefilled
  std::optional<InstanceId> decode_instance() const override { return d_instance_; }   // that decodes
  const std::string& outcome() const override { return outcome_; }  // for metrics: "ok", "p_failed", ...
  // Of a part: the data of its stream's event with the usage; empty if there was none.
  std::string_view usage_event() const override {
    return merger_ ? std::string_view(merger_->usage_event()) : std::string_view();
  }
  bool has_failed() const override { return saw_error_ || outcome_ == "d_failed"; }
  const FlowTimes& times() const override { return times_; }
  uint32_t retries() const { return retries_; }

 private:
  enum class Stage : uint8_t { kPrefill, kDecode, kOver };
  Step begin_prefill(Time now);
  Step wait_for_room(Time now, std::string why);
  Step begin_decode(Time now);
  Step decode_alone(Time now);
  Step decode_alone(Placed placed, Time now);
  Step without_prefill(Reply reply, std::string outcome, Time now);
  Step ask_decode(Reservation d, Time now);
  void begin_round();
  Step finish_with_prefill();
  Step again(Stage stage, const Error& error, Time now);
  Step finish(Reply reply, std::string outcome);
  Step finish_error(const Error& error, std::string outcome);
  void abandon_held();
  void abort_at(InstanceId instance, std::string id);

  Registry& registry_;
  FlowLimits limits_;
  ClientBody client_;
  std::string first_id_;
  std::string
      request_id_;  // another with each prefill, so that a late abort of one that was left ends no other
  uint64_t seed_;
  Demand demand_;
  RoomWait room_;

  Stage stage_ = Stage::kPrefill;
  Stage after_pause_ = Stage::kPrefill;
  int32_t rounds_ = 0;     // of everything: prefills, and D's that compute the prompt
  bool is_alone_ = false;  // D computes the prompt in this round
  bool learns_ = false;    // ... and has not said yet how long it is
  int32_t prefill_attempts_ = 0;
  int32_t decode_attempts_ = 0;
  uint32_t retries_ = 0;
  Reservation p_;
  Reservation d_;
  std::optional<InstanceId> p_instance_;
  std::optional<InstanceId> d_instance_;
  std::vector<InstanceId> avoid_;
  std::optional<Rendezvous> rendezvous_;  // with a P whose answer does not name its KV
  std::optional<PrefillAnswer> held_;     // P's answer whose KV waits
  std::optional<EventMerger> merger_;
  bool kv_taken_ = false;
  bool saw_done_ = false;
  bool saw_error_ = false;
  std::vector<Cleanup> cleanups_;
  std::string outcome_;
  FlowTimes times_;
};

}  // namespace baton::router
