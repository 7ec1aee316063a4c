// One serving process of a chaos run: the shipped engine, hand-over machines and request building over the
// fake model and network; a small door in place of HTTP. It can die and live again, be stopped and go on.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "api/resume.h"
#include "engine/engine.h"
#include "kv/arena.h"
#include "model/testing.h"
#include "serve/request_builder.h"
#include "tests/simulation/chaos_questions.h"
#include "tests/simulation/chaos_wire.h"
#include "transfer/fake/fake_network.h"

namespace baton::simulation::chaos {

struct InstanceOptions {
  size_t index = 0;
  api::Role role{};
  api::HandoverOrder order{};
  bool emits_layers = false;  // while a pass goes on, else at its end
  uint32_t block_tokens = 16;
  uint32_t arena_blocks = 32;
  uint32_t interrupt_percent = 0;     // passes that are ended early
  std::optional<api::Speeds> speeds;  // that it says, whatever it is
  engine::EngineConfig engine;
};

class Instance {
 public:
  Instance(InstanceOptions options, transfer::fake::FakeNetwork& network, Wire& wire,
           serve::ServedModel& served, uint64_t seed);

  void start();
  void kill(Time now);
  void stop(bool stopped);
  bool is_alive() const { return engine_.has_value(); }
  bool is_stopped() const { return stopped_; }

  void take(const Call& call, Piece piece, Time now);
  // One turn of its threads: events of the mover, and a step if there is something to do.
  void turn(Time now);
  // When turn() has to be called even if nothing arrives.
  Time next_turn(Time now) const;

  uint16_t port() const { return static_cast<uint16_t>(1000 + options_.index); }
  const api::InstanceIdentity& identity() const { return served_->identity; }
  api::Role role() const { return options_.role; }
  bool is_idle() const { return engine_->is_idle() && open_.empty() && inbox_.empty(); }
  // What is wrong at the end, when nothing is asked any more; empty: nothing.
  std::string find_leak() const;

  // Over all its lives.
  uint64_t landed = 0;
  uint64_t recomputed = 0;
  uint64_t returned = 0;
  uint64_t steps = 0;
  uint64_t digest = 0;    // of every answer in order
  std::string violation;  // the first answer that must not be; empty: none

 private:
  struct Open {
    uint64_t call = 0;
    std::string external_id;
    std::optional<HandoverId> hold;
    TransferId reserved;  // layer-wise, D
    bool has_remote = false;
    bool kv_unused = false;
    bool stream = false;
    bool begun = false;
    bool notes = false;
    std::optional<api::ResumeHead> head;  // until the first note
    engine::SamplingParams sampling;
    uint32_t prompt_tokens = 0;
    uint32_t cached_tokens = 0;
    std::vector<std::vector<TokenId>> tokens;
    std::vector<std::string> reasons;
    std::string params;
  };
  template <class Id>
  Id draw_id() {
    Id id;
    for (uint8_t& byte : id.bytes) byte = static_cast<uint8_t>(random_());
    return id;
  }
  void begin(const Call& call, const Piece& piece, Time now);
  Result<engine::Request> build(const std::string& body, Open& open);
  void hang_up(uint64_t call);
  void abort(const std::string& id);
  void nobody_comes(uint64_t call, const std::string& why);
  void deliver(engine::Outbox outbox);
  void answer(const engine::Answer& answer, Time now);
  void take_tokens(Open& open, const engine::TokensEvent& event, Time now);
  void give_back(const Open& open, Time now);
  void finish(Open& open, Time now);
  void fail(Open& open, const Error& error, Time now);
  std::string whole_body(const Open& open) const;

  InstanceOptions options_;
  transfer::fake::FakeNetwork& network_;
  Wire& wire_;
  std::mt19937_64 random_;
  serve::ServedModel* served_;
  std::unique_ptr<model::FakeModel> model_;
  std::unique_ptr<kv::KvArena> arena_;
  std::unique_ptr<transfer::fake::FakeMover> mover_;
  Time turn_time_;
  std::optional<engine::Engine> engine_;
  bool stopped_ = false;
  std::vector<engine::Inbox> inbox_;
  std::map<uint64_t, Open> open_;  // by RequestId
  std::set<uint64_t> left_;        // their clients have left, their ends are still to come
  uint64_t next_request_ = 1;
};

}  // namespace baton::simulation::chaos
