// What a streamed answer has said so far, so that another decode instance can go on with it: the sum of the
// notes that a Baton D writes in front of its events (api/resume.h). The notes are for the proxy alone and
// never reach a client. Part of a flow (router/answer_flow.h); io thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "api/resume.h"
#include "router/bodies.h"

namespace baton::router {

// How often an answer goes on elsewhere after a D was lost.
inline constexpr int32_t kResumptionsMax = 3;
// How often in a row D's may give a request back without having said a word of it.
inline constexpr int32_t kReturnsMax = 16;

// An event of D's stream, taken apart.
struct HeardEvent {
  std::string_view raw;   // what is the client's of it, with its blank line; empty: nothing
  std::string_view note;  // without its line end; empty: it has none
};

// `raw`: the event's bytes with its blank line. `kept` has what the views see of events whose note is not in
// front; both outlive the result.
HeardEvent without_notes(std::string_view raw, std::string& kept);

class Resumption {
 public:
  // An event has gone out. `note` as in HeardEvent; an event without one, or with one that does not follow,
  // makes the answer one that nobody can go on with.
  void add(std::string_view note);

  bool is_possible() const { return is_possible_; }
  // All that is missing is [DONE].
  bool lacks_only_done(const ClientBody& client) const;
  // The request to the D that goes on: the client's own, and what was said. If nothing was, D begins.
  std::string body(const ClientBody& client, uint64_t seed) const;

 private:
  bool is_possible_ = true;
  std::optional<api::Resumption> said_;
};

}  // namespace baton::router
