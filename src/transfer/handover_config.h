// Durations and bounds of the hand-over, the same words on P and D.
#pragma once

#include <chrono>

#include "base/clock.h"
#include "base/ids.h"

namespace baton::transfer {

struct HandoverConfig {
  Incarnation incarnation;  // of this instance
  // P keeps a prefill this long without a word from D. D renews after a third of it.
  Duration lease = std::chrono::seconds(30);
  // D: a connection without transfers is closed after this long.
  Duration idle_close = std::chrono::seconds(60);
  // D: StopStores is asked again after this long without an answer.
  Duration stop_retry = std::chrono::seconds(1);

  bool operator==(const HandoverConfig&) const = default;
};

}  // namespace baton::transfer
