// The loop of one instance: step(inbox, now) → outbox. One step takes what arrived, lets deadlines pass,
// plans and runs at most one forward pass, draws tokens and answers. The engine owns all request and block
// state; it has one owner thread, no sockets, no clock of its own and no randomness that did not come in with
// a request, so a recorded inbox replays bit for bit (engine/recorder.h). Prefill (P) and decode (D) are not
// kinds of engines but of requests: `hold` and `remote` in engine/request.h.
//
// The law: tokens and logprobs of a request depend on the request alone, not on what else runs, the chunking,
// preemption, prefix hits, interruptions or the hand-over.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/schedule.h"
#include "engine/stats.h"
#include "kv/arena.h"
#include "kv/paged_cache.h"
#include "model/language_model.h"
#include "transfer/source.h"
#include "transfer/target.h"

namespace baton::engine {

class Recorder;

using Inbox =
    std::variant<Submit, Abort, StopChoice, ReleaseHeld, ResetPrefixCache, Drain, transfer::MoverEvent>;

struct Outbox {
  std::vector<Answer> answers;              // in order, per request complete: see request.h
  std::vector<transfer::Command> commands;  // for the mover, in order
};

// What a request whose hand-over failed does (kv_load_failure_policy).
enum class LandingFailure : uint8_t { kRecompute, kFail };

struct EngineConfig {
  ScheduleLimits limits;          // seats, budgets, policy
  uint32_t waiting_max = 1024;    // requests without a seat; a Submit beyond it fails with kExhausted
  uint32_t model_tokens_max = 0;  // --max-model-len; 0: the model's. Cut to what model and arena can hold
  bool prefix_cache = true;
  LandingFailure landing_failure = LandingFailure::kRecompute;
  transfer::HandoverConfig handover;  // leases, deadlines, this instance's incarnation

  bool operator==(const EngineConfig&) const = default;
};

// What the shell lends an engine. All may be empty.
struct Surroundings {
  // Times passes, for the bound of a step in milliseconds. Without one a pass takes no time.
  const Clock* clock = nullptr;
  // Asked after each layer: ticks the liveness beacon, and tells by true that aborts wait, so that the pass
  // ends and they are served. What was to be computed is computed again in the next step; kInterruptsMax
  // passes in a row at most are ended early.
  std::function<bool(uint32_t layer)> poll_interrupt;
  // Gets each step; see engine/recorder.h.
  Recorder* recorder = nullptr;
  // In a replay only: writes the KV of positions [from, tokens.size()) that a peer once sent.
  std::function<void(std::span<const TokenId> tokens, uint32_t from, std::span<const BlockId> blocks)> refill;
};

inline constexpr uint32_t kInterruptsMax = 4;

// One line of /debug/requests.
struct RequestSnapshot {
  RequestId id{};
  std::string external_id;
  std::string state;      // queued, landing, prefill, decode, preempted
  std::string waits_for;  // "a turn", "KV blocks", "host:port"; empty while it is computed
  Time since;             // of the state
  Time until = kNever;    // its deadline
  int32_t priority = 0;
  uint32_t prompt_tokens = 0;
  uint32_t computed_tokens = 0;  // of its first unfinished choice
  uint32_t output_tokens = 0;    // over all choices
  uint32_t blocks = 0;           // that it owns or shares
};

class Engine {
 public:
  // Blocks of `arena` are all free. CHECKs that config, model and arena fit together (check_config names
  // what does not).
  Engine(EngineConfig config, model::LanguageModel& model, kv::KvArena& arena,
         Surroundings surroundings = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // `now` never goes back.
  Outbox step(std::vector<Inbox> inbox, Time now);

  // Whether another step would compute something without waiting for an event or a deadline.
  bool has_work() const { return has_work_; }
  // When step() must be called even if nothing arrives; kNever if there is no such moment.
  Time next_deadline() const;
  // No request, no lease, no transfer: what a drain waits for.
  bool is_idle() const;

  // Positions a request can have here, prompt and answer together.
  uint32_t model_tokens_max() const { return model_tokens_max_; }
  const EngineConfig& config() const { return config_; }
  const EngineStats& stats() const { return stats_; }
  std::vector<RequestSnapshot> snapshot() const;

  // Empty if blocks, index and requests agree, else what is wrong. For tests; looks at everything.
  std::string find_inconsistency() const;
