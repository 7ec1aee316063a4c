// The instances a proxy knows: who they say they are, whether they answer, how loaded they are, and the
// choice among them. Sans-I/O: probes and requests report here, and are told `now`. Owned by the proxy's io
// thread.
//
// Each policy puts a number on a request and adds it to the instance while the request is there. The smallest
// load wins: of P active_tokens + 0.3 x active_kv, of D active_tokens. Of equals the one chosen longest ago
// wins, so that an idle cluster is used in turn.
//
//   tutorial      the scores of vllm-ascend's load_balance_proxy_server_example.py: with L the bytes of the
//   client's
//                 body, a prefill costs L/4 x 0.0345 + 120.0745 and a decode costs L.
//   least-tokens  tokens in flight: a prefill costs the prompt's tokens, a decode those and the answer's. The
//   proxy has
//                 no tokenizer: it counts ids, divides text by the bytes per token that P's answers have
//                 shown, and takes P's own count for D.
//   prefix        as least-tokens, and what an instance probably has in its prefix cache is not counted: not
//   for its
//                 load and not for its choice (router/prefix_table.h). How far an instance's guesses are
//                 believed follows the cached_tokens that it reports; a new incarnation has an empty cache.
//
// An instance takes a request when it is up, its breaker allows it (router/breaker.h) and, where a bound is
// set, it has room. No prefill is begun that no decode instance would have room for, and in the layer-wise
// order no decode instance reserves blocks that no prefill instance would have room to fill.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/identity.h"
#include "base/clock.h"
#include "base/result.h"
#include "router/bodies.h"
#include "router/breaker.h"
#include "router/placement.h"
#include "router/prefix_table.h"
#include "router/rendezvous.h"
#include "router/wait_queue.h"

namespace baton::router {

enum class Side : uint8_t { kPrefill, kDecode };
constexpr std::string_view side_name(Side side) { return side == Side::kPrefill ? "prefill" : "decode"; }

enum class InstanceId : uint32_t {};  // never reused within a registry

enum class Health : uint8_t {
  kUnknown,  // has not answered a probe yet
  kUp,
  kDown,
};
constexpr std::string_view health_name(Health health) {
  switch (health) {
    case Health::kUnknown:
      return "unknown";
    case Health::kUp:
      return "up";
    case Health::kDown:
      return "down";
  }
  return "unknown";
}

double prefill_score(size_t body_bytes);
double decode_score(size_t body_bytes);

enum class Policy : uint8_t { kTutorial, kLeastTokens, kPrefix };

struct RegistryOptions {
  Policy policy = Policy::kTutorial;
  uint32_t in_flight_max = 0;  // requests of one instance; 0: no bound
  size_t waiting_max = 1024;   // of the queue
  size_t prefix_entries_max = kPrefixEntriesMax;
  LocalPrefill local_prefill = LocalPrefill::kAuto;
};

// What one request asks of an instance.
struct Demand {
  size_t body_bytes = 0;
  double prompt_tokens = 0;           // a guess, until P has counted
  double answer_tokens = 0;           // a guess
  std::vector<PrefixCut> chain = {};  // policy prefix, or where a hand-over is weighed (router/placement.h)
};

struct Instance {
  InstanceId id{};
  Side side = Side::kPrefill;
  std::string host;  // IPv6 without brackets
  uint16_t port = 0;

  Health health = Health::kUnknown;
  std::string reason = "it has not answered yet";  // why it is not up
  Time since;                                      // of the health
  bool is_waiting = false;                         // was added while the proxy runs and has not been up yet
  bool is_draining = false;                        // takes no new requests, leaves when the last one ended
  std::optional<api::InstanceIdentity> identity;   // nothing: not a Baton instance (a vLLM), or unknown
  std::string notice;                              // what an operator should know of it and do; mostly empty
  std::string
      bootstrap;  // "http://host:port" of a P that hands over by it (router/rendezvous.h); empty: none
  std::vector<BootstrapRank> ranks;  // as its bootstrap server says; of an instance that has one
  uint64_t rank_turn = 0;            // whose turn it is among them
  bool fails_forced_tools = false;   // a foreign P that answers 500 where tool_choice forces a call

  Breaker breaker;
  CacheId cache = kNoCache;  // of its present life
  double trust = 1;          // in what the prefix table says of it, [0, 1]

  double active_tokens = 0;
  double active_kv = 0;    // P only: prefills whose KV is not taken yet
  double own_prefill = 0;  // D only: tokens of prompts that it computes itself and has not answered yet
  Duration exchange{0};    // that asks nothing of it: what a probe takes; zero before the first
  uint32_t in_flight = 0;
  uint64_t requests = 0;
  uint64_t failures = 0;
  uint64_t chosen_at = 0;  // the registry's counter of choices

  std::string address() const;  // host:port, IPv6 bracketed
};

class Registry;

// One request's load on one instance. Each part is released exactly once, however the request ends: by the
// calls below, or when the reservation goes out of scope. Move-only.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept { *this = std::move(other); }
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation() { release(); }

  explicit operator bool() const { return registry_ != nullptr; }
  InstanceId instance() const { return instance_; }

  void release_tokens();   // P answered
  void release_promise();  // of a place at an instance of the other side: it is being taken now
  void release_prefill();  // D, which computes the prompt itself, has begun to answer
  void release();          // everything that is left

 private:
  friend class Registry;
  Registry* registry_ = nullptr;
  InstanceId instance_{};
  double tokens_ = 0;
  double kv_ = 0;
  double expected_cached_ = 0;  // tokens of the prompt, before trust
  double own_prefill_ = 0;
  bool is_trial_ = false;        // of a half-open breaker
  std::optional<Side> promise_;  // of a place there
};

// Where a prompt is computed, and the D that does it, if one does.
struct Placed {
  api::Placement placement;
  Reservation d;
};

inline Placed alone(std::string_view reason, Reservation d) {
  return {{.on = api::kAtDecode, .reason = reason}, std::move(d)};
}

struct RefusedPair {
  std::string prefill;
  std::string decode;
  std::string reason;  // the field and both values
};

class Registry {
 public:
  explicit Registry(RegistryOptions options = {});

  // What a request will ask.
  Demand demand_of(const ClientBody& client) const;
  // P, or D that computed the prompt itself, has answered: its counts make guesses better, `demand`'s too.
  // `cached_tokens`: nothing if it did not say.
  void on_prefilled(const Reservation& p, Demand& demand, int64_t prompt_tokens,
                    std::optional<int64_t> cached_tokens);

  // Adding what is there and not draining changes nothing; a draining one stays and takes requests again.
  InstanceId add(Side side, std::string host, uint16_t port, Time now);
  // Of one that was just added: until it is up it counts as waiting.
  void set_waiting(InstanceId id) {
    if (Instance* instance = get(id)) instance->is_waiting = true;
  }
  // Starts to drain; gone at once if nothing is in flight. False if it is not known.
  bool remove(Side side, std::string_view host, uint16_t port);

  // It hands over by its bootstrap server, if it turns out to be no Baton instance.
  void set_bootstrap(InstanceId id, std::string url) {
    if (Instance* instance = get(id)) instance->bootstrap = std::move(url);
  }
  // What that server says.
  void on_bootstrap(InstanceId id, std::vector<BootstrapRank> ranks) {
    if (Instance* instance = get(id)) instance->ranks = std::move(ranks);
  }
  // Of a request to `p`: its ranks take turns. Nothing where P's own answer says who holds the KV.
  std::optional<Rendezvous> begin_rendezvous(InstanceId p, std::string_view request_id);

  // What a probe found. `identity`: nothing when it does not speak Baton.
  void on_probe_ok(InstanceId id, std::optional<api::InstanceIdentity> identity, Time now,
                   std::string notice = {});
  void on_probe_failed(InstanceId id, std::string reason, Time now);
  // How long its answer to a probe took.
  void on_probe_took(InstanceId id, Duration took);
  // A request's own experience: a transport failure takes the instance out until a probe brings it back.
  void on_request_failed(InstanceId id, std::string reason, Time now);
  void on_forced_tool_failed(InstanceId id);
  // It answered as no healthy instance does (502, 503, 504, no JSON, half a stream); or it answered.
  void on_answer_failed(InstanceId id, Time now);
  void on_answered(InstanceId id, Time now);
  // Its prefix cache, or everybody's, is empty now.
  void forget_caches();

  // The best prefill instance that can take it and has a decode instance to hand over to; not one of `avoid`
  // while there is another. kExhausted: some can, but none has room. kUnavailable says what is wrong with
  // each.
  Result<Reservation> reserve_prefill(const Demand& demand, const std::vector<InstanceId>& avoid, Time now);
  // The best decode instance that can take it and fits `partner` (any, without one), with room or without: by
  // now a prefill was spent.
  Result<Reservation> reserve_decode(const Demand& demand, std::optional<InstanceId> partner,
                                     const std::vector<InstanceId>& avoid, Time now);

  // The layer-wise order, in which D is chosen first: the best decode instance that can take it and has a
  // prefill instance to be filled by; the same errors ...
  Result<Reservation> reserve_decode_first(const Demand& demand, const std::vector<InstanceId>& avoid,
                                           Time now);
  // ... and the best prefill instance that fits it, with room or without: by now D holds blocks for it.
  Result<Reservation> reserve_prefill_for(const Demand& demand, InstanceId d,
                                          const std::vector<InstanceId>& avoid, Time now);

  // Where the prompt of a request is to be computed, by --local-prefill. With `always` the errors are those
  // of reserve_decode_alone.
  Result<Placed> place_prefill(const Demand& demand, const std::vector<InstanceId>& avoid, Time now);
  // The best Baton decode instance, for a request whose prompt nobody else computes; it needs no partner.
  // kExhausted: some could, but none has room.
  Result<Reservation> reserve_decode_alone(const Demand& demand, const std::vector<InstanceId>& avoid,
                                           Time now);
  // Whether some prefill instance takes requests, or may before its first probe has ended.
  bool may_prefill(Time now) const;
  // The best decode instance that can go on with an answer that `lost` began: it reads the same tokens and
  // draws the same ones. With room or without. kUnavailable says what is wrong with each.
  Result<Reservation> reserve_resumption(const Demand& demand, const api::InstanceIdentity& lost,
                                         const std::vector<InstanceId>& avoid, Time now);

  // The order in which requests go: the operator's word, else what the instances that are up say of
  // themselves (one that is no Baton instance counts as pull). kUnavailable while nobody says, or when two
  // say different things, which it names.
  void ask_order(std::optional<api::HandoverOrder> order) { asked_order_ = order; }
  Result<api::HandoverOrder> order() const;

  // Whether some instance could take a request now; the error of reserve_prefill. Reserves nothing.
  Result<void> ready(Time now) const;
  // The decode instance that reserve_decode would choose for `p`; nullptr if there is none. Reserves nothing.
  const Instance* partner_of(InstanceId p) const;

  const Instance* find(InstanceId id) const;
  const std::vector<std::unique_ptr<Instance>>& instances() const { return instances_; }
  std::vector<RefusedPair> refused_pairs() const;
  // What an operator should know and nothing breaks on: two instances of one engine_id. They are told apart
  // by host, port and incarnation.
  std::vector<std::string> warnings() const;
  size_t count(Side side) const;
  WaitQueue& queue() { return queue_; }
  const WaitQueue& queue() const { return queue_; }

 private:
  friend class Reservation;
  Instance* get(InstanceId id);
  Reservation take(Instance& instance, const Demand& demand, double cached, Time now);
  bool fits(const Instance& p, const Instance& d) const;
  struct Wanted {
    Side side = Side::kPrefill;
    const Demand& demand;
    const std::vector<InstanceId>& avoid;
    std::optional<InstanceId> partner = {};
    std::optional<Time> now = {};  // nothing: whatever breakers say
    bool needs_partner = false;
    bool needs_room = false;
    bool is_alone = false;  // D computes the prompt: a Baton instance, and what it lacks counts in full
    const api::InstanceIdentity* lost = nullptr;  // whose answer it shall go on with
  };
  struct Best {
    Instance* instance = nullptr;
    double cached = 0;  // tokens that it probably has, before trust
  };
  void look_up(const Demand& demand) const;
  Best best(const Wanted& wanted) const;
  bool takes(const Instance& instance, std::optional<Time> now) const;
  bool has_room(const Instance& instance) const;
  bool has_room_on(Side side, Time now) const;  // that no request in its first stage is promised
  bool has_partner(const Instance& one) const;
  bool fits(const Instance& one, const Instance& other, Side side_of_one) const;
  double load_added(const Instance& instance, const Demand& demand, double cached) const;
  Result<Reservation> reserve_first(Side side, const Demand& demand, const std::vector<InstanceId>& avoid,
                                    Time now);
  Reservation take_alone(const Best& chosen, const Demand& demand, Time now);
  bool weighs() const;
  std::string why_full(Side side) const;
  std::string why_none(Side side, std::optional<InstanceId> partner, std::optional<Time> now) const;
  std::string why_not_now(const Instance& one, std::optional<Time> now) const;  // empty if it takes requests
  std::string why_not_going_on(const Instance& one, const api::InstanceIdentity& lost) const;
  std::string why_unfit(const Instance& p, const Instance& d) const;        // empty if p can hand over to d
  std::string why_not(const Instance& one, const Instance& partner) const;  // the partner's health too
  std::string why_no_partner(const Instance& one) const;
  void drop_if_drained(InstanceId id);

  RegistryOptions options_;
  WaitQueue queue_;
  std::optional<PrefixTable> prefixes_;              // from the first chain on
  mutable std::vector<PrefixTable::Match> matches_;  // of the last look; kept for its memory
  mutable std::optional<PrefixCut> looked_up_;       // its last link
  CacheId last_cache_ = kNoCache;
  double bytes_per_token_ = 4;
  // Places at the instances of a side, to requests that are with an instance of the other.
  std::array<uint32_t, 2> promised_{};
  std::vector<std::unique_ptr<Instance>> instances_;  // in order of addition
  uint32_t next_id_ = 1;
  uint64_t choices_ = 0;
  std::optional<api::HandoverOrder> asked_order_;
};

}  // namespace baton::router
