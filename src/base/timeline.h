// Where the time of one request went: a partition of the time from its beginning to its end. Each part ends
// at the very moment at which the next one begins, so the parts add up exactly, whatever events come and
// however often. One owner at a time: the door begins it, the engine has its own, which the door puts into
// its own when the request ends. Moments are of this process's clock; what travels to other hosts are parts,
// that is, durations.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/clock.h"

namespace baton {

// What a request waits for or is used for. Docs: docs/timelines.md.
enum class Phase : uint8_t {
  kTokenise,    // at the door: from the request's last byte to its tokens
  kQueue,       // for the engine, a turn, a seat or blocks
  kReserve,     // D: for a seat and for blocks that a peer fills. P, layer-wise: for D's permission to fill
  kHandover,    // D: a peer fills the blocks; what of the hand-over nothing hides
  kPrefill,     // the prompt is computed, pauses between its chunks included
  kDecodeWait,  // the first token is there, the first step of the answer has not begun
  kDecode,      // the answer's tokens are computed
  kPreempted,   // has lost its blocks: waits, and is computed once more
  kDeliver,     // from the engine's last word to the door's
};
inline constexpr Phase kPhaseLast = Phase::kDeliver;
inline constexpr size_t kPhases = static_cast<size_t>(kPhaseLast) + 1;

constexpr std::string_view phase_name(Phase phase) {
  switch (phase) {
    case Phase::kTokenise:
      return "tokenise";
    case Phase::kQueue:
      return "queue";
    case Phase::kReserve:
      return "reserve";
    case Phase::kHandover:
      return "handover";
    case Phase::kPrefill:
      return "prefill";
    case Phase::kDecodeWait:
      return "decode_wait";
    case Phase::kDecode:
      return "decode";
    case Phase::kPreempted:
      return "preempted";
    case Phase::kDeliver:
      return "deliver";
  }
  return "unknown";
}

// Beyond it a part goes on instead of giving way: a request that is preempted again and again.
inline constexpr size_t kTimelinePartsMax = 64;

class Timeline {
 public:
  struct Boundary {
    Phase phase{};
    Time since;
    bool operator==(const Boundary&) const = default;
  };
  struct Part {
    Phase phase{};
    Duration took{0};
    bool operator==(const Part&) const = default;
  };

  Timeline() = default;  // has not begun: no parts
  Timeline(Phase first, Time begin) : boundaries_{{first, begin}} {}

  bool has_begun() const { return !boundaries_.empty(); }
  bool has_ended() const { return end_.has_value(); }

  // The present part ends at `at` and `phase` begins; nothing changes if it is the present one. A moment
  // before the present part's beginning counts as that beginning. A part that took no time leaves no trace.
  void enter(Phase phase, Time at) {
    CHECK(has_begun() && !has_ended(), "phase {} outside of a timeline", phase_name(phase));
    at = std::max(at, boundaries_.back().since);
    if (boundaries_.back().phase == phase) return;
    if (boundaries_.back().since == at) {
      boundaries_.pop_back();
      if (!boundaries_.empty() && boundaries_.back().phase == phase) return;
    }
    if (boundaries_.size() < kTimelinePartsMax) boundaries_.push_back({phase, at});
  }

  // The last part ends.
  void end(Time at) {
    CHECK(has_begun() && !has_ended(), "a timeline ends once");
    end_ = std::max(at, boundaries_.back().since);
    if (boundaries_.size() > 1 && boundaries_.back().since == *end_) boundaries_.pop_back();
  }

  // The parts of `other`, which has ended, as this one's next; `after` begins where they end.
  void append(const Timeline& other, Phase after) {
    CHECK(other.has_ended(), "a timeline that goes on is put into another");
    for (const auto& [phase, since] : other.boundaries_) enter(phase, since);
    enter(after, *other.end_);
  }

  Time begin() const { return boundaries_.front().since; }
  Time end() const { return *end_; }
  const std::vector<Boundary>& boundaries() const { return boundaries_; }  // ascending, neighbours differ
  const std::optional<Time>& ended_at() const { return end_; }

  // Of an ended one, in order; their sum is total(). None if it has not begun.
  std::vector<Part> parts() const {
    std::vector<Part> out;
    for (size_t i = 0; i < boundaries_.size(); ++i) {
      const Time until = i + 1 < boundaries_.size() ? boundaries_[i + 1].since : *end_;
      out.push_back({boundaries_[i].phase, until - boundaries_[i].since});
    }
    return out;
  }
  Duration total() const { return has_begun() ? end() - begin() : Duration{0}; }
  Duration total(Phase phase) const {
    Duration sum{0};
    for (const Part& part : parts()) {
      if (part.phase == phase) sum += part.took;
    }
    return sum;
  }
  // From where the first of these phases begins to the end; 0 if none was entered.
  Duration since_first(std::initializer_list<Phase> phases) const {
    for (const auto& [phase, since] : boundaries_) {
      if (std::ranges::find(phases, phase) != phases.end()) return end() - since;
    }
    return Duration{0};
  }

  bool operator==(const Timeline&) const = default;

 private:
  std::vector<Boundary> boundaries_;
  std::optional<Time> end_;
};

}  // namespace baton
