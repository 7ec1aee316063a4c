// The io thread: one thread that owns every session, connection and timer of the process. Coroutines and
// callbacks of this room run on it, one at a time, so nothing here has a lock. Other threads reach it by
// post.
#pragma once

#include <boost/asio/awaitable.hpp>

#include <functional>
#include <initializer_list>
#include <memory>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"

namespace boost::asio {
class io_context;
}

namespace baton::http {

template <class T>
using Awaitable = boost::asio::awaitable<T>;

class IoLoop {
 public:
  IoLoop();
  ~IoLoop();
  IoLoop(const IoLoop&) = delete;
  IoLoop& operator=(const IoLoop&) = delete;

  // Runs on the calling thread, the io thread from now on, until stop(). An exception that leaves a callback
  // is logged and the loop goes on.
  void run();
  // As run, but returns when no work is left or after `limit`. For tests.
  void run_for(Duration limit);
  void stop();  // any thread

  // Any thread. Callbacks run in the order of posting.
  void post(std::function<void()> task);

  // Starts a coroutine of its own, which nobody cancels; `name` appears in the log if an exception leaves it.
  // io thread, or before run().
  void spawn(std::string_view name, Awaitable<void> work);
  // As spawn; `done` is called on the io thread when it ended.
  void spawn(std::string_view name, Awaitable<void> work, std::function<void()> done);

  // kCancelled when the awaiting coroutine was cancelled.
  Awaitable<Result<void>> sleep(Duration duration);

  // Calls `task` on the io thread at each of these signals (SIGTERM, SIGINT, ...), until the loop ends.
  void on_signal(std::initializer_list<int> signals, std::function<void(int)> task);

  // Calls `task` every `period` until the returned handle is gone. The loop is kept alive by a Ticker.
  class Ticker;
  std::shared_ptr<Ticker> every(Duration period, std::function<void()> task);

  boost::asio::io_context& context();
  Time now() const { return clock_.now(); }

  struct State;  // for the sources of this room
  State& state() { return *state_; }

 private:
  std::unique_ptr<State> state_;
  SteadyClock clock_;
};

}  // namespace baton::http
