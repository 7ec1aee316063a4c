// One run of the chaos simulation: two proxies, two P's and two D's made of the shipped state machines, on a
// simulated clock, under load, while connections break, messages are late or come twice, the network parts,
// and processes die, live again, stop and go on. A run is a function of its options: the same seed gives the
// same run, event by event.
//
// What must hold in every run, whatever happens in it: each client gets one end; an answer is, token by
// token, that of one instance which nothing disturbs, and what came before an error is a beginning of it; a
// run without faults has no errors; and when all is over every block is free, no instance has a request,
// lease or transfer, and no proxy a reservation.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "tests/simulation/chaos_questions.h"

namespace baton::simulation::chaos {

// How much goes wrong. Chosen by the seed: a quarter of the runs each have none and many faults.
enum class Weather : uint8_t { kCalm, kGusty, kStormy };
Weather weather_of(uint64_t seed);
// Every weather comes in both orders.
api::HandoverOrder order_of(uint64_t seed);

struct RunOptions {
  uint64_t seed = 1;
  uint32_t requests = 200;
};

struct Report {
  uint64_t requests = 0;
  uint64_t answered = 0;  // whole and right
  uint64_t refused = 0;   // 429
  uint64_t failed = 0;    // other errors
  uint64_t left = 0;      // the client left first
  uint64_t landed = 0;    // hand-overs
  uint64_t recomputed = 0;
  uint64_t alone = 0;     // prompts that a proxy left to D
  uint64_t resumed = 0;   // went on at another D
  uint64_t returned = 0;  // were given back by a D that was short of blocks
  uint64_t faults = 0;
  uint64_t steps = 0;   // of engines
  uint64_t digest = 0;  // of all that happened
  Duration simulated{0};
  std::string violation;  // the first broken promise; empty: none

  void add(const Report& other);
};

// What runs of one thread use one after the other: loading it takes longer than a run.
class Stage {
 public:
  explicit Stage(const Questions& questions);
  Report run(const RunOptions& options);

 private:
  const Questions& questions_;
  std::vector<std::unique_ptr<serve::ServedModel>> doors_;
};

}  // namespace baton::simulation::chaos
