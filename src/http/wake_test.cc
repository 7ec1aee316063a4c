#include "http/wake.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "http/testing.h"

namespace baton::http {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Awaitable<void> collect(Wake& wake, int waits, std::vector<Result<void>>& results) {
  for (int i = 0; i < waits; ++i) {
    Result<void> result = co_await wake.wait_for(seconds(20));
    results.push_back(std::move(result));
  }
}

TEST(Wake, RemembersOneNotification) {
  IoLoop loop;
  Wake wake(loop);
  std::vector<Result<void>> results;
  wake.notify();
  wake.notify();
  loop.spawn("collect", collect(wake, 2, results));
  loop.run_for(milliseconds(20));
  EXPECT_EQ(results.size(), 1U);
  wake.notify();
  loop.run_for(milliseconds(20));
  ASSERT_EQ(results.size(), 2U);
  EXPECT_TRUE(results[1].has_value());
}

TEST(Wake, TimesOutOnceAndWorksAgain) {
  IoLoop loop;
  Wake wake(loop);
  std::vector<Code> codes;
  const auto wait_twice = [](Wake& waited, std::vector<Code>& seen) -> Awaitable<void> {
    const Result<void> first = co_await waited.wait_for(milliseconds(5));
    seen.push_back(first.error().code);
    waited.notify();
    const Result<void> second = co_await waited.wait_for(seconds(20));
    seen.push_back(second ? Code::kInvalid : second.error().code);
  };
  loop.spawn("wait", wait_twice(wake, codes));
  loop.run_for(milliseconds(100));
  EXPECT_EQ(codes, (std::vector{Code::kTimeout, Code::kInvalid}));
}

TEST(Wake, EndsAWaitWhenItIsDestroyed) {
  IoLoop loop;
  auto wake = std::make_unique<Wake>(loop);
  std::vector<Result<void>> results;
  loop.spawn("collect", collect(*wake, 1, results));
  loop.run_for(milliseconds(5));
  wake.reset();
  loop.run_for(milliseconds(5));
  ASSERT_EQ(results.size(), 1U);
  EXPECT_EQ(results[0].error().code, Code::kCancelled);
}

TEST(Wake, LeavesNothingBehindWhenItsLoopEndsFirst) {
  auto witness = std::make_shared<int>(0);
  {
    IoLoop loop;
    const auto wait_for_ever = [](IoLoop& on, std::shared_ptr<int> held) -> Awaitable<void> {
      Wake own(on);
      const Result<void> never = co_await own.wait();
      *held = never ? 1 : 2;
    };
    loop.spawn("for ever", wait_for_ever(loop, witness));
    loop.run_for(milliseconds(5));
    EXPECT_EQ(witness.use_count(), 2);
  }
  EXPECT_EQ(witness.use_count(), 1);
  EXPECT_EQ(*witness, 0);
}

TEST(Wake, IsReachedFromAnotherThread) {
  LoopThread thread;
  Wake wake(thread.loop());
  std::vector<Result<void>> results;
  std::thread engine([&] {
    for (int i = 0; i < 1000; ++i) thread.loop().post([&] { wake.notify(); });
  });
  thread.await(collect(wake, 1, results));
  engine.join();
  thread.call([] {});
  EXPECT_TRUE(results[0].has_value());
}

TEST(IoLoop, TicksUntilTheHandleIsGone) {
  IoLoop loop;
  int ticks = 0;
  auto ticker = loop.every(milliseconds(1), [&] { ++ticks; });
  loop.run_for(milliseconds(50));
  EXPECT_GT(ticks, 1);
  ticker.reset();
  const int seen = ticks;
  loop.run_for(milliseconds(20));
  EXPECT_EQ(ticks, seen);
}

TEST(IoLoop, GoesOnAfterATaskThatThrows) {
  LoopThread thread;
  thread.loop().post([] { std::string().at(1); });
  EXPECT_EQ(thread.call([] { return 7; }), 7);
}

}  // namespace
}  // namespace baton::http
