// What an instance remembers of its last finished requests, for /debug/requests: who asked what, what each
// phase took, how it ended. Owned by the io thread.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "base/timeline.h"

namespace baton::serve {

inline constexpr size_t kRecentMax = 512;

struct RecentRequest {
  std::string request_id;  // external
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;
  uint32_t output_tokens = 0;
  bool held = false;        // its KV was kept for a peer
  bool remote = false;      // its KV came from a peer
  bool recomputed = false;  // its hand-over failed and the prompt was computed here
  Timeline timeline;        // as far as it is known
  std::string outcome;      // "finished", or the error's message
};

class RecentRequests {
 public:
  void add(RecentRequest request) {
    if (entries_.size() == kRecentMax) entries_.pop_front();
    entries_.push_back(std::move(request));
  }
  const std::deque<RecentRequest>& entries() const { return entries_; }  // oldest first

 private:
  std::deque<RecentRequest> entries_;
};

}  // namespace baton::serve
