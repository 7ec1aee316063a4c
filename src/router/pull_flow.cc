#include "router/pull_flow.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "api/response.h"
#include "base/check.h"

namespace baton::router {
namespace {

bool may_try_again(int status) { return status == 408 || status == 429 || status >= 500; }

// An upstream's error body goes to the client as it is if it is JSON, else wrapped in OpenAI's shape.
Reply reply_of(const UpstreamAnswer& answer) {
  Reply reply{.status = answer.status,
              .body = answer.body,
              .retry_later = answer.status == 429 || answer.status == 503};
  if (!api::parse_json_object(answer.body)) {
    const std::string text = answer.body.empty()
                                 ? fmt::format("the instance answered {} without a body", answer.status)
                                 : answer.body.substr(0, 1024);
    reply.body = api::render_error({Code::kUnavailable, text}, answer.status);
  }
  return reply;
}

}  // namespace

bool PullFlow::is_baton(InstanceId id) const {
  const Instance* instance = registry_.find(id);
  return instance != nullptr && instance->identity.has_value();
}

Step PullFlow::finish(Reply reply, std::string outcome) {
  stage_ = Stage::kOver;
  outcome_ = std::move(outcome);
  p_.release();
  d_.release();
  return reply;
}

Step PullFlow::finish_error(const Error& error, std::string outcome) {
  return finish({.status = api::http_status(error.code),
                 .body = api::render_error(error),
                 .retry_later = error.code == Code::kExhausted || error.code == Code::kUnavailable},
                std::move(outcome));
}

Step PullFlow::start() { return client_.is_prompt_list ? begin_decode() : begin_prefill(); }

Step PullFlow::on_pause_done() { return after_pause_ == Stage::kPrefill ? begin_prefill() : begin_decode(); }

Step PullFlow::begin_prefill() {
  stage_ = Stage::kPrefill;
  ++prefill_attempts_;
  p_.release();
  auto reserved = registry_.reserve_prefill(client_.bytes, avoid_);
  if (!reserved) return finish_error(reserved.error(), "no_instance");
  p_ = std::move(*reserved);
  p_instance_ = p_.instance();
  return AskPrefill{p_.instance(), prefill_body(client_, is_baton(p_.instance()), seed_)};
}

Step PullFlow::again(Stage stage, const Error& error) {
  int32_t& attempts = stage == Stage::kPrefill ? prefill_attempts_ : decode_attempts_;
  if (attempts >= limits_.attempts)
    return finish_error(error, stage == Stage::kPrefill ? "p_failed" : "d_failed");
  ++retries_;
  after_pause_ = stage;
  const Duration delay = limits_.retry_delay * (1LL << std::min(attempts - 1, 20));
  return Pause{std::min(delay, limits_.retry_delay_max)};
}

Step PullFlow::on_prefill(Result<UpstreamAnswer> answer, Time now) {
  p_.release_tokens();
  if (!answer) {
    const Instance* instance = registry_.find(p_.instance());
    const Error error{answer.error().code,
                      fmt::format("prefill instance {}: {}", instance == nullptr ? "" : instance->address(),
                                  answer.error().message)};
    registry_.on_request_failed(p_.instance(), answer.error().message, now);
    avoid_.push_back(p_.instance());
    // It may be computing still, or again after a pause.
    cleanups_.push_back({.instance = p_.instance(), .ids = {request_id_}, .decode_body = {}});
    return again(Stage::kPrefill, error);
  }
  if (answer->status != 200) {
    if (may_try_again(answer->status) && prefill_attempts_ < limits_.attempts) {
      avoid_.push_back(p_.instance());
      return again(Stage::kPrefill, {Code::kUnavailable, "prefill"});
    }
    return finish(reply_of(*answer), answer->status < 500 ? "refused" : "p_failed");
  }
  auto read = read_prefill_answer(std::move(answer->body));
  if (!read) {
    avoid_.push_back(p_.instance());
    return again(Stage::kPrefill, {Code::kUnavailable, "prefill instance: " + read.error().message});
  }
  const bool ended = read->kv_transfer_params.empty() && is_baton(p_.instance());
  held_ = std::move(*read);
  if (ended) {
    // The answer ended with its first token: what P said is all there is.
    if (client_.stream)
      return finish({.content_type = "text/event-stream; charset=utf-8", .body = as_stream(client_, *held_)},
                    "ok");
    return finish({.body = held_->body}, "ok");
  }
  kv_taken_ = held_->kv_transfer_params.empty();
  return begin_decode();
}

Step PullFlow::begin_decode() {
  stage_ = Stage::kDecode;
  ++decode_attempts_;
  d_.release();
  const auto partner = p_ ? std::optional(p_.instance()) : std::nullopt;
  auto reserved = registry_.reserve_decode(client_.bytes, partner, avoid_);
  if (!reserved) {
    abandon_held();
    return finish_error(reserved.error(), "no_instance");
  }
  d_ = std::move(*reserved);
  d_instance_ = d_.instance();
  return AskDecode{d_.instance(), decode_body(client_, held_ ? held_->kv_transfer_params : std::string_view(),
                                              is_baton(d_.instance()), seed_)};
}

// Nobody will fetch P's KV any more.
void PullFlow::abandon_held() {
  if (!held_ || kv_taken_ || !p_) return;
  kv_taken_ = true;
  Cleanup cleanup{.instance = p_.instance(), .ids = {}, .decode_body = {}};
  if (is_baton(p_.instance())) {
    cleanup.ids = {held_->remote_request_id.empty() ? request_id_ : held_->remote_request_id};
  } else {
    const auto d = registry_.reserve_decode(0, p_.instance(), {});
    if (!d) return;
    cleanup.instance = d->instance();
    cleanup.decode_body = decode_body(client_, held_->kv_transfer_params, false, seed_);
  }
  cleanups_.push_back(std::move(cleanup));
}

Step PullFlow::on_decode_head() {
  CHECK(stage_ == Stage::kDecode);
  if (held_) merger_.emplace(client_, *held_);
  return Relay{};
}

Step PullFlow::on_decode_whole(Result<UpstreamAnswer> answer, Time now) {
  if (answer && answer->status == 200) {
    kv_taken_ = true;
    std::string body =
        held_ ? merge_whole(client_, *held_, std::move(answer->body)) : std::move(answer->body);
    return finish({.body = std::move(body)}, "ok");
  }
  if (!answer) {
    const Instance* instance = registry_.find(d_.instance());
    const Error error{answer.error().code,
                      fmt::format("decode instance {}: {}", instance == nullptr ? "" : instance->address(),
                                  answer.error().message)};
    registry_.on_request_failed(d_.instance(), answer.error().message, now);
    avoid_.push_back(d_.instance());
    cleanups_.push_back({.instance = d_.instance(), .ids = {request_id_}, .decode_body = {}});
    // D may have taken the KV before it failed, so the next round begins with a new prefill; whatever P still
    // holds of this one is given up.
    abandon_held();
    held_.reset();
    if (decode_attempts_ >= limits_.attempts) return finish_error(error, "d_failed");
    return again(client_.is_prompt_list ? Stage::kDecode : Stage::kPrefill, error);
  }
  if (may_try_again(answer->status) && decode_attempts_ < limits_.attempts) {
    avoid_.push_back(d_.instance());
    return again(Stage::kDecode, {Code::kUnavailable, "decode"});
  }
  abandon_held();
  return finish(reply_of(*answer), answer->status < 500 ? "refused" : "d_failed");
}

void PullFlow::on_event(std::string_view raw, std::string_view data, std::string& out) {
  if (p_) p_.release();  // D has the KV
  kv_taken_ = true;
  if (data == "[DONE]") saw_done_ = true;
  if (data.starts_with("{\"error\"")) saw_error_ = true;
  if (merger_) {
    if (const auto merged = merger_->merge(data)) {
      out += "data: ";
      out += *merged;
      out += "\n\n";
      return;
    }
  }
  out += raw;
}

void PullFlow::on_stream_end(const Result<void>& end, Time now, std::string& out) {
  const bool whole = end.has_value() && saw_done_;
  if (!whole && !saw_error_) {
    const Instance* instance = d_instance_ ? registry_.find(*d_instance_) : nullptr;
    const std::string why = end ? "its stream ended without [DONE]" : end.error().message;
    api::append_error_event(
        out, {Code::kUnavailable, fmt::format("the answer is not complete: decode instance {}: {}",
                                              instance == nullptr ? "" : instance->address(), why)});
    api::append_done(out);
    if (d_) {
      if (!end) registry_.on_request_failed(d_.instance(), why, now);
      cleanups_.push_back({.instance = d_.instance(), .ids = {request_id_}, .decode_body = {}});
    }
    abandon_held();
  }
  finish({}, whole && !saw_error_ ? "ok" : "d_failed");
}

void PullFlow::on_client_gone() {
  if (stage_ == Stage::kOver) return;
  if (stage_ == Stage::kPrefill && p_ && !held_) {
    cleanups_.push_back({.instance = p_.instance(), .ids = {request_id_}, .decode_body = {}});
  }
  if (stage_ == Stage::kDecode && d_) {
    // The closed connection aborts D, which tells P by itself if it knows the hand-over already; P is told
    // too, because D may not have read the request yet.
    abandon_held();
  }
  finish({}, "client_gone");
}

std::vector<Cleanup> PullFlow::take_cleanups() {
  std::vector<Cleanup> taken = std::exchange(cleanups_, {});
  // Only Baton instances know /abort_request.
  std::erase_if(taken, [&](const Cleanup& c) { return c.decode_body.empty() && !is_baton(c.instance); });
  return taken;
}

}  // namespace baton::router
