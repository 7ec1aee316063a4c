// One request's way through the layer-wise order, sans-I/O. D is asked first; once it has reserved blocks it
// posts to the metaserver, that is, to the proxy, which only then sends the prompt to a P. Two things go on
// at once, so there are two threads of steps: D's, which ends with the client's answer, and P's, which a post
// begins and which ends with the metaserver's reply.
//
// Where the prompt is computed is decided first (router/placement.h): a request whose D computes it names no
// metaserver, and neither does one for which every P is down, if there is a Baton D.
//
// A request for which no instance has room waits in the registry's queue first, as in the pull order.
//
//   start ─► AskDecode ──────────────────────────► on_decode_head ─► Relay ─► events ─► end
//              │  failed before the first byte:        │ whole: on_decode_whole ─► Reply
//              ▼  another D, under another name        ▼
//            Pause, Reply (the true status)          AwaitPrefill, where P's part of the answer is not here
//            yet
//
//   on_post ─► AskPrefill ─► on_prefill ─► PrefillOver (the metaserver's reply: 200, or 502 with the reason)
//                 │  failed: another P, after a pause, while D has not begun to answer
//                 ▼
//               Pause
//
// A post must name the request that the chosen D was given, and come from that D. If no P can be had, a Baton
// D computes the prompt itself; one that is none would wait for ever, so it is left and the client gets P's
// status. The same rules as in the pull order say what is tried again and that nothing is after the first
// byte.
//
// P's answer has the prompt's logprobs and cached_tokens: what D says about them waits for it. If D needed
// nobody (it had the whole prompt) and the client asked for the prompt's logprobs, P is asked for them
// without a hand-over. Lists of prompts, and n > 1 on a D that is no Baton instance, are computed by D alone.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "router/bodies.h"
#include "router/flow.h"
#include "router/layerwise_bodies.h"
#include "router/registry.h"
#include "router/room_wait.h"

namespace baton::router {

// P's part is over: what the metaserver replies.
struct PrefillOver {
  bool ok = false;
  std::string detail = {};  // why not
};
using PrefillStep = std::variant<AskPrefill, Pause, PrefillOver>;

// D's answer is here, P's is not: go on with on_prefill_over.
struct AwaitPrefill {};
using LayerwiseStep = std::variant<AskDecode, Pause, Reply, Relay, AwaitPrefill, Split, Wait>;

// What becomes of a post.
struct PostVerdict {
  // 404: nobody waits for it; 403: it comes from somebody else; 502: too late; 200: it is taken.
  int status = 200;
  std::string detail = {};
  std::optional<PrefillStep> begins = {};  // P's first step; nothing: the post joins what is there already
};

class LayerwiseFlow final : public FlowReport {
 public:
  // Where an instance reaches this proxy's metaserver.
  using MetaserverUrl = std::function<std::string(const Instance& d)>;

  // How long the end of an answer waits for P's cached_tokens and timings, which arrive with D's first token
  // or not at all.
  static constexpr Duration kUsageWait = std::chrono::milliseconds(500);

  LayerwiseFlow(Registry& registry, FlowLimits limits, ClientBody client, std::string request_id,
                uint64_t seed, MetaserverUrl metaserver)
      : registry_(registry),
        limits_(limits),
        client_(std::move(client)),
        first_id_(std::move(request_id)),
        seed_(seed),
        metaserver_(std::move(metaserver)),
        demand_(registry.demand_of(client_)),
        room_(registry.queue(), limits.queue_timeout) {}

  // Before start: what is called when there may be room for a request that waits; it must not call the flow.
  void set_wake(std::function<void()> wake) { room_.set_wake(std::move(wake)); }

  // ---- D ----

  LayerwiseStep start(Time now) { return begin_decode(now); }
  LayerwiseStep on_pause_done(Time now) { return begin_decode(now); }
  LayerwiseStep on_room(Time now) { return begin_decode(now); }
  LayerwiseStep on_wait_over() { return finish_error(room_.on_over(), "full"); }
  bool relays(int status) const { return status == 200 && client_.stream; }
  LayerwiseStep on_decode_head();  // relays() held
  LayerwiseStep on_decode_whole(Result<UpstreamAnswer> answer, Time now);
  // Instead of any on_event: the stream ended, well or not, before there was anything to forward.
  LayerwiseStep on_decode_empty(const Result<void>& end, Time now);
  // After AwaitPrefill, once P's part is over.
  LayerwiseStep on_prefill_over(Time now);

  // While relaying: as in PullFlow. An event that needs P's answer is kept, and waits() holds until resume()
  // has appended it; no further event is given meanwhile.
  void on_event(std::string_view raw, std::string_view data, std::string& out);
  bool waits() const { return held_.has_value(); }
  // kUnavailable: what the client asked about the prompt cannot be had; nothing was appended, the shell goes
  // on with on_decode_empty.
  Result<void> resume(std::string& out);
  void on_stream_end(const Result<void>& end, Time now, std::string& out);

  // P's failure ends this request although D has not answered: the shell closes D's exchange, whose end gives
  // the reply.
  bool gives_up_decode() const { return fatal_.has_value(); }

  // ---- P ----

  // `peer_may_be_d`: whether the post's sender has D's address, as far as one can know.
  PostVerdict on_post(const MetaserverPost& post, bool peer_may_be_d, Time now);
  PrefillStep on_prefill(Result<UpstreamAnswer> answer, Time now);
  PrefillStep on_prefill_pause_done(Time now);
  // While D's thread awaits P: what P must be asked for it, if nobody does so yet.
  std::optional<PrefillStep> prefill_for_prompt(Time now);
  // How long D's thread waits for P: nothing where it must, else until on_prefill_late().
  std::optional<Duration> prefill_wait() const;
  void on_prefill_late();

  // ---- both ----

  // The client left, or the shell gives up. What is still running upstream is closed by the shell.
  void on_client_gone();
  // Whom to tell what; empty after the call.
  std::vector<Cleanup> take_cleanups() { return std::exchange(cleanups_, {}); }

  // X-Request-Id for D and P; another in each round, so that a late post of a D that was left finds nobody.
  const std::string& request_id() const override { return request_id_; }
  // The name that the post of this round must have; empty if none is expected.
  std::string post_id() const;
  const ClientBody& client() const { return client_; }
  std::optional<InstanceId> prefill_instance() const override { return p_instance_; }
  std::optional<InstanceId> decode_instance() const override { return d_instance_; }
  const std::string& outcome() const override { return outcome_; }
  bool has_failed() const override { return saw_error_ || outcome_ == "d_failed"; }
  std::string_view usage_event() const override {
    return merger_ ? std::string_view(merger_->usage_event()) : std::string_view();
  }
  const FlowTimes& times() const override { return times_; }
  uint32_t retries() const { return retries_; }

 private:
  enum class Part : uint8_t { kNone, kRunning, kHere, kFailed };  // P's
  struct HeldEvent {
    std::string raw;
    std::string data;
  };

  LayerwiseStep begin_decode(Time now);
  LayerwiseStep wait_for_room(Time now, std::string why);
  LayerwiseStep ask_decode(Reservation d, bool is_alone, Time now);
  LayerwiseStep decode_again(const Error& error);
  LayerwiseStep settle_whole(Time now);
  PrefillStep begin_prefill(Time now);
  PrefillStep prefill_again(UpstreamAnswer answer, std::string detail);
  PrefillStep prefill_failed(Reply reply, std::string detail);
  PrefillStep over(bool ok, std::string detail);
  void stop_prefill();
  bool asks_prompt_part() const;
  bool lacks_prompt(std::string_view answer) const;
  bool must_wait(std::string_view data) const;
  void forward(std::string_view raw, std::string_view data, std::string& out);
  Reply finish(Reply reply, std::string outcome);
  Reply finish_error(const Error& error, std::string outcome);
  void abort_at(InstanceId instance);

  Registry& registry_;
  FlowLimits limits_;
  ClientBody client_;
  std::string first_id_;
  uint64_t seed_;
  MetaserverUrl metaserver_;
  Demand demand_;
  RoomWait room_;

  bool is_over_ = false;
  uint32_t retries_ = 0;
  std::vector<InstanceId> avoid_;
  std::vector<Cleanup> cleanups_;
  std::string outcome_;
  FlowTimes times_;

  // This round: one D, and the P's that were tried for it.
  int32_t rounds_ = 0;
  std::string request_id_;
  Reservation d_;
  std::optional<InstanceId> d_instance_;
  bool alone_ = false;    // D computes the prompt, no post is expected
  bool learns_ = false;   // ... and a Baton D has not said yet how long it is
  bool answers_ = false;  // D's answer has begun: whatever KV it needed, it has
  std::string d_body_;    // D's whole answer, while P's is awaited
  Part part_ = Part::kNone;
  bool asks_prompt_ = false;  // P is, or was, asked without a hand-over
  std::string post_;
  int32_t prefill_attempts_ = 0;
  Reservation p_;
  std::optional<InstanceId> p_instance_;
  std::optional<PrefillAnswer> p_answer_;
  Reply p_failure_;
  std::optional<Reply> fatal_;

  std::optional<EventMerger> merger_;
  std::optional<HeldEvent> held_;
  bool begun_ = false;  // an event was forwarded
  bool saw_done_ = false;
  bool saw_error_ = false;
};

}  // namespace baton::router
