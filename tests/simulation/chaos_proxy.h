// One proxy process of a chaos run: the shipped registry and pull flow, and a small shell in place of
// proxy/exchange.cc that does what the flow says.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

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

 private:
  struct Flight {
    size_t client = 0;
    std::string body;  // the flow has views into it
    std::unique_ptr<router::PullFlow> flow;
    uint64_t call = 0;  // 0: none
    size_t backend = 0;
    bool is_prefill = false;
    bool relays = false;
    bool begun = false;
    enum class Waits : uint8_t { kNothing, kAnswer, kPause, kRoom } waits{};
    Time until = kNever;
    std::string out;
  };
  void carry_out(uint64_t id, router::Step step, Time now);
  void ask(Flight& flight, router::InstanceId instance, std::string body, bool is_prefill, Time now);
  void piece_of_answer(uint64_t id, Piece piece, Time now);
  void event_of_stream(Flight& flight, const std::string& data);
  void stream_ended(uint64_t id, const Result<void>& end, Time now);
  void broke(uint64_t id, const Error& error, Time now);
  void clean_up(Flight& flight, Time now);
  void end(uint64_t id, Received received, Time now);

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
