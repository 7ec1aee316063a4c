// How a coroutine waits for something that is not a socket: a token from the engine, a slot, a decision.
// Owner: the io thread. From another thread: io_loop.post([wake] { wake->notify(); }).
#pragma once

#include <memory>

#include "base/clock.h"
#include "base/result.h"
#include "http/io_loop.h"

namespace baton::http {

// Remembers one notification: a notify() before wait() makes that wait return at once. One waiter at a time
// (CHECK). Destroying it while somebody waits ends the wait with kCancelled.
class Wake {
 public:
  explicit Wake(IoLoop& loop);
  ~Wake();
  Wake(const Wake&) = delete;
  Wake& operator=(const Wake&) = delete;

  void notify();
  // kCancelled when the waiting coroutine was cancelled (its client hung up).
  Awaitable<Result<void>> wait();
  // Also kTimeout, after `limit`.
  Awaitable<Result<void>> wait_for(Duration limit);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace baton::http
