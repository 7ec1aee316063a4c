// What the flows of both orders do alike, sans-I/O: a request's wait for room, and its answer once D gives
// one. The shell (proxy/answer_exchange.h) does what a step says, one thing at a time, and reports how it
// went. A flow holds the reservations, so that they are released exactly once however the request ends.
//
//   D's head ─► Relay ─► events ─► its end ─► End
//                 ▲                   │  before the first event: another D, as the order has it, or Reply
//                 │                   │  in the middle
//                 └── AskDecode ◄─────┤  another D goes on where the client's stream stands
//                                     ▼  nobody can
//                                    End, with an error event
//
// Before the client has its first byte, transport failures, answers that are none, 408, 429 and 500 to 599
// are tried again as often as the limits say. After it, what was lost goes on at another D, kResumptionsMax
// times, if D noted what its events said (router/resumption.h); that D computes the prompt and the answer so
// far by itself, P is not asked. A D that gives a request back for want of memory has not failed.
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
#include "router/resumption.h"
#include "router/room_wait.h"

namespace baton::router {

class AnswerFlow : public FlowReport {
 public:
  AnswerFlow(const AnswerFlow&) = delete;
  AnswerFlow& operator=(const AnswerFlow&) = delete;

  // Before start: what is called when there may be room for a request that waits; it must not call the flow.
  void set_wake(std::function<void()> wake) { room_.set_wake(std::move(wake)); }

  virtual Step start(Time now) = 0;
  Step on_pause_done(Time now);
  virtual Step on_room(Time now) = 0;
  Step on_wait_over() { return finish_error(room_.on_over(), "full"); }

  // D's status. For 200 and a stream: on_decode_head. Else the shell reads the body and calls
  // on_decode_whole.
  bool relays(int status) const { return status == 200 && client_.stream; }
  // D's answer says that it computed the prompt itself (api::kKvUnusedHeader). Before the next two.
  virtual void on_kv_unused() {}
  virtual Step on_decode_head() { return Relay{}; }
  Step on_decode_whole(Result<UpstreamAnswer> answer, Time now);

  // While relaying: appends what the client gets for one event of D. `raw` is the event with its blank line,
  // `data` its data.
  virtual void on_event(std::string_view raw, std::string_view data, std::string& out) = 0;
  // What D sends is no answer: its stream need not be read to the end.
  bool is_broken() const { return is_broken_; }
  // The event is kept until resume() has appended it; no further one is given meanwhile.
  virtual bool waits() const { return false; }
  virtual Result<void> resume(std::string& /*out*/) { return {}; }
  // D's stream ended, well or not.
  Step on_stream_end(const Result<void>& end, Time now);

  // The client left, or the shell gives up. What is still running upstream is closed by the shell.
  virtual void on_client_gone() = 0;

  // Whom to tell what; empty after the call.
  std::vector<Cleanup> take_cleanups() { return std::exchange(cleanups_, {}); }

  // X-Request-Id for instances; another whenever something begins again, so that a late abort of what was
  // left ends nothing else.
  const std::string& request_id() const override { return request_id_; }
  const ClientBody& client() const { return client_; }
  std::optional<InstanceId> prefill_instance() const override { return p_instance_; }
  std::optional<InstanceId> decode_instance() const override { return d_instance_; }
  const std::string& outcome() const override { return outcome_; }  // for metrics: "ok", "p_failed", ...
  // Of a part: the data of its stream's event with the usage; empty if there was none.
  std::string_view usage_event() const override {
    return merger_ ? std::string_view(merger_->usage_event()) : std::string_view();
  }
  bool has_failed() const override { return saw_error_ || outcome_ == "d_failed"; }
  const FlowTimes& times() const override { return times_; }
  bool has_begun() const { return begun_; }  // the client has an event
  uint32_t retries() const { return retries_; }
  uint32_t resumptions() const { return resumptions_; }

 protected:
  // `request_id` goes to P and D as X-Request-Id. `seed` counts where the client sent none.
  AnswerFlow(Registry& registry, FlowLimits limits, ClientBody client, std::string request_id, uint64_t seed)
      : registry_(registry),
        limits_(limits),
        client_(std::move(client)),
        first_id_(std::move(request_id)),
        request_id_(first_id_),
        seed_(seed),
        demand_(registry.demand_of(client_)),
        room_(registry.queue(), limits.queue_timeout) {}

  // The order's own part of what is public above, while nothing has gone out to the client.
  virtual Step after_pause(Time now) = 0;
  virtual Step decode_whole(Result<UpstreamAnswer> answer, Time now) = 0;
  // The end of a flow: P's part of the work is not wanted any more.
  virtual void let_go_of_prefill() = 0;
  // Another D goes on, with what it is sent alone.
  virtual void on_going_on() {}

  Step wait_for_room(Time now, std::string why);
  AskDecode ask_decode(std::string body, Time now);
  // Appends what the client gets; `note` as in HeardEvent.
  void forward(const HeardEvent& event, std::string_view data, std::string& out);
  void finish(std::string outcome);
  Reply finish(Reply reply, std::string outcome);
  Reply finish_error(const Error& error, std::string outcome);
  void abort_at(InstanceId instance, std::string id);

  Registry& registry_;
  FlowLimits limits_;
  ClientBody client_;
  std::string first_id_;
  std::string request_id_;
  uint64_t seed_;
  Demand demand_;
  RoomWait room_;

  bool is_over_ = false;
  uint32_t retries_ = 0;
  Reservation p_;
  Reservation d_;
  std::optional<InstanceId> p_instance_;
  std::optional<InstanceId> d_instance_;
  std::vector<InstanceId> avoid_;
  std::vector<Cleanup> cleanups_;
  std::string outcome_;
  FlowTimes times_;

  std::optional<EventMerger> merger_;
  bool begun_ = false;       // the client has something of D's stream ...
  bool has_answer_ = false;  // ... and something of an answer
  bool is_broken_ = false;
  bool saw_done_ = false;
  bool saw_error_ = false;

 private:
  Step decode_empty(const Result<void>& end, Time now);
  Step decode_broken(Time now);
  Step resumption_failed(Result<UpstreamAnswer> answer, Time now);
  Step lost(Error why, Time now);
  Step given_back(Time now);
  Step go_on(const std::vector<InstanceId>& avoid, Time now);
  Step end_with_error(bool may_retry);

  std::string d_address_;
  // Who D is, if it notes what it says.
  std::optional<api::InstanceIdentity> d_identity_;
  Resumption resumption_;
  bool was_given_back_ = false;  // D's stream ends with that
  uint32_t resumptions_ = 0;
  int32_t losses_ = 0;
  int32_t returns_ = 0;  // since the last event
  Error why_;            // D was lost last
};

}  // namespace baton::router
