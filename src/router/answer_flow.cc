#include "router/answer_flow.h"

#include <fmt/format.h>

#include <utility>

#include "api/response.h"
#include "router/answers.h"

namespace baton::router {

void AnswerFlow::finish(std::string outcome) {
  is_over_ = true;
  outcome_ = std::move(outcome);
  let_go_of_prefill();
  room_.leave();
  p_.release();
  d_.release();
}

Reply AnswerFlow::finish(Reply reply, std::string outcome) {
  finish(std::move(outcome));
  return reply;
}

Reply AnswerFlow::finish_error(const Error& error, std::string outcome) {
  return finish(reply_of(error), std::move(outcome));
}

void AnswerFlow::abort_at(InstanceId instance, std::string id) {
  if (auto cleanup = abort_of(registry_, instance, std::move(id))) cleanups_.push_back(std::move(*cleanup));
}

Step AnswerFlow::wait_for_room(Time now, std::string why) {
  const auto waits = room_.enter(now, std::move(why));
  if (!waits) return finish_error(waits.error(), "full");
  return *waits;
}

Step AnswerFlow::on_pause_done(Time now) {
  if (begun_ || returns_ > 0) return go_on(avoid_, now);
  return after_pause(now);
}

// d_ is reserved.
AskDecode AnswerFlow::ask_decode(std::string body, Time now) {
  d_instance_ = d_.instance();
  times_.decode_asked = now;
  was_given_back_ = false;
  d_identity_.reset();
  const Instance* d = registry_.find(d_.instance());
  d_address_ = d->address();
  if (!begun_) resumption_ = {};
  if (client_.stream && d->identity && d->identity->resume >= api::kResumeProtocol) d_identity_ = d->identity;
  return {.instance = d_.instance(), .body = std::move(body), .notes = d_identity_.has_value()};
}

// ---- D's answer ----

Step AnswerFlow::on_decode_whole(Result<UpstreamAnswer> answer, Time now) {
  return begun_ ? resumption_failed(std::move(answer), now) : decode_whole(std::move(answer), now);
}

Step AnswerFlow::decode_empty(const Result<void>& end, Time now) {
  if (!end) return decode_whole(Failure(end.error()), now);
  const Error error =
      named(registry_, d_.instance(),
            {Code::kUnavailable, "its stream ended before its first event, expected an answer"});
  return decode_whole(UpstreamAnswer{.status = 502, .body = api::render_error(error, 502), .retry_after = {}},
                      now);
}

// Before the client has anything, another D may be asked; a keep-alive or a usage may have gone out already.
Step AnswerFlow::decode_broken(Time now) {
  is_broken_ = false;
  const Error error = named(registry_, d_.instance(),
                            {Code::kUnavailable,
                             "the first event of its stream is no answer, expected a JSON object whose "
                             "`choices` are a list of objects"});
  if (!begun_)
    return decode_whole(
        UpstreamAnswer{.status = 502, .body = api::render_error(error, 502), .retry_after = {}}, now);
  registry_.on_answer_failed(d_.instance(), now);
  return lost(error, now);
}

void AnswerFlow::forward(const HeardEvent& event, std::string_view data, std::string& out) {
  if (event.raw.empty()) {
    const auto note = api::parse_resume_note(event.note);
    was_given_back_ = note && note->returned;
    return;
  }
  if (is_broken_) return;
  if (data == "[DONE]") {
    if (!has_answer_ && !saw_error_) return;  // an end before any beginning is no answer
    saw_done_ = true;
    if (client_.part) return;
  } else if (is_error_event(data)) {
    saw_error_ = true;
  } else {
    if (!has_answer_ && !data.empty()) {
      const EventKind kind = kind_of(data);
      is_broken_ = kind == EventKind::kNone;
      if (is_broken_) return;
      has_answer_ = kind == EventKind::kChoices;
    }
    if (d_identity_) resumption_.add(event.note);
  }
  const size_t before = out.size();
  const auto merged = merger_ ? merger_->merge(data) : std::nullopt;
  if (!merged) {
    out += event.raw;
  } else if (!merged->empty()) {
    append_event(*merged, out);
  }
  begun_ = begun_ || out.size() > before;
  returns_ = 0;
}

Step AnswerFlow::on_stream_end(const Result<void>& end, Time now) {
  if (saw_done_ || saw_error_) {  // however the connection ended after it
    if (saw_done_) registry_.on_answered(d_.instance(), now);
    finish(saw_error_ ? "d_failed" : "ok");
    return End{};
  }
  if (is_broken_) return decode_broken(now);
  if (was_given_back_) return given_back(now);
  if (!begun_) return decode_empty(end, now);
  const std::string why = end ? "its stream ended without [DONE]" : end.error().message;
  if (!end) registry_.on_request_failed(d_.instance(), why, now);
  if (end) registry_.on_answer_failed(d_.instance(), now);
  return lost(named(registry_, d_.instance(), {Code::kUnavailable, why}), now);
}

// ---- another D ----

// The D that was to go on does not.
Step AnswerFlow::resumption_failed(Result<UpstreamAnswer> answer, Time now) {
  if (!answer) {
    registry_.on_request_failed(d_.instance(), answer.error().message, now);
    return lost(named(registry_, d_.instance(), answer.error()), now);
  }
  note_status(registry_, d_.instance(), answer->status, now);
  Error why = named(registry_, d_.instance(),
                    {Code::kUnavailable, fmt::format("it does not go on with the answer: {} {}",
                                                     answer->status, answer->body.substr(0, 512))});
  if (may_try_again(*answer)) return lost(std::move(why), now);
  why_ = std::move(why);
  return end_with_error(false);
}

Step AnswerFlow::lost(Error why, Time now) {
  abort_at(d_.instance(), request_id_);
  avoid_.push_back(d_.instance());
  why_ = std::move(why);
  if (++losses_ > kResumptionsMax && !resumption_.lacks_only_done(client_)) {
    why_.message += fmt::format("; the answer has gone on elsewhere {} times already", kResumptionsMax);
    return end_with_error(true);
  }
  return go_on(avoid_, now);
}

// Not its failure. Others may have more room; where nobody has, it is not asked again at once.
Step AnswerFlow::given_back(Time now) {
  why_ = named(registry_, d_.instance(), {Code::kUnavailable, "it has no memory for the request"});
  registry_.on_answered(d_.instance(), now);
  if (++returns_ > kReturnsMax) return end_with_error(true);
  std::vector<InstanceId> avoid = avoid_;
  avoid.push_back(d_.instance());
  if (returns_ == 1) return go_on(avoid, now);
  d_.release();
  return Pause{pause_after(limits_, returns_ - 1)};
}

Step AnswerFlow::go_on(const std::vector<InstanceId>& avoid, Time now) {
  d_.release();
  if (resumption_.lacks_only_done(client_)) {
    finish("ok");
    std::string done;
    if (!client_.part) api::append_done(done);
    return End{std::move(done)};
  }
  if (!d_identity_ || !resumption_.is_possible()) return end_with_error(true);
  auto reserved = registry_.reserve_resumption(demand_, *d_identity_, avoid, now);
  if (!reserved) {
    why_.message += "; " + reserved.error().message;
    return end_with_error(true);
  }
  d_ = std::move(*reserved);
  ++resumptions_;
  request_id_ = fmt::format("{}.r{}", first_id_, resumptions_);
  on_going_on();
  return ask_decode(resumption_.body(client_, seed_), now);
}

Step AnswerFlow::end_with_error(bool may_retry) {
  if (!begun_) return finish_error(why_, "d_failed");
  finish("d_failed");
  End end;
  append_lost(end.events, {why_.code, "the answer is not complete: " + why_.message}, "decode", d_address_,
              may_retry);
  return end;
}

}  // namespace baton::router
