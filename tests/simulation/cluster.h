// A whole deployment in one process and one thread: shipped engines, hand-over machines, request building,
// answers and proxy flows over real models; only the network and the clock are fake. A request goes through
// it as a JSON body, as a client would send it, and comes out as drawn tokens with their log-probabilities
// and as the text that a client reads.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "kernels/cpu.h"
#include "kv/arena.h"
#include "model/language_model.h"
#include "router/layerwise_flow.h"
#include "router/parts.h"
#include "router/pull_flow.h"
#include "router/registry.h"
#include "serve/answer.h"
#include "serve/request_builder.h"
#include "serve/served_model.h"
#include "transfer/fake/fake_network.h"

namespace baton::simulation {

// One choice as its client reads it, streamed or whole.
struct Said {
  std::string text;
  std::string end;  // finish_reason and stop_reason as JSON, with a blank between

  bool operator==(const Said&) const = default;
};

// What a client got.
struct Outcome {
  std::vector<std::vector<engine::DrawnToken>> choices;                  // [prompt x n + i]
  std::vector<Said> said = {};                                           // beside `choices`
  std::vector<std::optional<engine::PositionLogprobs>> prompt_logprobs;  // prompt after prompt
  std::optional<Error> error;
  bool recomputed = false;  // D computed the prompt because the hand-over failed

  bool same_answer(const Outcome& other) const {
    return choices == other.choices && said == other.said && prompt_logprobs == other.prompt_logprobs &&
           error == other.error;
  }
};

// How one instance is made. Nothing of it may show in an answer.
struct InstanceOptions {
  std::string name;
  std::optional<api::Role> role;                         // nothing: alone
  api::HandoverOrder order = api::HandoverOrder::kPull;  // one for all of a cluster
  uint32_t block_tokens = 16;
  uint32_t arena_blocks = 256;
  engine::EngineConfig engine;
};

// Makes the model of an instance, whose KV blocks hold `block_tokens`; each has its own.
using ModelFactory = std::function<std::unique_ptr<model::LanguageModel>(uint32_t block_tokens)>;

class Instance {
 public:
  Instance(InstanceOptions options, std::unique_ptr<model::LanguageModel> model,
           const std::string& tokenizer_dir, transfer::fake::FakeNetwork& network);

  // Begins one request, each prompt of a list as one of the engine's; `done` gets its outcome and, from P,
  // the kv_transfer_params for D (else empty).
  using Done = std::function<void(Outcome, std::string kv_transfer_params)>;
  // D, layer-wise order: the blocks are there, the metaserver would hear of it now.
  using Reserved = std::function<void(const engine::ReservedEvent&)>;
  void submit(const std::string& body, Done done, Reserved reserved = {});
  // The metaserver's answer to that.
  void refuse(TransferId transfer, Error error) {
    inbox_.push_back(engine::ReservationRefused{transfer, std::move(error)});
  }

  // One turn: events of the mover, a step if there is something to do. False if nothing happened.
  bool turn(Time now);

  const api::InstanceIdentity& identity() const { return served_.identity; }
  engine::Engine& engine() { return *engine_; }
  uint16_t port() const { return port_; }

 private:
  struct Open {
    Done done;
    Reserved reserved;
    std::unique_ptr<const api::CompletionRequest> request;  // which `answer` refers to
    std::unique_ptr<serve::Answer> answer;
    std::string events = {};  // of a stream
    Outcome outcome;
    std::string params;
    engine::SamplingParams sampling;
    uint32_t prompt_tokens = 0;
    uint32_t cached_tokens = 0;
  };
  void submit_prompt(const api::CompletionRequest& request, const api::Prompt& prompt, Done done,
                     Reserved reserved);
  void take(const engine::Answer& answer);
  void take_tokens(Open& open, const engine::TokensEvent& event);

  static uint16_t next_port_;
  InstanceOptions options_;
  uint16_t port_;
  serve::ServedModel served_;
  std::unique_ptr<model::LanguageModel> model_;
  std::unique_ptr<kv::KvArena> arena_;
  std::unique_ptr<transfer::fake::FakeMover> mover_;
  std::unique_ptr<engine::Engine> engine_;
  std::vector<engine::Inbox> inbox_;
  std::map<uint64_t, Open> open_;
  uint64_t next_request_ = 1;
  uint64_t draws_ = 1;  // ids; unique over all instances of a process is all that matters
};

// 2P + 2D and the proxy's flow of their order, or whatever was added.
class Cluster {
 public:
  Cluster(ModelFactory models, std::string tokenizer_dir, transfer::fake::FakeNetworkConfig network);

  void add(InstanceOptions options);
  // Sends `body` (of /v1/completions) through the proxy's flow at `at`; its outcome is outcomes()[i] for the
  // i-th.
  void send(std::string body, Time at);
  // Runs until every request has its outcome and every instance is idle, or CHECKs after an hour of its
  // clock.
  void run();

  const std::vector<Outcome>& outcomes() const { return outcomes_; }
  Instance& instance(size_t i) { return *instances_[i]; }
  size_t size() const { return instances_.size(); }
  transfer::fake::FakeNetwork& network() { return network_; }
  // Called after each round of turns, with the number of rounds so far: cuts connections and the like.
  std::function<void(uint64_t round)> on_round;

 private:
  // A client's request, as its parts.
  struct Whole {
    std::string body;
    size_t index = 0;
    std::optional<router::ClientBody> client;
    std::optional<router::PartedAnswer> parts;
    std::map<size_t, Outcome> outcomes;  // by part
  };
  struct Flight {
    std::shared_ptr<Whole> whole;
    size_t part = 0;
    std::unique_ptr<router::PullFlow> flow;  // one of the two
    std::unique_ptr<router::LayerwiseFlow> layerwise;
    std::string body;
    Outcome prefill;              // what P drew
    uint32_t round = 0;           // layer-wise: D's that were asked
    TransferId transfer;          // D's reservation
    bool awaits_prefill = false;  // D has answered
  };
  void begin(const std::string& body, size_t index);
  void begin_parts(const std::shared_ptr<Whole>& whole);
  void finish(const std::shared_ptr<Flight>& flight, const router::Reply& reply);
  void carry_out_pull(const std::shared_ptr<Flight>& flight, router::Step step);
  void carry_out_layerwise(const std::shared_ptr<Flight>& flight, router::Step step);
  void decode_layerwise(const std::shared_ptr<Flight>& flight, const router::AskDecode& ask);
  void carry_out_prefill(const std::shared_ptr<Flight>& flight, router::InstanceId d,
                         router::PrefillStep step);
  void await_prefill(const std::shared_ptr<Flight>& flight, router::InstanceId d);
  Instance& by_id(router::InstanceId id);

  ModelFactory models_;
  std::string tokenizer_dir_;
  Time now_{std::chrono::seconds(1)};
  transfer::fake::FakeNetwork network_;
  router::Registry registry_;
  std::vector<std::unique_ptr<Instance>> instances_;
  std::map<uint32_t, size_t> by_id_;
  struct Waiting {
    Time at;
    std::string body;
    size_t index = 0;
  };
  std::vector<Waiting> waiting_;
  std::vector<Outcome> outcomes_;
  size_t unfinished_ = 0;
  std::vector<std::pair<Time, std::function<void()>>> timers_;
};

// The outcome of `body` from one instance alone, whose clock stands at `now` and goes on.
Outcome answer_alone(Instance& instance, const std::string& body, Time& now);

}  // namespace baton::simulation
