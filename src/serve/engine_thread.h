// The thread that owns the engine: takes what its mailbox holds, steps, sends answers to the io thread and
// commands to the transfer thread. Everything it shares with others passes through the mailbox, but for the
// beacon.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/mailbox.h"
#include "engine/engine.h"
#include "engine/recorder.h"
#include "http/io_loop.h"

namespace baton::serve {

inline constexpr size_t kSubmitsWaitingMax =
    4096;                                       // not yet seen by the engine; its own queue has its own bound
inline constexpr size_t kInboxMax = 64 * 1024;  // the rest is room for aborts, stops and transfer events

// What others may know of the engine, copied between two steps.
struct EngineReport {
  engine::EngineStats stats;
  std::vector<engine::RequestSnapshot> requests;
};

// The liveness beacon: what the engine thread writes after each layer and everybody may read.
struct Beacon {
  std::atomic<int64_t> last_ns{0};      // of the steady clock
  std::atomic<bool> is_working{false};  // between a step's start and the moment when nothing is left to do
  std::atomic<uint32_t> aborts_waiting{0};

  // An engine::Surroundings::poll_interrupt.
  bool tick(const Clock& clock) {
    last_ns.store(clock.now().since_start.count(), std::memory_order_relaxed);
    return aborts_waiting.load(std::memory_order_relaxed) > 0;
  }
};

class EngineThread {
 public:
  // Takes what a step gives, on the engine thread.
  using Deliver = std::function<void(engine::Outbox)>;

  // `engine` polls `beacon`; all three outlive the thread.
  EngineThread(engine::Engine& engine, engine::Recorder& recorder, Beacon& beacon, Deliver deliver);
  ~EngineThread();  // stops and joins
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  // False when the mailbox is full or the thread has stopped; `item` is then left as it was. Any thread.
  bool post(engine::Inbox&& item);

  // io thread: a copy of what the engine counts and holds. kTimeout when it does not answer within seconds.
  http::Awaitable<Result<EngineReport>> report(http::IoLoop& loop);
  // io thread: writes the flight record to a new file and returns its path.
  http::Awaitable<Result<std::string>> write_record(http::IoLoop& loop);

  // How long the engine has had work without finishing a layer; zero while it has none. Any thread.
  Duration beacon_silence() const;

  void stop();

 private:
  using Inspect = std::function<void(engine::Engine&)>;
  using Item = std::variant<engine::Inbox, Inspect>;

  void run();
  std::vector<engine::Inbox> take_inbox();

  engine::Engine& engine_;
  engine::Recorder& recorder_;
  Beacon& beacon_;
  Deliver deliver_;
  SteadyClock clock_;
  Mailbox<Item> mailbox_{kInboxMax};
  std::atomic<size_t> submits_waiting_{0};
  std::thread thread_;
};

}  // namespace baton::serve
