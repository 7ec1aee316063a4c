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
//   start ─► AskDecode ───────────────────────────► D's answer (router/answer_flow.h)
//              │  failed before the first byte:         │ whole
//              ▼  another D, under another name         ▼
//            Pause, Reply (the true status)           Reply, or AwaitPrefill, where P's part of the answer is
//                                                     not here yet
//
//   on_post ─► AskPrefill ─► on_prefill ─► PrefillOver (the metaserver's reply: 200, or 502 with the reason)
//                 │  failed: another P, after a pause, while D has not begun to answer
//                 ▼
//               Pause
//
// A post must name the request that the chosen D was given, and come from that D. If no P can be had, a Baton
// D computes the prompt itself; one that is none would wait for ever, so it is left and the client gets P's
// status. The same rules as in the pull order say what is tried again. A D that goes on with the answer of
// one that was lost needs no P and posts nothing.
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

#include "base/clock.h"
#include "base/result.h"
#include "router/answer_flow.h"
#include "router/bodies.h"
#include "router/flow.h"
#include "router/layerwise_bodies.h"
#include "router/registry.h"

namespace baton::router {

// P's part is over: what the metaserver replies.
struct PrefillOver {
  bool ok = false;
  std::string detail = {};  // why not
};
using PrefillStep = std::variant<AskPrefill, Pause, PrefillOver>;

// What becomes of a post.
struct PostVerdict {
  // 404: nobody waits for it; 403: it comes from somebody else; 502: too late; 200: it is taken.
  int status = 200;
  std::string detail = {};
  std::optional<PrefillStep> begins = {};  // P's first step; nothing: the post joins what is there already
};

class LayerwiseFlow final : public AnswerFlow {
 public:
  // Where an instance reaches this proxy's metaserver.
  using MetaserverUrl = std::function<std::string(const Instance& d)>;

  // How long the end of an answer waits for P's cached_tokens and timings, which arrive with D's first token
  // or not at all.
  static constexpr Duration kUsageWait = std::chrono::milliseconds(500);

  LayerwiseFlow(Registry& registry, FlowLimits limits, ClientBody client, std::string request_id,
                uint64_t seed, MetaserverUrl metaserver)
      : AnswerFlow(registry, limits, std::move(client), std::move(request_id), seed),
        metaserver_(std::move(metaserver)) {}

  // ---- D ----

  Step start(Time now) override { return begin_decode(now); }
  Step on_room(Time now) override { return begin_decode(now); }
  // After AwaitPrefill, once P's part is over.
  Step on_prefill_over(Time now) { return settle_whole(now); }

  // An event that needs P's answer is kept, and waits() holds until resume() has appended it.
  void on_event(std::string_view raw, std::string_view data, std::string& out) override;
  bool waits() const override { return held_.has_value(); }
  // kUnavailable: what the client asked about the prompt cannot be had; nothing was appended, the shell goes
  // on with on_stream_end.
  Result<void> resume(std::string& out) override;

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
  const std::string& prefill_request_id() const { return p_request_id_; }  // X-Request-Id for P

  // ---- both ----

  void on_client_gone() override;
  // The name that the post of this round must have; empty if none is expected.
  std::string post_id() const;

 private:
  enum class Part : uint8_t { kNone, kRunning, kHere, kFailed };  // P's
  struct KeptEvent {
    std::string raw;
    std::string data;
  };

  Step after_pause(Time now) override { return begin_decode(now); }
  Step decode_whole(Result<UpstreamAnswer> answer, Time now) override;
  void let_go_of_prefill() override { stop_prefill(); }
  void on_going_on() override;
  Step begin_decode(Time now);
  Step ask(Reservation d, bool is_alone, Time now);
  Step decode_again(const Error& error);
  Step settle_whole(Time now);
  PrefillStep begin_prefill(Time now);
  PrefillStep prefill_again(UpstreamAnswer answer, std::string detail);
  PrefillStep prefill_failed(Reply reply, std::string detail);
  PrefillStep over(bool ok, std::string detail);
  void stop_prefill();
  bool asks_prompt_part() const;
  bool lacks_prompt(std::string_view answer) const;
  bool must_wait(std::string_view data) const;
  void pass_on(std::string_view raw, std::string_view data, std::string& out);

  MetaserverUrl metaserver_;

  // This round: one D, and the P's that were tried for it.
  int32_t rounds_ = 0;
  bool alone_ = false;    // D computes the prompt, no post is expected
  bool learns_ = false;   // ... and a Baton D has not said yet how long it is
  bool answers_ = false;  // D's answer has begun: whatever KV it needed, it has
  std::string d_body_;    // D's whole answer, while P's is awaited
  Part part_ = Part::kNone;
  bool asks_prompt_ = false;  // P is, or was, asked without a hand-over
  std::string p_request_id_;  // P's name of the request
  std::string post_;
  int32_t prefill_attempts_ = 0;
  std::optional<PrefillAnswer> p_answer_;
  Reply p_failure_;
  std::optional<Reply> fatal_;
  std::optional<KeptEvent> held_;
};

}  // namespace baton::router
