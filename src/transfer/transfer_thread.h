// The transfer thread of a process: the only caller of its mover. Commands come in and events go out through
// bounded mailboxes.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/mailbox.h"
#include "transfer/mover.h"

namespace baton::transfer {

inline constexpr size_t kCommandsWaitingMax = 64 * 1024;  // several for each request an engine may have

class TransferThread {
 public:
  // Takes one event; false when it has no room: then it is offered again. Called on the transfer thread.
  using Deliver = std::function<bool(MoverEvent&)>;

  TransferThread(std::unique_ptr<KvMover> mover, Deliver deliver);
  ~TransferThread();  // stops and joins; what was not executed is dropped
  TransferThread(const TransferThread&) = delete;
  TransferThread& operator=(const TransferThread&) = delete;

  // In order. CHECKs that the mailbox has room: its bound is far above what one engine can have open, and a
  // lost StopStores would lose blocks. Any thread.
  void post(std::vector<Command> commands);

 private:
  void run();

  std::unique_ptr<KvMover> mover_;
  Deliver deliver_;
  std::atomic<bool> stopping_{false};
  Mailbox<Command> commands_;
  std::thread thread_;
};

}  // namespace baton::transfer
