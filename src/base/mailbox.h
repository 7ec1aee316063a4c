// The only way values pass between threads: a bounded queue with one consumer. A producer that finds it full
// is told so and decides (429 at the door); nobody blocks on a full mailbox. The consumer either waits here
// or is woken through `on_post`, which is called after each successful post, outside the lock.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace baton {

template <class T>
class Mailbox {
 public:
  explicit Mailbox(size_t capacity, std::function<void()> on_post = {})
      : capacity_(capacity), on_post_(std::move(on_post)) {}
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  // False when full or closed; `item` is then left as it was. Any thread.
  [[nodiscard]] bool post(T&& item) {
    {
      const std::lock_guard lock(mutex_);
      if (closed_ || items_.size() >= capacity_) return false;
      items_.push_back(std::move(item));
    }
    arrived_.notify_one();
    if (on_post_) on_post_();
    return true;
  }

  // Everything that has arrived, in order; empty at once if nothing has. Consumer only.
  std::vector<T> take_all() {
    const std::lock_guard lock(mutex_);
    return drain();
  }

  // As take_all, but waits up to `timeout` for something to arrive or for close(). Consumer only.
  std::vector<T> wait_all(Duration timeout) {
    std::unique_lock lock(mutex_);
    arrived_.wait_for(lock, timeout, [this] { return closed_ || !items_.empty(); });
    return drain();
  }

  // No post succeeds afterwards; what is queued can still be taken. Any thread.
  void close() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    arrived_.notify_all();
  }

  bool closed() const {
    const std::lock_guard lock(mutex_);
    return closed_;
  }

 private:
  std::vector<T> drain() {
    std::vector<T> taken(std::make_move_iterator(items_.begin()), std::make_move_iterator(items_.end()));
    items_.clear();
    return taken;
  }

  const size_t capacity_;
  const std::function<void()> on_post_;
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<T> items_;
  bool closed_ = false;
};

}  // namespace baton
