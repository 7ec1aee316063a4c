// One request's wait in the registry's queue, for the flow of either order: entered when no instance has
// room, left when there is one, when the wait is over, and when the flow ends. io thread.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/result.h"
#include "router/flow.h"
#include "router/wait_queue.h"

namespace baton::router {

class RoomWait {
 public:
  RoomWait(WaitQueue& queue, Duration timeout) : queue_(queue), timeout_(timeout) {}
  RoomWait(const RoomWait&) = delete;  // the queue wakes it where it is
  RoomWait& operator=(const RoomWait&) = delete;

  // Before the first wait: what is called when there may be room; it must not call the flow.
  void set_wake(std::function<void()> wake) { wake_ = std::move(wake); }

  // Nobody overtakes those who wait.
  bool must_wait() const { return place_ ? !place_.is_first() : !queue_.empty(); }
  // kExhausted when the queue is full. `why`: what the client is told if the wait comes to nothing.
  Result<Wait> enter(Time now, std::string why) {
    if (!place_) {
      if (queue_.is_full()) {
        return fail(Code::kExhausted,
                    fmt::format("{}; {} requests wait already, the most that --max-waiting allows", why,
                                queue_.size()));
      }
      place_ = queue_.enter([this] { wake_(); });
      until_ = now + timeout_;
    }
    why_ = std::move(why);
    return Wait{until_ > now ? until_ - now : Duration{0}};
  }
  void leave() { place_.leave(); }
  // Leaves, and says what the client is told.
  Error on_over() {
    leave();
    return {Code::kExhausted,
            fmt::format("waited {:.1f} s, as long as --queue-timeout allows: {}", seconds(timeout_), why_)};
  }

 private:
  WaitQueue& queue_;
  Duration timeout_;
  std::function<void()> wake_ = [] {};
  WaitQueue::Place place_;
  Time until_;
  std::string why_;
};

}  // namespace baton::router
