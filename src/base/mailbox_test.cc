#include "base/mailbox.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>

namespace baton {
namespace {

TEST(Mailbox, KeepsOrderAndRefusesWhenFull) {
  Mailbox<int> box(2);
  EXPECT_TRUE(box.post(1));
  EXPECT_TRUE(box.post(2));
  EXPECT_FALSE(box.post(3));
  EXPECT_EQ(box.take_all(), (std::vector{1, 2}));
  EXPECT_TRUE(box.post(4));
}

TEST(Mailbox, LeavesARefusedItemWithItsOwner) {
  Mailbox<std::unique_ptr<int>> box(0);
  auto item = std::make_unique<int>(7);
  EXPECT_FALSE(box.post(std::move(item)));
  ASSERT_TRUE(item);  // NOLINT(bugprone-use-after-move): a refused post does not move
  EXPECT_EQ(*item, 7);
}

TEST(Mailbox, WakesAWaitingConsumer) {
  Mailbox<int> box(1);
  std::thread producer([&] { EXPECT_TRUE(box.post(5)); });
  EXPECT_EQ(box.wait_all(std::chrono::seconds(10)), std::vector{5});
  producer.join();
}

TEST(Mailbox, CloseEndsTheWaitAndKeepsWhatWasQueued) {
  Mailbox<int> box(4);
  EXPECT_TRUE(box.post(1));
  box.close();
  EXPECT_FALSE(box.post(2));
  EXPECT_EQ(box.wait_all(std::chrono::hours(1)), std::vector{1});
  EXPECT_TRUE(box.wait_all(std::chrono::hours(1)).empty());
}

}  // namespace
}  // namespace baton
