#include "router/layerwise_flow.h"

#include <fmt/format.h>

#include "api/response.h"
#include "base/check.h"
#include "router/answers.h"

namespace baton::router {
namespace {

// Whether P has a part in an event: its cached_tokens, its time, or that there is nothing to come.
bool tells_of_p(std::string_view data) {
  return data == "[DONE]" || data.find("\"cached_tokens\"") != std::string_view::npos ||
         data.find("\"timings\":") != std::string_view::npos;
}

}  // namespace

std::string LayerwiseFlow::post_id() const {
  if (alone_ || is_over_ || rounds_ == 0) return {};
  return client_.route == Route::kChat ? fmt::format("chatcmpl-{}", request_id_)
                                       : fmt::format("cmpl-{}-0", request_id_);
}

// The shell closes what runs at P; P is told too, because it may not have read the request yet.
void LayerwiseFlow::stop_prefill() {
  if (part_ == Part::kRunning) {
    part_ = Part::kFailed;
    if (p_) abort_at(p_.instance(), p_request_id_);
  }
  p_.release();
}

// ---- D ----

Step LayerwiseFlow::begin_decode(Time now) {
  d_.release();
  if (room_.must_wait()) return wait_for_room(now, "requests wait already");
  auto placed = registry_.place_prefill(demand_, avoid_, now);
  if (placed) times_ = {.placement = placed->placement};
  if (placed && placed->d) return ask(std::move(placed->d), true, now);
  auto reserved = placed ? registry_.reserve_decode_first(demand_, avoid_, now)
                         : Result<Reservation>(Failure(placed.error()));
  // Misfits are the operator's to mend: only where every P is down D does its work.
  if (!reserved && reserved.error().code == Code::kUnavailable && !registry_.may_prefill(now)) {
    auto d = registry_.reserve_decode_alone(demand_, avoid_, now);
    times_ = {.placement = alone(kNoPrefillInstance, {}).placement};
    if (d) return ask(std::move(*d), true, now);
    if (d.error().code == Code::kExhausted) reserved = Failure(d.error());
  }
  if (!reserved && reserved.error().code == Code::kExhausted)
    return wait_for_room(now, reserved.error().message);
  if (!reserved) {
    room_.leave();
    return finish_error(reserved.error(), "no_instance");
  }
  return ask(std::move(*reserved), false, now);
}

// `is_alone`: D computes the prompt itself and posts to nobody.
Step LayerwiseFlow::ask(Reservation d, bool is_alone, Time now) {
  room_.leave();
  ++rounds_;
  request_id_ = rounds_ == 1 ? first_id_ : fmt::format("{}.{}", first_id_, rounds_);
  part_ = Part::kNone;
  answers_ = asks_prompt_ = false;
  p_answer_.reset();
  d_ = std::move(d);
  const bool baton = is_baton(registry_, d_.instance());
  // A D that is no Baton instance posts once per choice, under names that nobody can answer.
  if (!baton && client_.choices_are_separable) {
    finish("split");
    return Split{};
  }
  times_ = {.placement = times_.placement};
  learns_ = is_alone;
  alone_ = is_alone || (!baton && client_.choices > 1);
  if (alone_) return ask_decode(decode_body(client_, {}, baton, seed_), now);
  const Instance* chosen = registry_.find(d_.instance());
  return ask_decode(reserve_body(client_, metaserver_(*chosen), baton, seed_), now);
}

Step LayerwiseFlow::decode_again(const Error& error) {
  stop_prefill();
  avoid_.push_back(d_.instance());
  if (rounds_ >= limits_.attempts) return finish_error(error, "d_failed");
  ++retries_;
  return Pause{pause_after(limits_, rounds_)};
}

// It computes the prompt and posts nothing. What was kept of the other D's answer has not gone out.
void LayerwiseFlow::on_going_on() {
  alone_ = answers_ = true;
  learns_ = false;
  held_.reset();
}

Step LayerwiseFlow::decode_whole(Result<UpstreamAnswer> answer, Time now) {
  if (fatal_) return finish(*std::exchange(fatal_, std::nullopt), "p_failed");
  if (answer && answer->status == 200) {
    answers_ = true;
    if (learns_) learns_ = !note_own_prefill(registry_, d_, demand_, answer->body);
    d_body_ = std::move(answer->body);
    return settle_whole(now);
  }
  if (!answer) {
    const Error error = named(registry_, d_.instance(), answer.error());
    registry_.on_request_failed(d_.instance(), answer.error().message, now);
    abort_at(d_.instance(), request_id_);
    return decode_again(error);
  }
  note_status(registry_, d_.instance(), answer->status, now);
  if (may_try_again(*answer) && rounds_ < limits_.attempts)
    return decode_again({Code::kUnavailable, "decode"});
  return finish(reply_of(*answer), answer->status < 500 ? "refused" : "d_failed");
}

bool LayerwiseFlow::asks_prompt_part() const {
  return client_.stream ? client_.merges_echo : client_.wants_prompt_logprobs;
}

// What the client asked about the prompt is neither here nor on its way.
bool LayerwiseFlow::lacks_prompt(std::string_view answer) const {
  return asks_prompt_part() && !alone_ && part_ != Part::kHere && !has_prompt_part(client_, answer);
}

Step LayerwiseFlow::settle_whole(Time now) {
  const bool lacks = lacks_prompt(d_body_);
  const bool has_failed = part_ == Part::kFailed && asks_prompt_;
  if (part_ == Part::kRunning || (lacks && !has_failed)) return AwaitPrefill{};
  if (lacks) return decode_whole(UpstreamAnswer{502, p_failure_.body, {}}, now);
  auto body = whole_answer(client_, p_answer_ ? &*p_answer_ : nullptr, std::move(d_body_));
  if (body) {
    registry_.on_answered(d_.instance(), now);
    return finish({.body = std::move(*body)}, "ok");
  }
  const Error error = named(registry_, d_.instance(), body.error());
  return decode_whole(UpstreamAnswer{.status = 502, .body = api::render_error(error, 502), .retry_after = {}},
                      now);
}

bool LayerwiseFlow::must_wait(std::string_view data) const {
  if (part_ == Part::kRunning && tells_of_p(data)) return true;
  if (begun_ || !client_.merges_echo || data == "[DONE]" || is_error_event(data)) return false;
  return part_ == Part::kRunning || lacks_prompt(data);
}

void LayerwiseFlow::on_event(std::string_view raw, std::string_view data, std::string& out) {
  CHECK(!held_, "an event is given while another one waits for P");
  answers_ = true;
  if (learns_) learns_ = !note_own_prefill(registry_, d_, demand_, data);
  if (must_wait(data)) {
    held_ = KeptEvent{std::string(raw), std::string(data)};
  } else {
    pass_on(raw, data, out);
  }
}

Result<void> LayerwiseFlow::resume(std::string& out) {
  const bool lacks = !begun_ && lacks_prompt(held_->data);
  if (part_ == Part::kRunning || (lacks && !(part_ == Part::kFailed && asks_prompt_))) return {};
  const KeptEvent event = *std::exchange(held_, std::nullopt);
  if (lacks) return fail(Code::kUnavailable, "the prompt's logprobs: no prefill instance answers");
  pass_on(event.raw, event.data, out);
  return {};
}

void LayerwiseFlow::pass_on(std::string_view raw, std::string_view data, std::string& out) {
  if (!merger_) merger_.emplace(client_, p_answer_ ? &*p_answer_ : nullptr);
  if (p_answer_) merger_->set_cached_tokens(p_answer_->cached_tokens);
  std::string kept;
  forward(without_notes(raw, kept), data, out);
}

// ---- P ----

PostVerdict LayerwiseFlow::on_post(const MetaserverPost& post, bool peer_may_be_d, Time now) {
  if (post_id().empty() || post.request_id != post_id())
    return {.status = 404, .detail = fmt::format("request_id: nobody waits for {}", post.request_id)};
  const Instance* d = registry_.find(d_.instance());
  if (d->identity && post.incarnation != d->identity->incarnation) {
    return {.status = 403,
            .detail = fmt::format("incarnation: {}, expected {} of the decode instance {}",
                                  post.incarnation ? post.incarnation->hex() : "none",
                                  d->identity->incarnation.hex(), d->address())};
  }
  if (!d->identity && !peer_may_be_d) {
    return {.status = 403, .detail = fmt::format("expected a post of the decode instance {}", d->address())};
  }
  // A post that is repeated has the result of the first, unless that has failed.
  if (part_ == Part::kRunning || part_ == Part::kHere) return {};
  if (answers_) return {.status = 502, .detail = "the decode instance has begun to answer"};
  prefill_attempts_ = 0;
  post_ = post.text;
  return {.begins = begin_prefill(now)};
}

PrefillStep LayerwiseFlow::over(bool ok, std::string detail) {
  part_ = ok ? Part::kHere : Part::kFailed;
  p_.release();
  return PrefillOver{ok, std::move(detail)};
}

PrefillStep LayerwiseFlow::prefill_failed(Reply reply, std::string detail) {
  p_failure_ = std::move(reply);
  // Only a Baton D hears the metaserver's reply and goes on by itself.
  if (!answers_ && !is_baton(registry_, d_.instance())) fatal_ = p_failure_;
  return over(false, std::move(detail));
}

PrefillStep LayerwiseFlow::begin_prefill(Time now) {
  part_ = Part::kRunning;
  asks_prompt_ = answers_;  // D has what it needed, the prompt's logprobs alone are missing
  ++prefill_attempts_;
  p_.release();
  d_.release_promise();
  auto reserved = registry_.reserve_prefill_for(demand_, d_.instance(), avoid_, now);
  if (!reserved) return prefill_failed(reply_of(reserved.error()), reserved.error().message);
  p_ = std::move(*reserved);
  p_instance_ = p_.instance();
  p_request_id_ = request_id_;
  times_.prefill_asked = now;
  const bool baton = is_baton(registry_, p_.instance());
  return AskPrefill{p_.instance(), asks_prompt_ ? prompt_body(client_, baton, seed_)
                                                : landing_body(client_, post_, baton, seed_)};
}

// `answer` and `detail`: what the client and D are told if nobody else is tried.
PrefillStep LayerwiseFlow::prefill_again(UpstreamAnswer answer, std::string detail) {
  avoid_.push_back(p_.instance());
  const bool is_needed = !answers_ || (asks_prompt_part() && !begun_);
  if (prefill_attempts_ >= limits_.attempts || !is_needed)
    return prefill_failed(reply_of(answer), std::move(detail));
  ++retries_;
  p_.release();
  return Pause{pause_after(limits_, prefill_attempts_)};
}

PrefillStep LayerwiseFlow::on_prefill(Result<UpstreamAnswer> answer, Time now) {
  if (part_ != Part::kRunning || is_over_) return PrefillOver{false, "the request has gone another way"};
  const auto unusable = [this](const Error& error) {
    const Error told = named(registry_, p_.instance(), error);
    return prefill_again({.status = api::http_status(error.code), .body = api::render_error(told)},
                         told.message);
  };
  if (!answer) {
    registry_.on_request_failed(p_.instance(), answer.error().message, now);
    abort_at(p_.instance(), p_request_id_);  // it may be computing still, or again after a pause
    return unusable(answer.error());
  }
  note_status(registry_, p_.instance(), answer->status, now);
  if (answer->status != 200) {
    const Error told =
        named(registry_, p_.instance(), {Code::kUnavailable, fmt::format("it answers {}", answer->status)});
    if (may_try_again(*answer)) return prefill_again(std::move(*answer), told.message);
    return prefill_failed(reply_of(*answer), told.message);
  }
  auto read = read_prefill_answer(std::move(answer->body));
  if (!read) {
    registry_.on_answer_failed(p_.instance(), now);
    abort_at(p_.instance(), p_request_id_);
    return unusable({Code::kUnavailable, read.error().message});
  }
  times_.prefill_answered = now;
  times_.prefill_timings = read->timings;
  p_answer_ = std::move(*read);
  registry_.on_answered(p_.instance(), now);
  registry_.on_prefilled(
      p_, demand_, p_answer_->prompt_tokens,
      p_answer_->says_cached_tokens ? std::optional(p_answer_->cached_tokens) : std::nullopt);
  return over(true, {});
}

PrefillStep LayerwiseFlow::on_prefill_pause_done(Time now) {
  if (part_ != Part::kRunning || is_over_) return PrefillOver{false, "the request has gone another way"};
  return begin_prefill(now);
}

std::optional<PrefillStep> LayerwiseFlow::prefill_for_prompt(Time now) {
  const std::string_view answer = held_ ? std::string_view(held_->data) : std::string_view(d_body_);
  if (begun_ || part_ == Part::kRunning || !lacks_prompt(answer)) return std::nullopt;
  if (part_ == Part::kFailed && asks_prompt_) return std::nullopt;
  prefill_attempts_ = 0;
  return begin_prefill(now);
}

std::optional<Duration> LayerwiseFlow::prefill_wait() const {
  return asks_prompt_part() && !begun_ ? std::nullopt : std::optional(kUsageWait);
}

void LayerwiseFlow::on_prefill_late() {
  stop_prefill();
  part_ = Part::kFailed;
}

void LayerwiseFlow::on_client_gone() {
  if (is_over_) return;
  // The closed connection aborts D.
  finish("client_gone");
}

}  // namespace baton::router
