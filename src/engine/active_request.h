// What the engine remembers of a request between steps. Plain data of the engine thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "engine/request.h"
#include "kv/paged_cache.h"

namespace baton::engine {

// One choice: its tokens and its blocks. Positions [0, computed) of `tokens` are in `table`.
struct Sequence {
  uint32_t choice = 0;
  std::vector<TokenId> tokens;  // prompt, then answer
  kv::BlockTable table;
  uint32_t computed = 0;
  bool admitted = false;              // has a seat: may own blocks and be computed
  bool done = false;                  // no more tokens; owns nothing
  std::map<TokenId, uint32_t> drawn;  // how often each token is in the answer; kept only for penalties

  uint32_t size() const { return static_cast<uint32_t>(tokens.size()); }
  uint32_t missing() const { return size() - computed; }
};

enum class Stage : uint8_t {
  kQueued,   // its prompt waits: for a turn, a seat or blocks
  kLanding,  // D: a peer fills the leader's blocks
  kPrompt,   // the prompt is being computed by the first sequence, the leader
  kAnswer,   // first tokens are drawn; each choice has its sequence
};

enum class WaitsFor : uint8_t { kNothing, kTurn, kSeat, kBlocks, kPeer };

// Requests are served in this order: priority (lower first; all 0 under fcfs), then arrival.
struct Rank {
  int32_t priority = 0;
  uint64_t arrival = 0;
  auto operator<=>(const Rank&) const = default;
};

struct ActiveRequest {
  Request request;
  Rank rank;
  Stage stage = Stage::kQueued;
  WaitsFor waits_for = WaitsFor::kTurn;
  std::vector<Sequence> sequences;       // the leader only, until the first tokens are drawn
  std::vector<TokenId> prompt_distinct;  // ascending; for repetition_penalty
  uint32_t cached_tokens = 0;            // prompt positions found in the prefix cache
  bool wants_landing = false;            // D: a peer has the KV and has not been asked for it yet
  bool waits_for_landing = false;        // P, layer-wise: D has not sent its Landing yet
  bool landed = false;                   // D: the KV came from a peer
  bool recomputed = false;               // the hand-over failed
  bool preempted = false;                // waits to be computed once more
  bool returned = false;                 // has lost its blocks and is to be given back
  std::vector<std::optional<PositionLogprobs>> prompt_logprobs;  // [prompt] if asked for

  Time submitted;
  Time since;  // of the stage
  std::optional<Time> first_scheduled;
  std::optional<Time> first_announced;  // P, layer-wise: its first layer, by the lent clock
  Timeline timeline;
  Duration handover_hidden{0};
  uint32_t output_tokens = 0;  // over all choices, those drawn before included
  uint32_t tokens_before = 0;  // of them, drawn by other instances

  uint32_t prompt_size() const { return static_cast<uint32_t>(request.prompt.size()); }
};

}  // namespace baton::engine
