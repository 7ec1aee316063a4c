// HTTP between proxies and instances, as far as it can go wrong: exchanges whose pieces keep their order in
// each direction, are late, wait while the receiver is stopped or parted from the sender, and break. The
// pieces are what http/ makes of bytes: heads, events, bodies, ends.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>

#include "base/clock.h"

namespace baton::simulation::chaos {

struct Piece {
  // kPost and kPostOver: D's post to the metaserver and its refusal; they share the fate of D's exchange.
  enum class Kind : uint8_t { kBegin, kAbort, kPost, kPostOver, kHead, kEvent, kWhole, kEnd, kBroken } kind{};
  int status = 0;
  std::string bytes = {};  // a body, an event's data, or why it broke
  bool kv_unused = false;  // api::kKvUnusedHeader
  bool notes = false;      // of a request: api::kResumeHeader
  std::string note = {};   // of an event: its note's line with the line's end
};

struct Call {
  uint64_t id = 0;
  size_t proxy = 0;
  size_t instance = 0;
  std::string request_id;  // X-Request-Id
};

class Wire {
 public:
  enum class End : uint8_t { kProxy, kInstance };

  Wire(uint64_t seed, Duration delay_max) : random_(seed), delay_max_(delay_max) {}

  uint64_t open(size_t proxy, size_t instance, std::string request_id, Piece first, Time now);
  // Nothing happens if the exchange is over.
  void send(uint64_t call, End to, Piece piece, Time now);
  // This end closes, or its process dies: the other learns of it after what was sent.
  void leave(uint64_t call, End from, Time now);
  void leave_all(size_t process, End from, Time now);
  // Both ends learn that it broke; what is on the way is lost. False if there is none.
  bool break_any(Time now);

  // Gives what is due to `take`, until it returns false for an exchange whose receiver does not read now.
  using MayPass = std::function<bool(const Call&, End to)>;
  using Take = std::function<void(const Call&, End to, Piece)>;
  void deliver(Time now, const MayPass& may_pass, const Take& take);
  Time next_due(const MayPass& may_pass) const;
  bool empty() const { return calls_.empty(); }

 private:
  struct Way {
    std::deque<std::pair<Time, Piece>> pieces;
    Time last;
    bool is_closed = false;  // nobody reads there
  };
  struct Open {
    Call call;
    Way ways[2];  // [End]
  };
  Way& way(Open& open, End to) { return open.ways[static_cast<size_t>(to)]; }
  void push(Way& way, Piece piece, Time now);

  std::mt19937_64 random_;
  Duration delay_max_;
  std::map<uint64_t, Open> calls_;
  uint64_t next_ = 1;
};

}  // namespace baton::simulation::chaos
