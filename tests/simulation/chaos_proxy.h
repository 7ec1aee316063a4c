// One proxy process of a chaos run: the shipped registry and flows of both orders, and a small shell in place
// of proxy/answer_exchange.cc that does what a flow says.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "router/layerwise_flow.h"
#include "router/pull_flow.h"
#include "router/registry.h"
#include "tests/simulation/chaos_wire.h"

namespace baton::simulation::chaos {

// What one client got, in the order in which it got it.
struct Received {
  int status = 0;     // 0: nothing yet
  std::string bytes;  // a body, or the events of a stream
  bool is_over = false;
};

struct ProxyOptions {
  api::HandoverOrder order{};
  router::RegistryOptions registry;
  router::FlowLimits limits;
};

struct Backend {
  router::Side side{};
  uint16_t port = 0;
};

class Proxy {
 public:
  using Receive = std::function<void(size_t client, const Received&)>;

  Proxy(size_t index, ProxyOptions options, std::vector<Backend> backends, Wire& wire, Receive receive)
      : index_(index),
        options_(options),
        backends_(std::move(backends)),
        wire_(wire),
        receive_(std::move(receive)) {}

  void start(Time now);
  // Its clients' connections end; nobody is told what was not wanted any longer.
  void kill(Time now);

  void request(size_t client, const std::string& body, std::string request_id, Time now);
  void client_left(size_t client, Time now);
  void take(const Call& call, Piece piece, Time now);
  void on_time(Time now);
  Time next_time() const;

  // What a probe of a backend found.
  void on_probe(size_t backend, const std::optional<api::InstanceIdentity>& identity, Time now);
  bool is_up(size_t backend) const;

  size_t in_flight() const { return flights_.size(); }
  std::string find_leak() const;  // empty: none

  uint64_t alone = 0;    // requests whose prompt was left to D
  uint64_t resumed = 0;  // answers that went on at another D

 private:
  enum class Waits : uint8_t { kNothing, kAnswer, kPause, kRoom, kPrefill };
  struct Flight {
    size_t client = 0;
    std::string body;  // the flow has views into it
    std::unique_ptr<router::AnswerFlow> flow;
    router::PullFlow* pull = nullptr;  // the flow, in its order
    router::LayerwiseFlow* layerwise = nullptr;
    uint64_t call = 0;  // 0: none
    size_t backend = 0;
    bool is_prefill = false;  // the call, in the pull order
    bool relays = false;
    Waits waits = Waits::kNothing;
    Time until = kNever;
    std::string out;
    std::deque<Piece> later;  // D's stream while an event waits for P
    // layer-wise: P's part
    uint64_t p_call = 0;
    size_t p_backend = 0;
    Waits p_waits = Waits::kNothing;
    Time p_until = kNever;
  };
  void carry_out(uint64_t id, router::Step step, Time now);
  uint64_t ask(uint64_t id, router::InstanceId instance, Piece request, Time now);
  size_t backend_of(router::InstanceId instance) const;
  void piece_of_answer(uint64_t id, Piece piece, Time now);
  void event_of_stream(uint64_t id, const std::string& note, const std::string& data, Time now);
  void stream_ended(uint64_t id, const Result<void>& end, Time now);
  void broke(uint64_t id, const Error& error, Time now);
  void out_of_time(uint64_t id, Time now);
  void close(uint64_t& call, Time now);
  void clean_up(Flight& flight, Time now);
  void end(uint64_t id, Received received, Time now);
  // layer-wise
  void post(uint64_t id, const std::string& body, Time now);
  void carry_out_prefill(uint64_t id, router::PrefillStep step, Time now);
  void prefilled(uint64_t id, Result<router::UpstreamAnswer> answer, Time now);
  void await_prefill(uint64_t id, Time now);
  void prefill_is_over(uint64_t id, Time now);

  size_t index_;
  ProxyOptions options_;
  std::vector<Backend> backends_;
  Wire& wire_;
  Receive receive_;
  std::optional<router::Registry> registry_;
  std::vector<router::InstanceId> ids_;  // [backend]
  std::map<uint64_t, Flight> flights_;
  std::map<uint64_t, uint64_t> by_call_;
  std::set<uint64_t> woken_;
  uint64_t next_ = 1;
};

}  // namespace baton::simulation::chaos
