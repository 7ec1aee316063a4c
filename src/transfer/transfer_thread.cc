#include "transfer/transfer_thread.h"

#include <pthread.h>

#include <deque>

#include "base/check.h"
#include "base/thread.h"

namespace baton::transfer {
namespace {

constexpr Duration kPollMax = std::chrono::milliseconds(50);
constexpr Duration kRedeliverAfter = std::chrono::milliseconds(1);
constexpr size_t kEventsWaitingMax = 4096;  // beyond it the mover is not asked for more

}  // namespace

TransferThread::TransferThread(std::unique_ptr<KvMover> mover, Deliver deliver)
    : mover_(std::move(mover)),
      deliver_(std::move(deliver)),
      commands_(kCommandsWaitingMax),
      thread_([this] { run(); }) {}

TransferThread::~TransferThread() {
  stopping_ = true;
  mover_->wake();
  thread_.join();
}

void TransferThread::post(std::vector<Command> commands) {
  if (commands.empty()) return;
  for (Command& command : commands) {
    const bool posted = commands_.post(std::move(command));
    CHECK(posted, "more than {} commands wait for the transfer thread", kCommandsWaitingMax);
  }
  mover_->wake();
}

void TransferThread::run() {
  pthread_setname_np(pthread_self(), "transfer");
  be_prompt();
  std::deque<MoverEvent> waiting;
  while (!stopping_) {
    for (Command& command : commands_.take_all()) mover_->execute(std::move(command));
    if (waiting.size() < kEventsWaitingMax) {
      for (MoverEvent& event : mover_->poll(waiting.empty() ? kPollMax : kRedeliverAfter)) {
        waiting.push_back(std::move(event));
      }
    } else {
      std::this_thread::sleep_for(kRedeliverAfter);
    }
    while (!waiting.empty() && deliver_(waiting.front())) waiting.pop_front();
  }
}

}  // namespace baton::transfer
