// The instances a proxy knows: who they say they are, whether they answer, how loaded they are, and the
// choice among them. Sans-I/O: probes and requests report here, and are told `now`. Owned by the proxy's io
// thread.
//
// Scores are those of vllm-ascend's load_balance_proxy_server_example.py: with L the bytes of the client's
// body, a prefill costs L/4 x 0.0345 + 120.0745 and a decode costs L. Priority of P = active_tokens + 0.3 x
// active_kv, of D = active_tokens; the smallest wins. Of equals the one chosen longest ago wins, so that an
// idle cluster is used in turn.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/identity.h"
#include "base/clock.h"
#include "base/result.h"

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

struct Instance {
  InstanceId id{};
  Side side = Side::kPrefill;
  std::string host;  // IPv6 without brackets
  uint16_t port = 0;

  Health health = Health::kUnknown;
  std::string reason = "it has not answered yet";  // why it is not up
  Time since;                                      // of the health
  bool is_draining = false;                        // takes no new requests, leaves when the last one ended
  std::optional<api::InstanceIdentity> identity;   // nothing: not a Baton instance (a vLLM), or unknown
  std::string notice;                              // what an operator should know of it and do; mostly empty
  bool fails_forced_tools = false;  // a foreign P that answers 500 where tool_choice forces a call

  double active_tokens = 0;
  double active_kv = 0;  // P only: prefills whose KV is not taken yet
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

  void release_tokens();  // P answered
  void release();         // everything that is left

 private:
  friend class Registry;
  Registry* registry_ = nullptr;
  InstanceId instance_{};
  double tokens_ = 0;
  double kv_ = 0;
};

struct RefusedPair {
  std::string prefill;
  std::string decode;
  std::string reason;  // the field and both values
};

class Registry {
 public:
  // Adding what is there and not draining changes nothing; a draining one stays and takes requests again.
  InstanceId add(Side side, std::string host, uint16_t port, Time now);
  // Starts to drain; gone at once if nothing is in flight. False if it is not known.
  bool remove(Side side, std::string_view host, uint16_t port);

  // What a probe found. `identity`: nothing when it does not speak Baton.
  void on_probe_ok(InstanceId id, std::optional<api::InstanceIdentity> identity, Time now,
                   std::string notice = {});
  void on_probe_failed(InstanceId id, std::string reason, Time now);
  // A request's own experience: a transport failure takes the instance out until a probe brings it back.
  void on_request_failed(InstanceId id, std::string reason, Time now);
  void on_forced_tool_failed(InstanceId id);

  // The best prefill instance that is up and has a decode instance to hand over to; not one of `avoid` while
  // there is another. kUnavailable says what is wrong with each.
  Result<Reservation> reserve_prefill(size_t body_bytes, const std::vector<InstanceId>& avoid);
  // The best decode instance that is up and fits `partner` (any, without one).
  Result<Reservation> reserve_decode(size_t body_bytes, std::optional<InstanceId> partner,
                                     const std::vector<InstanceId>& avoid);

  // Whether reserve_prefill would find one now; the same error. Reserves nothing.
  Result<void> ready() const;
  // The decode instance that reserve_decode would choose for `p`; nullptr if there is none. Reserves nothing.
  const Instance* partner_of(InstanceId p) const;

  const Instance* find(InstanceId id) const;
  const std::vector<std::unique_ptr<Instance>>& instances() const { return instances_; }
  std::vector<RefusedPair> refused_pairs() const;
  size_t count(Side side) const;

 private:
  friend class Reservation;
  Instance* get(InstanceId id);
  Reservation take(Instance& instance, double tokens, double kv);
  bool fits(const Instance& p, const Instance& d) const;
  Instance* best(Side side, const std::vector<InstanceId>& avoid, std::optional<InstanceId> partner) const;
  std::string why_none(Side side, std::optional<InstanceId> partner) const;
  std::string why_not(const Instance& p,
                      const Instance& d) const;  // p cannot hand over to d now; empty if it can
  std::string why_no_partner(const Instance& p) const;
  void drop_if_drained(InstanceId id);

  std::vector<std::unique_ptr<Instance>> instances_;  // in order of addition
  uint32_t next_id_ = 1;
  uint64_t choices_ = 0;
};

}  // namespace baton::router
