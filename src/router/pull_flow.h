// One request's way through the pull order, sans-I/O: what comes before D's answer. The flow chooses
// instances, rewrites bodies, decides what is tried again and what the client is told.
//
// A request for which no instance has room waits in the registry's queue first; when the queue is full, and
// when its wait is over, it is a 429 with Retry-After and nothing was spent on it.
//
// Where the prompt is computed is decided first (router/placement.h): a request whose D computes it goes
// straight to AskDecode, and so does one for which no P is left, if there is a Baton D.
//
//   start ─► AskPrefill ─► on_prefill ─► AskDecode ─► D's answer (router/answer_flow.h)
//              │  failed: another P, after a pause      │  failed before the first byte: another D, from a
//              ▼                                        ▼  new prefill if the KV is lost
//            Reply (the true status)                  Reply
//
// Tried again: transport failures, answers that are none, 408, 429, 500 to 599, as often as the limits say.
// Never: other 4xx, a 500 that says that the request is wrong. A forced tool call that a foreign P fails on
// goes to D alone. A request whose P says that the answer ended with its first token needs no hand-over.
//
// A flow of one part of a client's request (ClientBody::part) numbers its choices as the whole answer does,
// and keeps the usage and [DONE] to itself: they are said once, by whoever joins the parts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/result.h"
#include "router/answer_flow.h"
#include "router/bodies.h"
#include "router/flow.h"
#include "router/registry.h"
#include "router/rendezvous.h"

namespace baton::router {

class PullFlow final : public AnswerFlow {
 public:
  // `request_id` goes to P and D as X-Request-Id. `seed` counts where the client sent none.
  PullFlow(Registry& registry, FlowLimits limits, ClientBody client, std::string request_id, uint64_t seed)
      : AnswerFlow(registry, limits, std::move(client), std::move(request_id), seed) {}

  Step start(Time now) override { return begin_prefill(now); }
  Step on_room(Time now) override { return begin_prefill(now); }
  Step on_prefill(Result<UpstreamAnswer> answer, Time now);
  void on_kv_unused() override { abandon_held(); }  // P is told to let go
  Step on_decode_head() override;
  void on_event(std::string_view raw, std::string_view data, std::string& out) override;
  void on_client_gone() override;

 private:
  enum class Stage : uint8_t { kPrefill, kDecode };
  Step after_pause(Time now) override;
  Step decode_whole(Result<UpstreamAnswer> answer, Time now) override;
  void let_go_of_prefill() override {}
  void on_going_on() override { learns_ = false; }
  Step begin_prefill(Time now);
  Step begin_decode(Time now);
  Step decode_alone(Time now);
  Step decode_alone(Placed placed, Time now);
  Step without_prefill(Reply reply, std::string outcome, Time now);
  Step ask(Reservation d, Time now);
  void begin_round();
  Step finish_with_prefill();
  Step again(Stage stage, const Error& error, Time now);
  void abandon_held();

  Stage stage_ = Stage::kPrefill;
  Stage after_pause_ = Stage::kPrefill;
  int32_t rounds_ = 0;     // of everything: prefills, and D's that compute the prompt
  bool is_alone_ = false;  // D computes the prompt in this round
  bool learns_ = false;    // ... and has not said yet how long it is
  int32_t prefill_attempts_ = 0;
  int32_t decode_attempts_ = 0;
  std::optional<Rendezvous> rendezvous_;  // with a P whose answer does not name its KV
  std::optional<PrefillAnswer> held_;     // P's answer whose KV waits
  bool kv_taken_ = false;
};

}  // namespace baton::router
