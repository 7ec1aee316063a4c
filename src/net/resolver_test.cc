#include "net/resolver.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <atomic>
#include <semaphore>
#include <thread>

namespace baton::net {
namespace {

constexpr int kPatienceMs = 20'000;

// Names that begin with "hangs" are answered when the test says so; "nowhere" does not exist.
class Names {
 public:
  Resolver::Lookup lookup() {
    return [inside = inside_](const Address& address) -> Result<std::vector<Endpoint>> {
      ++inside->lookups;
      if (address.host.starts_with("hangs")) inside->may_end.acquire();
      ++inside->ended;
      if (address.host == "nowhere") return fail(Code::kUnavailable, "host \"nowhere\": unknown");
      return std::vector{*literal_endpoint("127.0.0.1", address.port)};
    };
  }
  int lookups() const { return inside_->lookups; }
  int ended() const { return inside_->ended; }
  void let_end(int count) { inside_->may_end.release(count); }

 private:
  struct Inside {
    std::counting_semaphore<> may_end{0};
    std::atomic<int> lookups{0};
    std::atomic<int> ended{0};
  };
  std::shared_ptr<Inside> inside_ = std::make_shared<Inside>();
};

class ResolverTest : public testing::Test {
 protected:
  ResolverTest() : wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  // The hosts that were answered, "!" before those that failed.
  std::vector<std::string> wait_for(Resolver& resolver, size_t count) {
    std::vector<std::string> hosts;
    while (hosts.size() < count) {
      pollfd waiting{.fd = wake_.get(), .events = POLLIN, .revents = 0};
      if (poll(&waiting, 1, kPatienceMs) <= 0) break;
      uint64_t written = 0;
      (void)!::read(wake_.get(), &written, sizeof(written));
      for (const auto& answer : resolver.take_answers())
        hosts.push_back((answer.endpoints ? "" : "!") + answer.host);
    }
    std::ranges::sort(hosts);
    return hosts;
  }
  Fd copy_of_wake() const { return Fd(dup(wake_.get())); }

  Fd wake_;
  Names names_;
};

TEST_F(ResolverTest, AnswersWakeItsOwner) {
  Resolver resolver(copy_of_wake(), names_.lookup());
  EXPECT_TRUE(resolver.ask("a"));
  EXPECT_TRUE(resolver.ask("nowhere"));
  EXPECT_EQ(wait_for(resolver, 2), (std::vector<std::string>{"!nowhere", "a"}));
  EXPECT_TRUE(resolver.ask("a"));
  EXPECT_EQ(wait_for(resolver, 1), std::vector<std::string>{"a"});
}

TEST_F(ResolverTest, ANameThatHangsDelaysNoOtherAndIsAskedForOnce) {
  Resolver resolver(copy_of_wake(), names_.lookup());
  EXPECT_TRUE(resolver.ask("hangs"));
  EXPECT_TRUE(resolver.ask("hangs"));
  EXPECT_TRUE(resolver.ask("a"));
  EXPECT_EQ(wait_for(resolver, 1), std::vector<std::string>{"a"});
  names_.let_end(1);
  EXPECT_EQ(wait_for(resolver, 1), std::vector<std::string>{"hangs"});
  EXPECT_EQ(names_.lookups(), 2);
}

TEST_F(ResolverTest, LooksUpABoundedNumberOfNames) {
  Resolver resolver(copy_of_wake(), names_.lookup());
  for (size_t i = 0; i < kLookupsMax; ++i) EXPECT_TRUE(resolver.ask(fmt::format("hangs-{}", i)));
  const auto refused = resolver.ask("a");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kExhausted);
  EXPECT_NE(refused.error().message.find("host \"a\": 16 names"), std::string::npos);
  names_.let_end(1);
  EXPECT_EQ(wait_for(resolver, 1).size(), 1U);
  EXPECT_TRUE(resolver.ask("a"));
  names_.let_end(kLookupsMax - 1);
  EXPECT_EQ(wait_for(resolver, kLookupsMax).size(), kLookupsMax);
}

TEST_F(ResolverTest, EndsWithoutWaitingForANameThatHangs) {
  {
    Resolver resolver(copy_of_wake(), names_.lookup());
    EXPECT_TRUE(resolver.ask("hangs"));
  }
  names_.let_end(1);
  while (names_.ended() == 0) std::this_thread::yield();
}

}  // namespace
}  // namespace baton::net
