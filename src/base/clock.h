// Time as every room sees it: nanoseconds since an arbitrary start, monotonic. The engine, the hand-over and
// the proxy flows never ask for the time; they are told (`now`). Only shells own a Clock.
#pragma once

#include <chrono>
#include <cstdint>

namespace baton {

using Duration = std::chrono::nanoseconds;

// A moment on one clock. Moments of different processes are not comparable: durations travel, never these.
struct Time {
  Duration since_start{0};

  auto operator<=>(const Time&) const = default;
  friend Time operator+(Time t, Duration d) { return {t.since_start + d}; }
  friend Time operator-(Time t, Duration d) { return {t.since_start - d}; }
  friend Duration operator-(Time a, Time b) { return a.since_start - b.since_start; }
};

inline constexpr Time kNever{Duration::max()};  // a deadline that does not come

constexpr double seconds(Duration d) { return std::chrono::duration<double>(d).count(); }
constexpr double milliseconds(Duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Time now() const = 0;
};

// CLOCK_MONOTONIC.
class SteadyClock final : public Clock {
 public:
  Time now() const override { return {std::chrono::steady_clock::now().time_since_epoch()}; }
};

// Stands still until it is moved. For tests and simulations.
class ManualClock final : public Clock {
 public:
  Time now() const override { return now_; }
  void advance(Duration by) { now_ = now_ + by; }

 private:
  Time now_{std::chrono::seconds(1)};
};

}  // namespace baton
