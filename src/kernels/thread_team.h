// The workers of the kernels: fork, claim tasks one by one, join. A task is claimed by whoever is free, so a
// worker that the operating system took off its core delays only the task it holds. Who runs a task never
// shows in a result: tasks write disjoint outputs and each output has one order of arithmetic.
//
// Waiting threads spin for kSpin and then sleep on a futex, because several instances often share the same
// cores; a sleeping thread also lets the kernel move a preempted one onto the free core.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace baton::kernels {

inline constexpr std::chrono::microseconds kSpin{30};
inline constexpr unsigned kTeamThreadsMax = 256;

class ThreadTeam {
 public:
  // `threads` in [1, kTeamThreadsMax] counts the caller of run(), so threads - 1 workers are started.
  explicit ThreadTeam(unsigned threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  unsigned threads() const { return static_cast<unsigned>(workers_.size()) + 1; }

  // Calls task(i) once for every i in [0, count) and returns when all have returned. Tasks run in the mode of
  // float_mode.h. One caller at a time (CHECKed); a task must not call run() on the same team. `count` <
  // 2^32.
  template <class Task>
  void run(size_t count, Task&& task) {
    using Function = std::remove_reference_t<Task>;
    run_erased(
        count, [](void* context, size_t i) { (*static_cast<Function*>(context))(i); },
        const_cast<void*>(static_cast<const void*>(&task)));
  }

 private:
  using Call = void (*)(void* context, size_t index);

  void run_erased(size_t count, Call call, void* context);
  bool run_one();          // claims and runs a task; false when none is left
  void work();             // a worker's life
  bool wait_for_work();    // false when the team ends
  void wait_for_finish();  // the caller, after the last claim

  // The job. Written by the caller while no task is open, read by whoever holds a claim.
  Call call_ = nullptr;
  void* context_ = nullptr;
  size_t count_ = 0;

  alignas(64) std::atomic<uint64_t> open_{0};  // job number << 32 | tasks not yet claimed
  alignas(64) std::atomic<uint32_t> finished_{
      0};                                      // tasks of this job that have returned; futex of the caller
  alignas(64) std::atomic<uint32_t> wake_{0};  // changes with every job; futex of the workers
  std::atomic<uint32_t> sleepers_{0};          // workers that sleep or are about to
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> ending_{false};
  std::atomic<bool> running_{false};
  std::vector<std::thread> workers_;
};

}  // namespace baton::kernels
