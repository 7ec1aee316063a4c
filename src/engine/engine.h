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
#include <optional>
#include <set>
#include <span>
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

using Inbox = std::variant<Submit, Abort, StopChoice, ReleaseHeld, ResetPrefixCache, Drain,
                           transfer::MoverEvent, ReservationRefused>;

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
  transfer::HandoverConfig handover;                 // leases, deadlines, this instance's incarnation
  Duration landing_max = std::chrono::seconds(120);  // D: from Submit until the KV must be here

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
  // Takes what need not wait for the end of the step: before a pass what is decided already, and the commands
  // of a layer as soon as it is computed, so that it moves while the next one is. Without one all of it comes
  // with the step's outbox.
  std::function<void(Outbox)> emit;
  // Gets each step; see engine/recorder.h.
  Recorder* recorder = nullptr;
  // In a replay only: writes the KV of positions [from, tokens.size()) that a peer once sent.
  std::function<void(std::span<const TokenId> tokens, uint32_t from, std::span<const BlockId> blocks)> refill;
};

inline constexpr uint32_t kInterruptsMax = 4;

// What a step did that its inbox does not tell: recorded, and repeated in a replay.
struct PassMark {
  std::optional<uint32_t> interrupted_after;  // the layer after which the pass ended early
  Duration took{0};
};

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

 private:
  friend class Recorder;  // starts its record anew from an idle engine

  struct Drawn;
  struct LogitRow;
  struct BatchRows {
    std::vector<TokenId> tokens;
    std::vector<model::SequenceRows> sequences;
    std::vector<uint32_t> logit_rows;
  };

  // inbox
  void take(Submit& item);
  void take(Abort& item);
  void take(StopChoice& item);
  void take(ReleaseHeld& item);
  void take(ResetPrefixCache& item);
  void take(Drain& item);
  void take(transfer::MoverEvent& item);
  void take(ReservationRefused& item);
  void expire();

  // pass
  void note_phases(const Plan& plan);
  std::vector<LogitRow> fill_batch(const Plan& plan, BatchRows& batch) const;
  void run(const Plan& plan);
  void read_row(const PlannedRows& rows, const LogitRow& row, std::span<const float> logits, Drawn& result);
  void commit(const Plan& plan, std::vector<Drawn>& drawn);

  // requests
  Result<void> accept(const Request& request);
  void queue(Request request);
  ActiveRequest* find(RequestId id);
  void end_prompt(ActiveRequest& request);
  void give_first_tokens(ActiveRequest& request, std::vector<DrawnToken> tokens);
  void go_on(ActiveRequest& request, Sequence& sequence, const DrawnBefore& before);
  void give_back(ActiveRequest& request);
  void append(ActiveRequest& request, Sequence& sequence, DrawnToken& drawn);
  void close(Sequence& sequence);
  void end_if_done(ActiveRequest& request);
  void fail_request(ActiveRequest& request, Error error, bool suspect_blocks = false);
  void forget(const ActiveRequest& request);

  // hand-over (engine/handover.cc)
  void promise(ActiveRequest& request);
  void announce_layer(const Plan& plan, uint32_t layer);
  void finish_filling(ActiveRequest& request, kv::BlockTable& kept, const std::vector<DrawnToken>& tokens);
  void abandon_filling(const ActiveRequest& request, const std::string& reason);
  void filling_ended(const transfer::ReleasedHold& released);
  void hold(ActiveRequest& request, kv::BlockTable kept, std::vector<DrawnToken> tokens);
  void expect_landing(ActiveRequest& request);
  void refuse_landing(const Request& request);
  void land(ActiveRequest& request);
  void landed(ActiveRequest& request);
  bool has_usable_first_tokens(const Request& request) const;
  void landing_failed(ActiveRequest& request, const Error& error);
  void abandon_landing(ActiveRequest& request);
  bool collect_transfers();  // true if a request or block changed
  void emit();
  void collect_commands();

  void update_gauges();
  // As new but for statistics. CHECKs is_idle().
  void reset_idle();

  EngineConfig config_;
  model::LanguageModel& model_;
  Surroundings surroundings_;
  uint32_t model_tokens_max_;
  kv::PagedCache cache_;
  Scheduler scheduler_;
  Sampler sampler_;
  transfer::Source source_;
  transfer::Target target_;

  ActiveRequests requests_;
  std::unordered_map<uint64_t, Rank> ranks_;  // RequestId → where it is; never iterated
  std::set<HandoverId> held_;                 // P: not yet given back by source_
  std::map<HandoverId, RequestId> fillings_;  // P, layer-wise: of living requests, promised or filling
  std::map<HandoverId, Time> filled_;         // P, layer-wise: of held ones, when all layers were computed
  std::map<TransferId, RequestId> landings_;  // D: of living requests, from Submit to the outcome
  std::map<TransferId, kv::BlockTable> parting_;  // D: of ended ones; a peer may still store into these
  uint64_t next_arrival_ = 0;
  bool draining_ = false;
  bool has_work_ = false;
  uint32_t interrupts_in_row_ = 0;
  Time now_{Duration::min()};  // of this step
  Time after_;                 // its end: now_ and what the pass took
  PassMark pass_;
  Outbox out_;
  size_t emitted_answers_ = 0;   // of out_
  size_t emitted_commands_ = 0;  // of out_
  EngineStats stats_;
};

// kInvalid names what does not fit: batch budget below seats, block sizes, an arena that cannot hold a
// request of two tokens.
Result<void> check_config(const EngineConfig& config, const model::ModelInfo& info, const kv::KvArena& arena);

}  // namespace baton::engine
