// D's machine does what its table in docs/handover.md says, row by row, and nothing else.
#include "transfer/target.h"

#include <gtest/gtest.h>

#include <functional>

#include "transfer/testing_table.h"

namespace baton::transfer {
namespace {

constexpr kv::KvLayout kLayout{.layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 16};
constexpr PeerId kPeer{1};
constexpr PeerId kOther{2};
constexpr Duration kDeadline = std::chrono::milliseconds(500);
const Error kNotHeld{Code::kNotFound, "not held"};

class Machine {
 public:
  Machine() {
    identity.engine_id = "p-1";
    identity.incarnation = random_id<Incarnation>();
    identity.layout = kLayout;
  }

  void expect(TransferId id) {
    target.expect({.transfer = id,
                   .handover = handover,
                   .host = "p",
                   .port = 1,
                   .engine_id = "p-1",
                   .incarnation = identity.incarnation,
                   .tokens = 40,
                   .prompt_hash = "hash",
                   .deadline = now + kDeadline},
                  now);
  }
  void on(const MoverEvent& event) { target.on_event(event, now); }
  void receive(PeerId peer, Message message) { on(Received{peer, std::move(message)}); }
  void be_up(const Identity& who) {
    on(PeerUp{.peer = kPeer, .identity = who, .transport = Transport::kFake});
  }
  void land() { target.land(transfer, {BlockId{2}, BlockId{0}}, 16, now); }
  void abort() { target.abort(transfer, "the client left", now); }
  void pass(Duration duration) {
    now = now + duration;
    target.on_time(now);
  }
  // The peer is up and no transfer is left of those that made it so.
  void bring_peer_up() {
    const auto before = random_id<TransferId>();
    expect(before);
    be_up(identity);
    target.abort(before, "", now);
    target.take_outcomes();
    target.take_commands();
  }
  void bring_to(const std::string& state) {
    if (state == "unknown") return;
    expect(transfer);
    if (state == "connecting with blocks") land();
    if (!state.starts_with("connecting")) be_up(identity);
    if (state == "moving" || state == "stopping") land();
    if (state == "stopping") abort();
    target.take_commands();
  }
  std::string state() const {
    const auto expected = target.snapshot();
    if (expected.empty()) return "unknown";
    const bool with_blocks = expected[0].state == TransferState::kConnecting && expected[0].blocks > 0;
    return std::string(transfer_state_name(expected[0].state)) + (with_blocks ? " with blocks" : "");
  }
  // The state, or the outcome.
  std::string state_or_end() {
    const auto outcomes = target.take_outcomes();
    if (outcomes.empty()) return state();
    EXPECT_EQ(outcomes.size(), 1U);
    EXPECT_EQ(outcomes[0].transfer, transfer);
    EXPECT_EQ(target.size(), 0U);
    return std::string("ended: ") + (outcomes[0].error ? code_name(outcomes[0].error->code) : "landed");
  }

  std::unique_ptr<kv::KvArena> arena = *kv::KvArena::create(kLayout, 4, Incarnation{});
  HandoverId handover = random_id<HandoverId>();
  TransferId transfer = random_id<TransferId>();
  Identity identity;  // of P
  HandoverConfig config{.incarnation = {}, .lease = std::chrono::milliseconds(300)};
  Target target{config, *arena};
  Time now{std::chrono::seconds(1)};
};

using Event = std::function<void(Machine&)>;

const std::map<std::string, Event>& events() {
  static const std::map<std::string, Event> all_events = {
      {"expect", [](Machine& m) { m.expect(m.transfer); }},
      {"expect of a peer that is up",
       [](Machine& m) {
         if (m.target.size() == 0) m.bring_peer_up();
         m.expect(m.transfer);
       }},
      {"PeerUp", [](Machine& m) { m.be_up(m.identity); }},
      {"PeerUp of another incarnation",
       [](Machine& m) {
         Identity other = m.identity;
         other.incarnation = random_id<Incarnation>();
         m.be_up(other);
       }},
      {"PeerUp of another engine",
       [](Machine& m) {
         Identity other = m.identity;
         other.engine_id = "p-2";
         m.be_up(other);
       }},
      {"PeerLost", [](Machine& m) { m.on(PeerLost{kPeer, {Code::kUnavailable, "reset"}}); }},
      {"PeerLost of another peer", [](Machine& m) { m.on(PeerLost{kOther, {Code::kUnavailable, "reset"}}); }},
      {"land", [](Machine& m) { m.land(); }},
      {"land with nothing missing", [](Machine& m) { m.target.land(m.transfer, {}, 40, m.now); }},
      {"Renewed", [](Machine& m) { m.receive(kPeer, Renewed{m.handover, m.config.lease}); }},
      {"Renewed of another peer",
       [](Machine& m) { m.receive(kOther, Renewed{m.handover, std::chrono::milliseconds(3)}); }},
      {"HandoverEnded", [](Machine& m) { m.receive(kPeer, HandoverEnded{m.handover, kNotHeld}); }},
      {"HandoverEnded of another peer",
       [](Machine& m) { m.receive(kOther, HandoverEnded{m.handover, kNotHeld}); }},
      {"AbortTransfer", [](Machine& m) { m.receive(kPeer, AbortTransfer{m.transfer, kNotHeld}); }},
      {"AbortTransfer of another peer",
       [](Machine& m) { m.receive(kOther, AbortTransfer{m.transfer, kNotHeld}); }},
      {"Landed", [](Machine& m) { m.on(Landed{m.transfer, 1}); }},
      {"MoveFailed", [](Machine& m) { m.on(MoveFailed{m.transfer, {Code::kCorrupt, "checksum"}}); }},
      {"StoresStopped", [](Machine& m) { m.on(StoresStopped{m.transfer}); }},
      {"abort", [](Machine& m) { m.abort(); }},
      {"the deadline passes", [](Machine& m) { m.pass(kDeadline); }},
      {"a third of the lease passes", [](Machine& m) { m.pass(m.config.lease / 3); }},
      // Before anything else is due; in `stopping` nothing else ever is.
      {"the stop is not answered",
       [](Machine& m) {
         m.pass(m.state() == "stopping" ? m.config.stop_retry : std::chrono::milliseconds(50));
       }},
  };
  return all_events;
}

std::map<std::pair<std::string, std::string>, TableRow> table() {
  std::set<std::string> states = names_of<TransferState>(transfer_state_name);
  states.insert({"unknown", "connecting with blocks"});
  std::set<std::string> names;
  for (const auto& [name, event] : events()) names.insert(name);
  return expand_table(read_table("## D:", {"State", "Event", "Says", "Next"}), states, names);
}

TEST(Target, DoesWhatItsTableSays) {
  for (const auto& [at, row] : table()) {
    const auto& [state, event] = at;
    SCOPED_TRACE(fmt::format("{} | {}", state, event));
    Machine machine;
    machine.bring_to(state);
    ASSERT_EQ(machine.state(), state);
    if (row.at("Next") == "CHECK") {
      EXPECT_DEATH(events().at(event)(machine), "CHECK");
      continue;
    }
    events().at(event)(machine);
    EXPECT_EQ(says(machine.target.take_commands()), row.at("Says"));
    EXPECT_EQ(machine.state_or_end(), row.at("Next"));
  }
}

TEST(Target, TellsAPeerOfTransfersThatEndedBeforeItWasUp) {
  Machine machine;
  machine.bring_to("connecting");
  machine.abort();
  EXPECT_EQ(says(machine.target.take_commands()), "");
  machine.be_up(machine.identity);
  EXPECT_EQ(says(machine.target.take_commands()), "ReleaseHandover");
}

TEST(Target, RenewsAfterAThirdOfTheLeaseThatPNames) {
  Machine machine;
  machine.bring_to("waiting");
  machine.receive(kPeer, Renewed{machine.handover, std::chrono::milliseconds(90)});
  machine.pass(std::chrono::milliseconds(29));
  EXPECT_EQ(says(machine.target.take_commands()), "");
  machine.pass(std::chrono::milliseconds(1));
  EXPECT_EQ(says(machine.target.take_commands()), "Renew");
}

TEST(Target, SharesAConnectionAndClosesItWhenItIsIdle) {
  Machine machine;
  machine.bring_to("waiting");
  const auto second = random_id<TransferId>();
  machine.expect(second);
  EXPECT_EQ(says(machine.target.take_commands()), "Renew");
  machine.abort();
  machine.target.abort(second, "", machine.now);
  machine.target.take_commands();
  EXPECT_EQ(machine.target.next_deadline(), machine.now + machine.config.idle_close);
  machine.pass(machine.config.idle_close);
  EXPECT_EQ(says(machine.target.take_commands()), "Close");
  EXPECT_EQ(machine.target.next_deadline(), kNever);
}

// A block whose transfer was stopped may still be stored into until the mover says otherwise.
TEST(Target, KeepsTheBlocksOfAnAbortedTransferUntilNoStoreCanCome) {
  Machine machine;
  machine.bring_to("stopping");
  machine.on(Landed{machine.transfer, 1});
  EXPECT_TRUE(machine.target.take_outcomes().empty());
  machine.on(StoresStopped{machine.transfer});
  const auto outcomes = machine.target.take_outcomes();
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(outcomes[0].error->code, Code::kCancelled);
}

}  // namespace
}  // namespace baton::transfer
