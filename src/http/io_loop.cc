#include "http/io_loop.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <exception>
#include <string>

#include "base/log.h"
#include "base/thread.h"
#include "http/loop_parts.h"

namespace baton::http {
namespace {

using Timer = asio::basic_waitable_timer<std::chrono::steady_clock,
                                         asio::wait_traits<std::chrono::steady_clock>, Executor>;

constexpr size_t kBufferKeptMax = 256 * 1024;  // capacity that an empty output buffer keeps

// What a library threw into the loop is reported and goes no further.
void report(std::string_view name, const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const std::exception& error) {
    log_error("http", fmt::format("{}: {}", name, error.what()));
  } catch (...) {
    log_error("http", fmt::format("{}: an unknown exception", name));
  }
}

// Awaits in this room end with a value, never by an exception, also after a cancellation.
Awaitable<void> without_throwing(Awaitable<void> work) {
  co_await asio::this_coro::throw_if_cancelled(false);
  co_await std::move(work);
}

}  // namespace

void Turn::at_end(IoLoop::State& loop, std::shared_ptr<TurnEnd> end) {
  loop.ends.push_back(std::move(end));
  if (loop.turn_depth > 0 || loop.end_posted) return;
  loop.end_posted = true;
  asio::post(loop.context, [&loop] {
    loop.end_posted = false;
    const Turn turn(loop);
  });
}

void Turn::run_ends(IoLoop::State& loop) {
  // An end may add another, never without end: room for a writer is announced in a later turn.
  for (size_t i = 0; i < loop.ends.size(); ++i) {
    const std::shared_ptr<TurnEnd> end = std::move(loop.ends[i]);
    end->at_turn_end();
  }
  loop.ends.clear();
}

OutputBuffer::Sent OutputBuffer::send_to(int fd) {
  while (!empty()) {
    if (sent_ == sending_.size()) {
      sending_.clear();
      sent_ = 0;
      sending_.swap(tail_);
      if (tail_.capacity() > kBufferKeptMax) tail_ = std::string();
    }
    const ssize_t sent =
        ::send(fd, sending_.data() + sent_, sending_.size() - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? Sent::kBlocked : Sent::kFailed;
    sent_ += static_cast<size_t>(sent);
  }
  return Sent::kAll;
}

IoLoop::IoLoop() : state_(std::make_unique<State>()) {}
IoLoop::~IoLoop() { Waiter::forget_all(*state_); }

asio::io_context& IoLoop::context() { return state_->context; }

void IoLoop::run() {
  be_prompt();
  const auto guard = asio::make_work_guard(state_->context);
  state_->running = true;
  state_->context.restart();
  while (!state_->context.stopped()) {
    try {
      state_->context.run();
    } catch (...) {
      report("a callback", std::current_exception());
    }
  }
  state_->running = false;
}

void IoLoop::run_for(Duration limit) {
  state_->running = true;
  state_->context.restart();
  state_->context.run_for(limit);
  state_->running = false;
}

void IoLoop::stop() { state_->context.stop(); }

void IoLoop::post(std::function<void()> task) {
  asio::post(state_->context, [this, task = std::move(task)] {
    const Turn turn(*state_);
    task();
  });
}

void IoLoop::spawn(std::string_view name, Awaitable<void> work) { spawn(name, std::move(work), {}); }

void IoLoop::spawn(std::string_view name, Awaitable<void> work, std::function<void()> done) {
  asio::co_spawn(state_->context, without_throwing(std::move(work)),
                 [name = std::string(name), done = std::move(done)](const std::exception_ptr& thrown) {
                   if (thrown) report(name, thrown);
                   if (done) done();
                 });
}

Awaitable<Result<void>> IoLoop::sleep(Duration duration) {
  const bool cancelled = co_await is_cancelled();
  if (cancelled) co_return fail(Code::kCancelled, "sleep: cancelled");
  Timer timer(state_->context.get_executor(), duration);
  const auto [error] = co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
  if (error) co_return fail(Code::kCancelled, "sleep: cancelled");
  co_return Result<void>();
}

namespace {

void await_signal(const std::shared_ptr<asio::signal_set>& set,
                  const std::shared_ptr<std::function<void(int)>>& task) {
  set->async_wait([set, task](const error_code& error, int signal) {
    if (error) return;
    (*task)(signal);
    await_signal(set, task);
  });
}

}  // namespace

void IoLoop::on_signal(std::initializer_list<int> signals, std::function<void(int)> task) {
  const auto set = std::make_shared<asio::signal_set>(state_->context);
  for (const int signal : signals) set->add(signal);
  auto in_a_turn = [this, task = std::move(task)](int signal) {
    const Turn turn(*state_);
    task(signal);
  };
  await_signal(set, std::make_shared<std::function<void(int)>>(std::move(in_a_turn)));
}

// Lives as long as its owner's handle: the pending wait holds it only weakly.
class IoLoop::Ticker : public std::enable_shared_from_this<IoLoop::Ticker> {
 public:
  Ticker(State& loop, Duration period, std::function<void()> task)
      : loop_(loop), timer_(loop.context.get_executor()), period_(period), task_(std::move(task)) {}

  void start() {
    timer_.expires_after(period_);
    timer_.async_wait([weak = weak_from_this()](const error_code& error) {
      const auto self = weak.lock();
      if (error || !self) return;
      {
        const Turn turn(self->loop_);
        self->task_();
      }
      self->start();
    });
  }

 private:
  State& loop_;
  Timer timer_;
  Duration period_;
  std::function<void()> task_;
};

std::shared_ptr<IoLoop::Ticker> IoLoop::every(Duration period, std::function<void()> task) {
  auto ticker = std::make_shared<Ticker>(*state_, period, std::move(task));
  ticker->start();
  return ticker;
}

}  // namespace baton::http
