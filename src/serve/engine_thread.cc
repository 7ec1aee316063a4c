#include "serve/engine_thread.h"

#include <pthread.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "http/wake.h"

namespace baton::serve {
namespace {

constexpr Duration kIdleWait = std::chrono::seconds(1);
constexpr Duration kReportWait = std::chrono::seconds(5);

}  // namespace

EngineThread::EngineThread(engine::Engine& engine, engine::Recorder& recorder, Beacon& beacon,
                           Deliver deliver)
    : engine_(engine), recorder_(recorder), beacon_(beacon), deliver_(std::move(deliver)), thread_([this] {
        run();
      }) {
  pthread_setname_np(thread_.native_handle(), "engine");
}

EngineThread::~EngineThread() { stop(); }

void EngineThread::stop() {
  mailbox_.close();
  if (thread_.joinable()) thread_.join();
}

bool EngineThread::post(engine::Inbox&& item) {
  const bool is_submit = std::holds_alternative<engine::Submit>(item);
  const bool is_abort = std::holds_alternative<engine::Abort>(item);
  if (is_submit && submits_waiting_.fetch_add(1) >= kSubmitsWaitingMax) {
    submits_waiting_.fetch_sub(1);
    return false;
  }
  if (is_abort) beacon_.aborts_waiting.fetch_add(1);
  Item wrapped(std::move(item));
  if (mailbox_.post(std::move(wrapped))) return true;
  item = std::get<engine::Inbox>(
      std::move(wrapped));  // NOLINT(bugprone-use-after-move): a refused post does not move
  if (is_submit) submits_waiting_.fetch_sub(1);
  if (is_abort) beacon_.aborts_waiting.fetch_sub(1);
  return false;
}

std::vector<engine::Inbox> EngineThread::take_inbox() {
  std::vector<Item> items;
  if (engine_.has_work()) {
    items = mailbox_.take_all();
  } else {
    beacon_.is_working.store(false);
    const Time now = clock_.now();
    const Time deadline = engine_.next_deadline();
    const Duration wait = deadline == kNever ? kIdleWait : std::clamp(deadline - now, Duration{0}, kIdleWait);
    items = mailbox_.wait_all(wait);
  }
  std::vector<engine::Inbox> inbox;
  for (Item& item : items) {
    if (auto* inspect = std::get_if<Inspect>(&item)) {
      (*inspect)(engine_);
      continue;
    }
    auto& in = std::get<engine::Inbox>(item);
    if (std::holds_alternative<engine::Submit>(in)) submits_waiting_.fetch_sub(1);
    if (std::holds_alternative<engine::Abort>(in)) beacon_.aborts_waiting.fetch_sub(1);
    inbox.push_back(std::move(in));
  }
  return inbox;
}

void EngineThread::run() {
  while (!mailbox_.closed()) {
    std::vector<engine::Inbox> inbox = take_inbox();
    const Time now = clock_.now();
    if (inbox.empty() && !engine_.has_work() && engine_.next_deadline() > now) continue;
    static_cast<void>(beacon_.tick(clock_));
    beacon_.is_working.store(true);
    deliver_(engine_.step(std::move(inbox), now));
  }
  beacon_.is_working.store(false);
}

Duration EngineThread::beacon_silence() const {
  if (!beacon_.is_working.load()) return Duration{0};
  return clock_.now().since_start - Duration(beacon_.last_ns.load(std::memory_order_relaxed));
}

namespace {

// What crosses back from the engine thread: filled there, read on the io thread once `wake` was notified.
template <class T>
struct Reply {
  explicit Reply(http::IoLoop& loop) : wake(loop) {}
  http::Wake wake;
  std::optional<T> value;
};

template <class T>
http::Awaitable<Result<T>> await_reply(std::shared_ptr<Reply<T>> reply) {
  const Result<void> woken = co_await reply->wake.wait_for(kReportWait);
  if (!woken) co_return Failure(woken.error());
  co_return std::move(*reply->value);
}

}  // namespace

http::Awaitable<Result<EngineReport>> EngineThread::report(http::IoLoop& loop) {
  auto reply = std::make_shared<Reply<EngineReport>>(loop);
  const bool posted = mailbox_.post(Item(Inspect([reply, &loop](engine::Engine& engine) {
    // The reply is written before the io thread is told, and read only after.
    reply->value = EngineReport{engine.stats(), engine.snapshot()};
    loop.post([reply] { reply->wake.notify(); });
  })));
  if (!posted)
    co_return fail(Code::kUnavailable, "the engine takes no questions: its inbox is full or closed");
  auto answer = co_await await_reply(std::move(reply));
  co_return answer;
}

http::Awaitable<Result<std::string>> EngineThread::write_record(http::IoLoop& loop) {
  auto reply = std::make_shared<Reply<Result<std::string>>>(loop);
  const bool posted = mailbox_.post(Item(Inspect([reply, &loop, this](engine::Engine&) {
    reply->value = recorder_.write_file();
    loop.post([reply] { reply->wake.notify(); });
  })));
  if (!posted)
    co_return fail(Code::kUnavailable, "the engine takes no questions: its inbox is full or closed");
  auto answer = co_await await_reply(std::move(reply));
  if (!answer) co_return Failure(answer.error());
  co_return std::move(*answer);
}

}  // namespace baton::serve
