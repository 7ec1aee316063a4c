#include "router/wait_queue.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace baton::router {
namespace {

// Places by name, and who was woken, in order.
struct Waiting {
  explicit Waiting(size_t capacity) : queue(capacity) {}
  WaitQueue::Place enter(char name) {
    return queue.enter([this, name] { woken += name; });
  }
  std::string woken;
  WaitQueue queue;
};

TEST(WaitQueue, IsFullWhenAsManyWaitAsItHasPlaces) {
  Waiting w(2);
  const auto a = w.enter('a');
  EXPECT_FALSE(w.queue.is_full());
  auto b = w.enter('b');
  EXPECT_TRUE(w.queue.is_full());
  b.leave();
  b.leave();
  EXPECT_FALSE(w.queue.is_full());
  EXPECT_EQ(w.queue.size(), 1U);
  EXPECT_TRUE(WaitQueue(0).is_full());
}

TEST(WaitQueue, WakesTheFirstAloneAndTheNextWhenThatLeaves) {
  Waiting w(3);
  auto a = w.enter('a');
  auto b = w.enter('b');
  auto c = w.enter('c');
  w.queue.on_room();
  w.queue.on_room();
  EXPECT_EQ(w.woken, "aa");
  EXPECT_TRUE(a.is_first());
  b.leave();  // not the first: nothing changes for the others
  EXPECT_EQ(w.woken, "aa");
  a.leave();
  EXPECT_EQ(w.woken, "aac");
  EXPECT_TRUE(c.is_first());
}

TEST(WaitQueue, APlaceIsLeftHoweverItsOwnerEnds) {
  Waiting w(3);
  {
    const auto a = w.enter('a');
    EXPECT_EQ(w.queue.size(), 1U);
  }
  EXPECT_TRUE(w.queue.empty());
  auto b = w.enter('b');
  auto c = w.enter('c');
  WaitQueue::Place moved = std::move(b);
  EXPECT_FALSE(b);  // NOLINT(bugprone-use-after-move)
  EXPECT_TRUE(moved.is_first());
  EXPECT_EQ(w.queue.size(), 2U);
  moved = std::move(c);  // what it had is left
  EXPECT_EQ(w.queue.size(), 1U);
  EXPECT_EQ(w.woken, "c");
  EXPECT_TRUE(moved.is_first());
}

}  // namespace
}  // namespace baton::router
