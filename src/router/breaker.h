// A circuit breaker for one instance: one that answers its probes and fails its requests is left alone for a
// while. Sans-I/O.
//
//            kFailuresToOpen in a row             the pause is over
//   closed ──────────────────────────► open ─────────────────────────► half-open
//     ▲                                 ▲                                │    │
//     │                                 └── its one request fails: twice ┘    │ its one request is answered
//     └──────────────────────────────────── as long a pause ──────────────────┘
//
// closed: takes requests. open: takes none. half-open: takes one at a time, until one is answered or fails.
// Failures are what no request can be to blame for: no connection, no answer, half an answer, silence, 502,
// 503, 504. Other statuses are answers. What was in flight when it opened changes nothing any more.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "base/clock.h"

namespace baton::router {

class Breaker {
 public:
  static constexpr uint32_t kFailuresToOpen = 5;
  static constexpr Duration kPauseFirst = std::chrono::seconds(1);
  static constexpr Duration kPauseMax = std::chrono::seconds(30);

  enum class State : uint8_t { kClosed, kOpen, kHalfOpen };
  State state(Time now) const {
    if (pause_ == Duration{0}) return State::kClosed;
    return now < until_ ? State::kOpen : State::kHalfOpen;
  }
  bool allows(Time now) const {
    const State is = state(now);
    return is == State::kClosed || (is == State::kHalfOpen && !on_trial_);
  }
  Duration opens_in(Time now) const { return now < until_ ? until_ - now : Duration{0}; }

  // It was chosen, which allows() permitted. True if the request is the one of the half-open state: exactly
  // one of on_success, on_failure and on_trial_left follows.
  bool on_chosen(Time now) {
    if (state(now) != State::kHalfOpen) return false;
    on_trial_ = true;
    return true;
  }
  void on_success(Time now) {
    if (state(now) == State::kOpen) return;  // of a request from before
    failures_ = 0;
    pause_ = Duration{0};
    on_trial_ = false;
  }
  void on_failure(Time now) {
    const State was = state(now);
    if (was == State::kOpen) return;
    ++failures_;
    if (was == State::kClosed && failures_ < kFailuresToOpen) return;
    pause_ = was == State::kClosed ? kPauseFirst : std::min(pause_ * 2, kPauseMax);
    until_ = now + pause_;
    on_trial_ = false;
  }
  // The client of the one request left before there was an answer.
  void on_trial_left() { on_trial_ = false; }
  // It is another process by now.
  void reset() { *this = Breaker(); }

 private:
  uint32_t failures_ = 0;  // in a row
  Duration pause_{0};      // zero: closed
  Time until_;
  bool on_trial_ = false;
};

constexpr std::string_view breaker_state_name(Breaker::State state) {
  switch (state) {
    case Breaker::State::kClosed:
      return "closed";
    case Breaker::State::kOpen:
      return "open";
    case Breaker::State::kHalfOpen:
      return "half-open";
  }
  return "closed";
}

}  // namespace baton::router
