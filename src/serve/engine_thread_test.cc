// What passes between the engine thread and the others: submits up to a bound, aborts that reach a running
// pass, answers, questions, and the end.
#include "serve/engine_thread.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <future>
#include <map>
#include <mutex>

#include "http/testing.h"
#include "model/testing.h"

namespace baton::serve {
namespace {

constexpr std::chrono::seconds kPatience{20};

// An engine over the fake model on a thread. `gate` closed: the thread stands still when it has answers to
// give.
class Rig {
 public:
  explicit Rig(uint32_t waiting_max = 1024) {
    arena_ = std::move(*kv::KvArena::create(model_.info().kv_layout, 64, Incarnation{{7}}));
    recorder_ = std::make_unique<engine::Recorder>(::testing::TempDir());
    engine::EngineConfig config;
    config.handover.incarnation = Incarnation{{7}};
    config.handover.lease = std::chrono::milliseconds(20);
    config.waiting_max = waiting_max;
    engine_ = std::make_unique<engine::Engine>(
        config, model_, *arena_,
        engine::Surroundings{
            .clock = &clock_, .poll_interrupt = {}, .emit = {}, .recorder = recorder_.get(), .refill = {}});
    thread_ = std::make_unique<EngineThread>(*engine_, *recorder_, beacon_, [this](engine::Outbox outbox) {
      if (!outbox.answers.empty()) take(std::move(outbox.answers));
    });
  }

  static engine::Request request(uint64_t id, uint32_t max_tokens = 2) {
    engine::Request out;
    out.id = RequestId{id};
    out.external_id = "r" + std::to_string(id);
    out.prompt = {1, 2, 3};
    out.sampling.max_tokens = max_tokens;
    return out;
  }
  bool submit(uint64_t id, uint32_t max_tokens = 2) {
    return thread_->post(engine::Submit{request(id, max_tokens)});
  }

  void close_gate() {
    gate_ = std::promise<void>();
    const std::lock_guard lock(mutex_);
    closed_ = gate_.get_future().share();
  }
  void wait_until_it_stands() {
    ASSERT_EQ(standing_.get_future().wait_for(kPatience), std::future_status::ready);
  }
  void open_gate() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = {};
    }
    gate_.set_value();
  }

  // Ends by request, once `count` of them have come.
  std::map<uint64_t, std::string> ends(size_t count) {
    for (int i = 0; i < 2000; ++i) {
      {
        const std::lock_guard lock(mutex_);
        if (ends_.size() >= count) return ends_;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << "fewer than " << count << " requests ended";
    return {};
  }

  Result<EngineReport> report() {
    std::promise<Result<EngineReport>> got;
    loop_.await(ask(*thread_, loop_.loop(), got));
    return got.get_future().get();
  }
  Result<std::string> record() {
    std::promise<Result<std::string>> got;
    loop_.await(write(*thread_, loop_.loop(), got));
    return got.get_future().get();
  }

  EngineThread& thread() { return *thread_; }
  Beacon& beacon() { return beacon_; }
  const Clock& clock() const { return clock_; }

 private:
  static http::Awaitable<void> ask(EngineThread& engine, http::IoLoop& io,
                                   std::promise<Result<EngineReport>>& into) {
    auto report = co_await engine.report(io);
    into.set_value(std::move(report));
  }
  static http::Awaitable<void> write(EngineThread& engine, http::IoLoop& io,
                                     std::promise<Result<std::string>>& into) {
    auto path = co_await engine.write_record(io);
    into.set_value(std::move(path));
  }

  void take(std::vector<engine::Answer> answers) {
    std::shared_future<void> closed;
    {
      const std::lock_guard lock(mutex_);
      for (const engine::Answer& answer : answers) {
        if (const auto* end = std::get_if<engine::FinishedEvent>(&answer))
          note(value(end->request), "finished");
        if (const auto* end = std::get_if<engine::FailedEvent>(&answer))
          note(value(end->request), std::string(code_name(end->error.code)));
      }
      closed = closed_;
    }
    if (!closed.valid()) return;
    if (!stood_) standing_.set_value();
    stood_ = true;
    closed.wait();
  }
  void note(uint64_t id, std::string how) {
    EXPECT_TRUE(ends_.emplace(id, std::move(how)).second) << id << " ended twice";
  }

  SteadyClock clock_;
  model::FakeModel model_;
  std::unique_ptr<kv::KvArena> arena_;
  std::unique_ptr<engine::Recorder> recorder_;
  std::unique_ptr<engine::Engine> engine_;
  Beacon beacon_;
  http::LoopThread loop_;
  std::mutex mutex_;
  std::map<uint64_t, std::string> ends_;
  std::promise<void> gate_;
  std::shared_future<void> closed_;
  std::promise<void> standing_;
  bool stood_ = false;  // engine thread
  std::unique_ptr<EngineThread> thread_;
};

TEST(EngineThread, AnswersWhatIsSubmittedAndRests) {
  Rig rig;
  for (uint64_t id = 1; id <= 5; ++id) ASSERT_TRUE(rig.submit(id));
  for (const auto& [id, how] : rig.ends(5)) EXPECT_EQ(how, "finished") << id;
  const auto report = rig.report();
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(report->requests.empty());
  EXPECT_EQ(report->stats.blocks_free, 64U);
  // A question is answered from the rest, and the thread goes back to it.
  for (int i = 0; i < 2000 && rig.beacon().is_working.load(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(rig.thread().beacon_silence(), Duration{0});
}

TEST(EngineThread, TakesSubmitsUpToABoundAndAlwaysAborts) {
  Rig rig(8192);
  rig.close_gate();
  ASSERT_TRUE(rig.submit(1));
  rig.wait_until_it_stands();
  for (uint64_t i = 0; i < kSubmitsWaitingMax; ++i) ASSERT_TRUE(rig.submit(2 + i));
  engine::Inbox one_more = engine::Submit{Rig::request(9999)};
  EXPECT_FALSE(rig.thread().post(std::move(one_more)));
  // NOLINTNEXTLINE(bugprone-use-after-move): a refused post leaves it as it was
  EXPECT_EQ(std::get<engine::Submit>(one_more).request.external_id, "r9999");
  EXPECT_FALSE(rig.beacon().tick(rig.clock()));
  EXPECT_TRUE(rig.thread().post(engine::Abort{RequestId{2}, "left"}));
  EXPECT_TRUE(rig.beacon().tick(rig.clock())) << "a running pass does not hear of the abort";
  EXPECT_GE(rig.thread().beacon_silence(), Duration{0});
  EXPECT_TRUE(rig.beacon().is_working.load());
  rig.open_gate();
  const auto ends = rig.ends(1 + kSubmitsWaitingMax);
  EXPECT_EQ(ends.size(), 1 + kSubmitsWaitingMax);
  EXPECT_EQ(ends.at(2), "cancelled");
  EXPECT_FALSE(rig.beacon().tick(rig.clock())) << "the abort was taken";
  EXPECT_TRUE(rig.submit(10'000)) << "there is room again";
  rig.ends(2 + kSubmitsWaitingMax);
}

TEST(EngineThread, WakesForADeadlineThatNobodyTellsItOf) {
  Rig rig;
  engine::Request held = Rig::request(1, 5);
  held.hold = HandoverId{{3}};
  ASSERT_TRUE(rig.thread().post(engine::Submit{std::move(held)}));
  rig.ends(1);
  uint64_t released = 0;
  for (int i = 0; i < 2000 && released == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    const auto report = rig.report();
    ASSERT_TRUE(report);
    released = report->stats.handovers_released;
    if (released > 0) EXPECT_EQ(report->stats.blocks_free, 64U);
  }
  EXPECT_EQ(released, 1U);
}

TEST(EngineThread, WritesItsFlightRecord) {
  Rig rig;
  ASSERT_TRUE(rig.submit(1));
  rig.ends(1);
  const auto path = rig.record();
  ASSERT_TRUE(path) << path.error().message;
  EXPECT_GT(std::filesystem::file_size(*path), 0U);
  std::filesystem::remove(*path);
}

TEST(EngineThread, TakesNothingOnceItHasStopped) {
  Rig rig;
  ASSERT_TRUE(rig.submit(1));
  rig.ends(1);
  rig.thread().stop();
  rig.thread().stop();
  engine::Inbox item = engine::Submit{Rig::request(2)};
  EXPECT_FALSE(rig.thread().post(std::move(item)));
  // NOLINTNEXTLINE(bugprone-use-after-move): a refused post leaves it as it was
  EXPECT_EQ(std::get<engine::Submit>(item).request.external_id, "r2");
  EXPECT_FALSE(rig.thread().post(engine::Abort{RequestId{1}, "late"}));
  EXPECT_FALSE(rig.beacon().tick(rig.clock()));
  EXPECT_EQ(rig.report().error().code, Code::kUnavailable);
  EXPECT_EQ(rig.record().error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace baton::serve
