#include "router/pull_flow.h"

#include <utility>

#include "api/response.h"
#include "base/check.h"
#include "router/answers.h"

namespace baton::router {

Step PullFlow::after_pause(Time now) {
  return after_pause_ == Stage::kPrefill ? begin_prefill(now) : begin_decode(now);
}

Step PullFlow::begin_prefill(Time now) {
  stage_ = Stage::kPrefill;
  p_.release();
  d_.release();
  is_alone_ = learns_ = false;
  if (room_.must_wait()) return wait_for_room(now, "requests wait already");
  auto placed = registry_.place_prefill(demand_, avoid_, now);
  if (placed && placed->d) return decode_alone(std::move(*placed), now);
  auto reserved =
      placed ? registry_.reserve_prefill(demand_, avoid_, now) : Result<Reservation>(Failure(placed.error()));
  // Misfits are the operator's to mend: only where every P is down D does its work.
  if (!reserved && reserved.error().code == Code::kUnavailable && !registry_.may_prefill(now)) {
    auto d = registry_.reserve_decode_alone(demand_, avoid_, now);
    if (d) return decode_alone(alone(kNoPrefillInstance, std::move(*d)), now);
    if (d.error().code == Code::kExhausted) reserved = Failure(d.error());
  }
  if (!reserved && reserved.error().code == Code::kExhausted)
    return wait_for_room(now, reserved.error().message);
  room_.leave();
  if (!reserved) return finish_error(reserved.error(), "no_instance");
  ++prefill_attempts_;
  begin_round();
  p_ = std::move(*reserved);
  p_instance_ = p_.instance();
  // A foreign P answers with the parameters of one choice and strands the KV of the others (vllm#38900).
  if (client_.choices_are_separable && !is_baton(registry_, p_.instance())) {
    finish("split");
    return Split{};
  }
  if (client_.must_call_tool && registry_.find(p_.instance())->fails_forced_tools) return decode_alone(now);
  times_ = {.prefill_asked = now, .placement = placed->placement};
  rendezvous_ = registry_.begin_rendezvous(p_.instance(), request_id_);
  if (rendezvous_) {
    return AskPrefill{p_.instance(), prefill_body_with(client_, rendezvous_->prefill_params(), false, seed_),
                      rendezvous_->p.rank};
  }
  return AskPrefill{p_.instance(), prefill_body(client_, is_baton(registry_, p_.instance()), seed_)};
}

// Each prefill has another name.
void PullFlow::begin_round() {
  if (++rounds_ > 1) request_id_ = fmt::format("{}.{}", first_id_, rounds_);
}

Step PullFlow::again(Stage stage, const Error& error, Time now) {
  const int32_t attempts = stage == Stage::kPrefill ? prefill_attempts_ : decode_attempts_;
  if (attempts >= limits_.attempts) {
    if (stage == Stage::kPrefill) return without_prefill(reply_of(error), "p_failed", now);
    return finish_error(error, "d_failed");
  }
  ++retries_;
  after_pause_ = stage;
  return Pause{pause_after(limits_, attempts)};
}

Step PullFlow::on_prefill(Result<UpstreamAnswer> answer, Time now) {
  p_.release_tokens();
  if (!answer) {
    const Error error = named(registry_, p_.instance(), answer.error());
    registry_.on_request_failed(p_.instance(), answer.error().message, now);
    avoid_.push_back(p_.instance());
    // It may be computing still, or again after a pause.
    abort_at(p_.instance(), request_id_);
    return again(Stage::kPrefill, error, now);
  }
  note_status(registry_, p_.instance(), answer->status, now);
  if (answer->status != 200) {
    // Some servers read the one token that P draws as a tool call and fail: every P would, and keep the
    // blocks of each attempt, of which nobody has a name (vllm#38911). D can answer alone.
    if (answer->status == 500 && client_.must_call_tool && !is_baton(registry_, p_.instance())) {
      registry_.on_forced_tool_failed(p_.instance());
      return decode_alone(now);
    }
    if (may_try_again(*answer) && prefill_attempts_ < limits_.attempts) {
      avoid_.push_back(p_.instance());
      return again(Stage::kPrefill, {Code::kUnavailable, "prefill"}, now);
    }
    if (answer->status >= 500 && may_try_again(*answer))
      return without_prefill(reply_of(*answer), "p_failed", now);
    return finish(reply_of(*answer), answer->status < 500 ? "refused" : "p_failed");
  }
  auto read = read_prefill_answer(std::move(answer->body));
  if (!read) {
    registry_.on_answer_failed(p_.instance(), now);
    avoid_.push_back(p_.instance());
    abort_at(p_.instance(), request_id_);
    return again(Stage::kPrefill, named(registry_, p_.instance(), {Code::kUnavailable, read.error().message}),
                 now);
  }
  if (rendezvous_ && read->kv_transfer_params.empty() && keeps_kv(read->body))
    read->kv_transfer_params = rendezvous_->decode_params();
  const bool ended = read->kv_transfer_params.empty() && is_baton(registry_, p_.instance());
  times_.prefill_answered = now;
  times_.prefill_timings = read->timings;
  held_ = std::move(*read);
  registry_.on_answered(p_.instance(), now);
  registry_.on_prefilled(p_, demand_, held_->prompt_tokens,
                         held_->says_cached_tokens ? std::optional(held_->cached_tokens) : std::nullopt);
  if (ended) return finish_with_prefill();
  kv_taken_ = held_->kv_transfer_params.empty();
  return begin_decode(now);
}

// The answer ended with its first token: what P said is all there is.
Step PullFlow::finish_with_prefill() {
  if (!client_.stream) return finish({.body = held_->body}, "ok");
  std::string events;
  merger_.emplace(client_, &*held_);
  for (const std::string& data : as_events(client_, *held_)) {
    const auto merged = client_.part ? merger_->merge(data) : data;
    if (!merged || !merged->empty()) append_event(merged.value_or(data), events);
  }
  if (!client_.part) api::append_done(events);
  return finish({.content_type = "text/event-stream; charset=utf-8", .body = std::move(events)}, "ok");
}

// Without a P: D computes the prompt itself.
Step PullFlow::decode_alone(Time now) {
  p_.release();
  p_instance_.reset();
  times_ = {.placement = alone(kPrefillFailed, {}).placement};
  return begin_decode(now);
}

Step PullFlow::decode_alone(Placed placed, Time now) {
  room_.leave();
  p_.release();
  p_instance_.reset();
  held_.reset();
  is_alone_ = learns_ = true;
  times_ = {.placement = placed.placement};
  stage_ = Stage::kDecode;
  ++decode_attempts_;
  begin_round();
  return ask(std::move(placed.d), now);
}

// No P has computed the prompt, as often as it was tried: a Baton D does. Where there is none, or none has
// room, `reply` is the answer.
Step PullFlow::without_prefill(Reply reply, std::string outcome, Time now) {
  auto d = registry_.reserve_decode_alone(demand_, avoid_, now);
  if (!d) return finish(std::move(reply), std::move(outcome));
  return decode_alone(alone(kPrefillFailed, std::move(*d)), now);
}

Step PullFlow::begin_decode(Time now) {
  stage_ = Stage::kDecode;
  ++decode_attempts_;
  d_.release();
  const auto partner = p_ ? std::optional(p_.instance()) : std::nullopt;
  p_.release_promise();
  auto reserved = registry_.reserve_decode(demand_, partner, avoid_, now);
  if (!reserved) {
    abandon_held();
    return finish_error(reserved.error(), "no_instance");
  }
  return ask(std::move(*reserved), now);
}

Step PullFlow::ask(Reservation d, Time now) {
  d_ = std::move(d);
  return ask_decode(decode_body(client_, held_ ? held_->kv_transfer_params : std::string_view(),
                                is_baton(registry_, d_.instance()), seed_),
                    now);
}

// Nobody will fetch P's KV any more.
void PullFlow::abandon_held() {
  if (!held_ || kv_taken_ || !p_) return;
  kv_taken_ = true;
  if (is_baton(registry_, p_.instance())) {
    abort_at(p_.instance(), held_->remote_request_id.empty() ? request_id_ : held_->remote_request_id);
    return;
  }
  const Instance* d = registry_.partner_of(p_.instance());
  if (d == nullptr) return;
  cleanups_.push_back({.instance = d->id,
                       .host = d->host,
                       .port = d->port,
                       .ids = {},
                       .decode_body = decode_body(client_, held_->kv_transfer_params, false, seed_)});
}

Step PullFlow::on_decode_head() {
  CHECK(stage_ == Stage::kDecode);
  if (!begun_ && (held_ || client_.part)) merger_.emplace(client_, held_ ? &*held_ : nullptr);
  return Relay{};
}

Step PullFlow::decode_whole(Result<UpstreamAnswer> answer, Time now) {
  if (answer && answer->status == 200) {
    if (learns_) learns_ = !note_own_prefill(registry_, d_, demand_, answer->body);
    auto body = whole_answer(client_, held_ ? &*held_ : nullptr, std::move(answer->body));
    if (body) {
      registry_.on_answered(d_.instance(), now);
      kv_taken_ = true;
      return finish({.body = std::move(*body)}, "ok");
    }
    const Error error = named(registry_, d_.instance(), body.error());
    answer = UpstreamAnswer{.status = 502, .body = api::render_error(error, 502), .retry_after = {}};
  }
  if (!answer) {
    const Error error = named(registry_, d_.instance(), answer.error());
    registry_.on_request_failed(d_.instance(), answer.error().message, now);
    avoid_.push_back(d_.instance());
    abort_at(d_.instance(), request_id_);
    // D may have taken the KV before it failed, so the next round begins with a new prefill; whatever P still
    // holds of this one is given up.
    abandon_held();
    held_.reset();
    if (decode_attempts_ >= limits_.attempts) return finish_error(error, "d_failed");
    return again(Stage::kPrefill, error, now);
  }
  note_status(registry_, d_.instance(), answer->status, now);
  if (may_try_again(*answer) && decode_attempts_ < limits_.attempts) {
    avoid_.push_back(d_.instance());
    const Error error =
        named(registry_, d_.instance(), {Code::kUnavailable, fmt::format("it answers {}", answer->status)});
    return again(is_alone_ ? Stage::kPrefill : Stage::kDecode, error, now);
  }
  abandon_held();
  return finish(reply_of(*answer), answer->status < 500 ? "refused" : "d_failed");
}

void PullFlow::on_event(std::string_view raw, std::string_view data, std::string& out) {
  if (p_) p_.release();  // D has the KV
  if (learns_) learns_ = !note_own_prefill(registry_, d_, demand_, data);
  kv_taken_ = true;
  std::string kept;
  forward(without_notes(raw, kept), data, out);
}

void PullFlow::on_client_gone() {
  if (is_over_) return;
  if (stage_ == Stage::kPrefill && p_ && !held_) {
    abort_at(p_.instance(), request_id_);
  }
  if (stage_ == Stage::kDecode && d_) {
    // The closed connection aborts D, which tells P by itself if it knows the hand-over already; P is told
    // too, because D may not have read the request yet.
    abandon_held();
  }
  finish("client_gone");
}

}  // namespace baton::router
