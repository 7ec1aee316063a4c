// Requests that wait at the proxy for an instance with room, before anything was spent on them: first come,
// first served, bounded. Who is first tries when there may be room. Sans-I/O; the deadline is the shell's
// (router::Wait). io thread.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <utility>

namespace baton::router {

class WaitQueue {
 public:
  explicit WaitQueue(size_t capacity) : capacity_(capacity) {}
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;

  // A place in the queue, left when it goes out of scope. Move-only.
  class Place {
   public:
    Place() = default;
    Place(Place&& other) noexcept : queue_(std::exchange(other.queue_, nullptr)), at_(other.at_) {}
    Place& operator=(Place&& other) noexcept {
      if (this == &other) return *this;
      leave();
      queue_ = std::exchange(other.queue_, nullptr);
      at_ = other.at_;
      return *this;
    }
    ~Place() { leave(); }
    explicit operator bool() const { return queue_ != nullptr; }
    bool is_first() const { return queue_ != nullptr && at_ == queue_->waiting_.begin(); }
    void leave() {
      if (queue_ == nullptr) return;
      WaitQueue* queue = std::exchange(queue_, nullptr);
      const bool was_first = at_ == queue->waiting_.begin();
      queue->waiting_.erase(at_);
      if (was_first) queue->on_room();  // there may be room for the next, too
    }

   private:
    friend class WaitQueue;
    WaitQueue* queue_ = nullptr;
    std::list<std::function<void()>>::iterator at_;
  };

  bool is_full() const { return waiting_.size() >= capacity_; }
  bool empty() const { return waiting_.empty(); }
  size_t size() const { return waiting_.size(); }
  // Takes the last place; not when it is full. `wake` is called when there may be room and the place is
  // first.
  Place enter(std::function<void()> wake) {
    Place place;
    place.queue_ = this;
    place.at_ = waiting_.insert(waiting_.end(), std::move(wake));
    return place;
  }
  void on_room() {
    if (!waiting_.empty()) waiting_.front()();
  }

 private:
  size_t capacity_;
  std::list<std::function<void()>> waiting_;
};

}  // namespace baton::router
