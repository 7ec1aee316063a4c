// The io thread's side of the engine: requests go in, each one's answers come back to the Submission that
// asked. Everything here lives on the io thread; EngineThread (engine_thread.h) carries the values across.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "http/io_loop.h"
#include "http/wake.h"

namespace baton::serve {

// Answers of one Submission that wait to be read, at most. Beyond it the client reads too slowly and loses
// its requests: tokens are never held without bound.
inline constexpr size_t kAnswersWaitingMax = 16 * 1024;

class Submission;

class EngineClient {
 public:
  // `post` hands an item to the engine thread: false when its mailbox is full or closed.
  EngineClient(http::IoLoop& loop, std::function<bool(engine::Inbox)> post)
      : loop_(loop), post_(std::move(post)) {}

  // Gives every answer to its Submission; those of requests that nobody waits for any more are dropped.
  void deliver(std::vector<engine::Answer> answers);

  // Requests that were submitted and have not ended.
  size_t open() const { return open_.size(); }
  // Ends every open request whose external id is `external_id` (an operator's /abort_request). How many.
  size_t abort_external(std::string_view external_id, const std::string& reason);
  bool post(engine::Inbox item) { return post_(std::move(item)); }

 private:
  friend class Submission;
  struct Open {
    Submission* owner = nullptr;
    uint32_t tag = 0;
    std::string external_id;
  };

  http::IoLoop& loop_;
  std::function<bool(engine::Inbox)> post_;
  std::unordered_map<uint64_t, Open> open_;  // by RequestId
  uint64_t next_id_ = 1;
};

// The requests of one HTTP request: one per prompt. Going out of scope aborts what has not ended, whatever
// the reason: that is how a client that hangs up frees its blocks.
class Submission {
 public:
  explicit Submission(EngineClient& client);
  ~Submission();
  Submission(const Submission&) = delete;
  Submission& operator=(const Submission&) = delete;

  // Posts `request` (its id is filled in). `tag` comes back with its answers. kExhausted when the engine's
  // mailbox is full.
  Result<void> add(engine::Request request, uint32_t tag);

  struct Tagged {
    uint32_t tag = 0;
    engine::Answer answer;
  };

  // What has arrived since the last call, in order; waits for something to arrive. Empty once every request
  // has ended and its answers were taken. kCancelled when the client hung up, kExhausted when it read too
  // slowly.
  http::Awaitable<Result<std::vector<Tagged>>> next();

  // The text of a choice hit a stop string.
  void stop_choice(uint32_t tag, uint32_t choice);
  // Ends the requests that are still open, as the destructor does, and gives up what the others hold for a
  // peer: nobody was told where it is.
  void abort(const std::string& reason);
  // The answers have gone out: what is held belongs to whoever they named, until its lease ends.
  void keep_held();

 private:
  friend class EngineClient;
  EngineClient& client_;
  http::Wake wake_;
  struct Added {
    RequestId id{};
    uint32_t tag = 0;
    std::optional<HandoverId> hold;  // until keep_held()
  };
  std::vector<Added> requests_;  // every one that was added
  size_t unfinished_ = 0;
  std::vector<Tagged> arrived_;
  bool overflowed_ = false;
};

}  // namespace baton::serve
