#include "http/wake.h"

#include <boost/asio/steady_timer.hpp>

#include <optional>

#include "http/loop_parts.h"

namespace baton::http {
namespace {

Result<void> as_result(Outcome outcome) {
  if (outcome == Outcome::kCancelled) return fail(Code::kCancelled, "wait: cancelled");
  if (outcome == Outcome::kTimeout) return fail(Code::kTimeout, "wait: nothing happened in time");
  return {};
}

}  // namespace

using Timer = asio::basic_waitable_timer<std::chrono::steady_clock,
                                         asio::wait_traits<std::chrono::steady_clock>, Executor>;

struct Wake::State {
  explicit State(IoLoop& loop) : loop(loop), waiter(loop) {}

  IoLoop& loop;
  Waiter waiter;
  std::optional<Timer> timer;  // once it was needed
  uint64_t waits = 0;          // tells a timer whether its wait is still the current one
  bool notified = false;
  bool resume_posted = false;
  bool gone = false;
};

Wake::Wake(IoLoop& loop) : state_(std::make_shared<State>(loop)) {}

Wake::~Wake() {
  state_->gone = true;
  if (!state_->waiter.parked()) return;
  asio::post(state_->loop.context(), [state = state_] {
    const Turn turn(state->loop.state());
    state->waiter.resume(Outcome::kCancelled);
  });
}

// The waiter runs in a turn of its own: whoever notifies is in the middle of something.
void Wake::notify() {
  state_->notified = true;
  if (!state_->waiter.parked() || state_->resume_posted) return;
  state_->resume_posted = true;
  asio::post(state_->loop.context(), [state = state_] {
    state->resume_posted = false;
    if (!state->notified) return;
    const Turn turn(state->loop.state());
    state->waiter.resume(Outcome::kReady);
  });
}

// While it is parked a coroutine holds the state only weakly: the state holds the coroutine.
Awaitable<Result<void>> Wake::wait() {
  const std::weak_ptr<State> weak = state_;
  const bool cancelled = co_await is_cancelled();
  if (cancelled) co_return as_result(Outcome::kCancelled);
  ++weak.lock()->waits;
  while (true) {
    State* const state = weak.lock().get();
    if (state == nullptr || state->gone) co_return as_result(Outcome::kCancelled);
    if (std::exchange(state->notified, false)) co_return as_result(Outcome::kReady);
    const Outcome outcome = co_await state->waiter.park();
    if (outcome != Outcome::kReady) co_return as_result(outcome);
  }
}

Awaitable<Result<void>> Wake::wait_for(Duration limit) {
  const std::weak_ptr<State> weak = state_;
  if (!state_->timer) state_->timer.emplace(state_->loop.context().get_executor());
  state_->timer->expires_after(limit);
  state_->timer->async_wait([weak, number = state_->waits + 1](const error_code& error) {
    const auto self = weak.lock();
    if (error || !self || self->waits != number) return;
    const Turn turn(self->loop.state());
    self->waiter.resume(Outcome::kTimeout);
  });
  const Result<void> result = co_await wait();
  const std::shared_ptr<State> state = weak.lock();
  if (state) {
    ++state->waits;
    state->timer->cancel();
  }
  co_return result;
}

}  // namespace baton::http
