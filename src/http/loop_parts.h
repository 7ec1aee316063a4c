// Parts that the sources of this room share and nobody else includes (Asio's weight is here): a parked
// coroutine, the end of a turn, an input buffer.
#pragma once

#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "base/check.h"
#include "http/io_loop.h"

namespace baton::http {

namespace asio = boost::asio;
using boost::system::error_code;

// Bound to the loop's own executor type: no type erasure on the way of every byte.
using Executor = asio::io_context::executor_type;
using Socket = asio::basic_stream_socket<asio::ip::tcp, Executor>;

// Something with output that shall leave when the current callback has done all it can.
class TurnEnd {
 public:
  virtual ~TurnEnd() = default;
  virtual void at_turn_end() = 0;
};

// A place in the list of all parked coroutines of a loop, so that a loop that ends can end them too.
struct ParkedLink {
  ParkedLink* previous = this;
  ParkedLink* next = this;

  ParkedLink() = default;
  ParkedLink(const ParkedLink&) = delete;
  ParkedLink& operator=(const ParkedLink&) = delete;
  void insert_after(ParkedLink& other) {
    previous = &other;
    next = other.next;
    other.next->previous = this;
    other.next = this;
  }
  void remove() {
    previous->next = next;
    next->previous = previous;
    previous = next = this;
  }
};

struct IoLoop::State {
  ParkedLink parked;
  asio::io_context context{1};
  int turn_depth = 0;
  bool end_posted = false;
  bool running = false;
  std::vector<std::shared_ptr<TurnEnd>> ends;
};

// One callback of the room. Everything the coroutines that it resumes have written is sent when it ends: one
// send for a head, an event and an end, and no detour through the queue (each costs an epoll_wait).
class Turn {
 public:
  explicit Turn(IoLoop::State& loop) : loop_(loop) { ++loop_.turn_depth; }
  ~Turn() {
    if (loop_.turn_depth == 1) run_ends(loop_);
    --loop_.turn_depth;
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  // Calls end->at_turn_end() when the turn ends, or in a turn of its own when there is none.
  static void at_end(IoLoop::State& loop, std::shared_ptr<TurnEnd> end);

 private:
  static void run_ends(IoLoop::State& loop);

  IoLoop::State& loop_;
};

enum class Outcome { kReady, kCancelled, kTimeout };

// Holds one coroutine that waits for something within this room. resume() runs it at once, on the caller's
// stack, until it waits again. Owner: the io thread.
class Waiter : private ParkedLink {
 public:
  explicit Waiter(IoLoop& loop) : loop_(loop) {}
  ~Waiter() { forget(); }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  bool parked() const { return parked_ != nullptr; }

  // Suspends the calling coroutine. CHECK: one at a time. kCancelled when it is cancelled.
  asio::awaitable<Outcome> park() {
    CHECK(!parked(), "two coroutines wait for one thing");
    return asio::async_initiate<const asio::use_awaitable_t<>, void(Outcome)>(
        [this](auto&& handler) { hold(std::forward<decltype(handler)>(handler)); }, asio::use_awaitable);
  }

  void resume(Outcome outcome) {
    if (!parked()) return;
    Parked* const waiting = parked_.get();
    waiting->run(take(), outcome);
  }

  // Destroys whatever waits on a loop that has run for the last time.
  static void forget_all(IoLoop::State& loop) {
    while (loop.parked.next != &loop.parked) static_cast<Waiter*>(loop.parked.next)->forget();
  }

 private:
  struct Parked {
    virtual ~Parked() = default;
    virtual void disconnect() = 0;
    virtual void run(std::unique_ptr<Parked> self, Outcome outcome) = 0;
  };

  template <class Handler>
  struct ParkedHandler final : Parked {
    explicit ParkedHandler(Handler&& handler) : handler(std::move(handler)) {}
    void disconnect() override {
      auto slot = asio::get_associated_cancellation_slot(handler);
      if (slot.is_connected()) slot.clear();
    }
    void run(std::unique_ptr<Parked> self, Outcome outcome) override {
      disconnect();
      Handler resumed = std::move(handler);
      self.reset();
      std::move(resumed)(outcome);
    }
    Handler handler;
  };

  template <class Handler>
  void hold(Handler&& handler) {
    using Plain = std::decay_t<Handler>;
    auto slot = asio::get_associated_cancellation_slot(handler);
    auto held = std::make_unique<ParkedHandler<Plain>>(std::move(handler));
    if (slot.is_connected()) slot.assign([this](asio::cancellation_type) { cancel(); });
    parked_ = std::move(held);
    insert_after(loop_.state().parked);
  }

  // Within the slot's own call: the coroutine may wait on the slot again, so it must run later.
  void cancel() {
    if (!parked()) return;
    asio::post(loop_.context(), [&loop = loop_, held = take()]() mutable {
      const Turn turn(loop.state());
      Parked* const waiting = held.get();
      waiting->run(std::move(held), Outcome::kCancelled);
    });
  }

  std::unique_ptr<Parked> take() {
    remove();
    return std::move(parked_);
  }

  // The coroutine may own this object, which is then gone.
  void forget() {
    if (!parked()) return;
    const std::unique_ptr<Parked> held = take();
    held->disconnect();
  }

  IoLoop& loop_;
  std::unique_ptr<Parked> parked_;
};

// Whether the calling coroutine was cancelled already: then nothing in this room makes it wait.
inline asio::awaitable<bool> is_cancelled() {
  const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
  co_return state.cancelled() != asio::cancellation_type::none;
}

// Bytes received and not yet parsed, contiguous. What prepare gave stays in place until the next prepare, so
// that bytes may be consumed while a read is pending.
class InputBuffer {
 public:
  std::string_view view() const { return {bytes_.get() + start_, end_ - start_}; }
  size_t size() const { return end_ - start_; }
  void consume(size_t count) { start_ += count; }
  // Room for at least `count` more bytes behind those held.
  asio::mutable_buffer prepare(size_t count) {
    if (start_ == end_) start_ = end_ = 0;
    if (capacity_ - end_ < count) make_room(count);
    return {bytes_.get() + end_, capacity_ - end_};
  }
  void commit(size_t count) { end_ += count; }
  void clear() { start_ = end_; }

 private:
  void make_room(size_t count) {
    const size_t held = size();
    if (capacity_ < held + count) {
      capacity_ = held + count;
      std::unique_ptr<char[]> grown(new char[capacity_]);
      if (held > 0) std::memcpy(grown.get(), bytes_.get() + start_, held);
      bytes_ = std::move(grown);
    } else if (held > 0) {
      std::memmove(bytes_.get(), bytes_.get() + start_, held);
    }
    start_ = 0;
    end_ = held;
  }

  std::unique_ptr<char[]> bytes_;
  size_t capacity_ = 0;
  size_t start_ = 0;
  size_t end_ = 0;
};

// Bytes on their way out. What is appended while a send is unfinished waits behind it.
class OutputBuffer {
 public:
  std::string& tail() { return tail_; }  // append here
  size_t size() const { return sending_.size() - sent_ + tail_.size(); }
  bool empty() const { return size() == 0; }
  void clear() {
    sending_.clear();
    tail_.clear();
    sent_ = 0;
  }

  enum class Sent { kAll, kBlocked, kFailed };
  // Gives the kernel as much as it takes; never waits. errno says why it failed.
  Sent send_to(int fd);

 private:
  std::string sending_;
  size_t sent_ = 0;
  std::string tail_;
};

}  // namespace baton::http
