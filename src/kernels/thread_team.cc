#include "kernels/thread_team.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xmmintrin.h>

#include <climits>

#include "base/check.h"
#include "kernels/float_mode.h"

namespace baton::kernels {
namespace {

constexpr uint64_t kOpenMask = 0xFFFFFFFFU;

// Sleeps while `word` is `expected`; may return early.
void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake_all(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// Spins until ready() or for kSpin; returns ready().
template <class Ready>
bool spin_until(Ready&& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

}  // namespace

ThreadTeam::ThreadTeam(unsigned threads) {
  CHECK(threads >= 1 && threads <= kTeamThreadsMax, "threads {} of [1, {}]", threads, kTeamThreadsMax);
  workers_.reserve(threads - 1);
  for (unsigned i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

ThreadTeam::~ThreadTeam() {
  ending_.store(true);
  wake_.fetch_add(1);
  futex_wake_all(wake_);
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::run_erased(size_t count, Call call, void* context) {
  if (count == 0) return;
  CHECK(count <= kOpenMask, "tasks {}, below 2^32", count);
  CHECK(!running_.exchange(true), "a team has one caller at a time");
  const FlushDenormals mode;
  if (workers_.empty() || count == 1) {
    for (size_t i = 0; i < count; ++i) call(context, i);
    running_.store(false);
    return;
  }
  call_ = call;
  context_ = context;
  count_ = count;
  finished_.store(0);
  const uint64_t job = (open_.load() >> 32) + 1;
  open_.store(job << 32 | count);
  wake_.fetch_add(1);
  if (sleepers_.load() > 0) futex_wake_all(wake_);
  while (run_one()) {
  }
  wait_for_finish();
  running_.store(false);
}

// The claim makes this thread a reader of the job until it counts the task as finished: the caller waits for
// that count before it writes the next job.
bool ThreadTeam::run_one() {
  uint64_t open = open_.load();
  do {
    if ((open & kOpenMask) == 0) return false;
  } while (!open_.compare_exchange_weak(open, open - 1));
  const uint32_t count = static_cast<uint32_t>(count_);
  call_(context_, count - static_cast<uint32_t>(open & kOpenMask));
  if (finished_.fetch_add(1) + 1 == count && caller_sleeps_.load()) futex_wake_all(finished_);
  return true;
}

void ThreadTeam::work() {
  const FlushDenormals mode;
  while (wait_for_work()) {
    while (run_one()) {
    }
  }
}

bool ThreadTeam::wait_for_work() {
  const auto ready = [this] { return (open_.load() & kOpenMask) != 0 || ending_.load(); };
  while (!spin_until(ready)) {
    const uint32_t seen = wake_.load();
    sleepers_.fetch_add(1);
    if (!ready()) futex_wait(wake_, seen);
    sleepers_.fetch_sub(1);
  }
  return !ending_.load();
}

void ThreadTeam::wait_for_finish() {
  const auto ready = [this] { return finished_.load() == count_; };
  while (!spin_until(ready)) {
    caller_sleeps_.store(true);
    const uint32_t seen = finished_.load();
    if (seen != count_) futex_wait(finished_, seen);
    caller_sleeps_.store(false);
  }
}

}  // namespace baton::kernels
