// P's machine does what its table in docs/handover.md says, row by row, and nothing else.
#include "transfer/source.h"

#include <gtest/gtest.h>

#include <functional>

#include "transfer/testing_table.h"

namespace baton::transfer {
namespace {

constexpr kv::KvLayout kLayout{.layers = 2, .kv_heads = 1, .head_dim = 8, .block_tokens = 16};
constexpr PeerId kPeer{kAcceptedPeers + 1};
constexpr PeerId kOther{kAcceptedPeers + 2};
constexpr Duration kShort = std::chrono::seconds(10);
constexpr Duration kLong = std::chrono::seconds(100);

// Two peers are up; the tables' "the peer" is kPeer.
class Machine {
 public:
  explicit Machine(Duration deadline = kLong) : deadline_(deadline) {
    for (const PeerId peer : {kPeer, kOther}) {
      identities_[peer].engine_id = peer == kPeer ? "d-1" : "d-2";
      identities_[peer].incarnation = random_id<Incarnation>();
      identities_[peer].layout = kLayout;
      on(PeerUp{.peer = peer, .identity = identities_[peer], .transport = Transport::kFake});
    }
  }

  void hold() { source.hold({handover, blocks, 40, "hash"}, now); }
  void on(const MoverEvent& event) { source.on_event(event, now); }
  void receive(PeerId peer, Message message) { on(Received{peer, std::move(message)}); }
  void pass(Duration duration) {
    now = now + duration;
    source.on_time(now);
  }
  Landing landing(PeerId peer, TransferId id) const {
    return {.transfer = id,
            .handover = handover,
            .target_incarnation = identities_.at(peer).incarnation,
            .target = {BlockId{7}, BlockId{5}},
            .tokens_present = 16,
            .tokens_total = 40,
            .prompt_hash = "hash",
            .deadline = deadline_};
  }
  void bring_to(const std::string& state) {
    if (state != "unknown") hold();
    if (state == "claimed" || state == "moving") receive(kPeer, Renew{handover});
    if (state == "moving") receive(kPeer, landing(kPeer, transfer));
    source.take_commands();
    pass(std::chrono::seconds(1));  // so that a lease that begins anew can be told from one that does not
  }
  std::string state() const {
    const auto held = source.snapshot();
    return held.empty() ? "unknown" : std::string(held_state_name(held[0].state));
  }
  // The state, or how the hold ended; checks that its blocks are all there.
  std::string state_or_end() {
    const auto released = source.take_released();
    if (released.empty()) return state();
    EXPECT_EQ(released.size(), 1U);
    EXPECT_EQ(released[0].blocks, blocks);
    EXPECT_EQ(source.size(), 0U);
    return "ended: " + std::string(hold_end_name(released[0].end));
  }

  std::unique_ptr<kv::KvArena> arena = *kv::KvArena::create(kLayout, 8, Incarnation{});
  HandoverId handover = random_id<HandoverId>();
  TransferId transfer = random_id<TransferId>();
  std::vector<BlockId> blocks = {BlockId{3}, BlockId{1}, BlockId{4}};
  HandoverConfig config;
  Source source{config, *arena};
  Time now{std::chrono::seconds(1)};

 private:
  Duration deadline_;
  std::map<PeerId, Identity> identities_;
};

using Event = std::function<void(Machine&)>;
const Error kGone{Code::kUnavailable, "gone"};

Landing misfit(const Machine& machine) {
  Landing landing = machine.landing(kPeer, random_id<TransferId>());
  landing.prompt_hash = "another";
  return landing;
}

const std::map<std::string, Event>& events() {
  static const std::map<std::string, Event> all_events = {
      {"hold", [](Machine& m) { m.hold(); }},
      {"Renew", [](Machine& m) { m.receive(kPeer, Renew{m.handover}); }},
      {"Renew of another peer", [](Machine& m) { m.receive(kOther, Renew{m.handover}); }},
      {"Landing", [](Machine& m) { m.receive(kPeer, m.landing(kPeer, m.transfer)); }},
      {"another Landing", [](Machine& m) { m.receive(kPeer, m.landing(kPeer, random_id<TransferId>())); }},
      {"Landing of another peer",
       [](Machine& m) { m.receive(kOther, m.landing(kOther, random_id<TransferId>())); }},
      {"Landing that does not fit", [](Machine& m) { m.receive(kPeer, misfit(m)); }},
      {"PushProgress", [](Machine& m) { m.on(PushProgress{kPeer, m.transfer, 1}); }},
      {"PushProgress of another peer", [](Machine& m) { m.on(PushProgress{kOther, m.transfer, 1}); }},
      {"Taken", [](Machine& m) { m.receive(kPeer, Taken{m.handover, m.transfer}); }},
      {"Taken of another peer", [](Machine& m) { m.receive(kOther, Taken{m.handover, m.transfer}); }},
      {"ReleaseHandover", [](Machine& m) { m.receive(kPeer, ReleaseHandover{m.handover, "why"}); }},
      {"ReleaseHandover of another peer",
       [](Machine& m) { m.receive(kOther, ReleaseHandover{m.handover, "why"}); }},
      {"PeerLost", [](Machine& m) { m.on(PeerLost{kPeer, kGone}); }},
      {"PeerLost of another peer", [](Machine& m) { m.on(PeerLost{kOther, kGone}); }},
      {"MoveFailed", [](Machine& m) { m.on(MoveFailed{m.transfer, kGone}); }},
      {"the lease passes", [](Machine& m) { m.pass(m.config.lease); }},
      {"the deadline of the Landing passes", [](Machine& m) { m.pass(kShort); }},
      {"release", [](Machine& m) { m.source.release(m.handover, "why"); }},
  };
  return all_events;
}

std::map<std::pair<std::string, std::string>, TableRow> table() {
  std::set<std::string> states = names_of<HeldState>(held_state_name);
  states.erase("promised");  // of the other order
  states.erase("filling");
  states.insert("unknown");
  std::set<std::string> names;
  for (const auto& [name, event] : events()) names.insert(name);
  return expand_table(read_table("## P:", {"State", "Event", "Says", "Lease", "Next"}), states, names);
}

TEST(Source, DoesWhatItsTableSays) {
  std::set<std::string> ends;
  for (const auto& [at, row] : table()) {
    const auto& [state, event] = at;
    SCOPED_TRACE(fmt::format("{} | {}", state, event));
    Machine machine(event.starts_with("the deadline") ? kShort : kLong);
    machine.bring_to(state);
    ASSERT_EQ(machine.state(), state);
    const Time before = state == "unknown" ? Time{} : machine.source.snapshot()[0].expires_at;
    if (row.at("Next") == "CHECK") {
      EXPECT_DEATH(events().at(event)(machine), "CHECK");
      continue;
    }
    events().at(event)(machine);
    EXPECT_EQ(says(machine.source.take_commands()), row.at("Says"));
    if (machine.source.size() > 0) {
      const Time lease = machine.now + machine.config.lease;
      const bool anew = row.at("Lease") == "anew";
      EXPECT_EQ(machine.source.snapshot()[0].expires_at, anew ? lease : before);
      EXPECT_EQ(machine.source.held_blocks(), machine.blocks.size());
    } else {
      EXPECT_EQ(machine.source.held_blocks(), 0U);
    }
    EXPECT_EQ(machine.state_or_end(), row.at("Next"));
    if (row.at("Next").starts_with("ended: ")) ends.insert(row.at("Next").substr(7));
  }
  EXPECT_EQ(ends, names_of<HoldEnd>(hold_end_name));
}

struct MisfitRow {
  const char* says;
  std::function<void(Landing&)> spoil;
};

TEST(Source, NamesTheFieldOfALandingThatDoesNotFit) {
  for (const MisfitRow& row : {
           MisfitRow{"target incarnation", [](Landing& l) { l.target_incarnation.bytes[0] ^= 1; }},
           MisfitRow{"tokens_total is 41, expected 40", [](Landing& l) { l.tokens_total = 41; }},
           MisfitRow{"prompt_hash is other, expected hash", [](Landing& l) { l.prompt_hash = "other"; }},
           MisfitRow{"tokens_present is 8, expected a multiple of 16 below 40",
                     [](Landing& l) { l.tokens_present = 8; }},
           MisfitRow{"tokens_present is 48", [](Landing& l) { l.tokens_present = 48; }},
           MisfitRow{"target blocks is 2, expected 3", [](Landing& l) { l.tokens_present = 0; }},
           MisfitRow{"target blocks is 1, expected 2", [](Landing& l) { l.target.pop_back(); }},
           MisfitRow{"deadline is 0, expected a positive duration", [](Landing& l) { l.deadline = {}; }},
       }) {
    Machine machine;
    machine.bring_to("claimed");
    Landing landing = machine.landing(kPeer, machine.transfer);
    row.spoil(landing);
    machine.receive(kPeer, landing);
    const auto commands = machine.source.take_commands();
    ASSERT_EQ(commands.size(), 1U) << row.says;
    const auto* const aborted = std::get_if<AbortTransfer>(&std::get<Send>(commands[0]).message);
    ASSERT_NE(aborted, nullptr) << row.says;
    EXPECT_EQ(aborted->transfer, landing.transfer);
    EXPECT_NE(aborted->error.message.find(row.says), std::string::npos) << aborted->error.message;
    EXPECT_EQ(machine.state(), "claimed");
  }
}

TEST(Source, PushesTheBlocksThatThePeerLacksWithTheEpochsOfTheHold) {
  Machine machine;
  machine.arena->bump_epoch(BlockId{4});
  machine.bring_to("claimed");
  machine.arena->bump_epoch(BlockId{1});  // given away after all: the reader must find out
  machine.receive(kPeer, machine.landing(kPeer, machine.transfer));
  const auto commands = machine.source.take_commands();
  ASSERT_EQ(commands.size(), 1U);
  const auto& push = std::get<Push>(commands[0]);
  EXPECT_EQ(push.peer, kPeer);
  EXPECT_EQ(push.transfer, machine.transfer);
  EXPECT_EQ(push.source, (std::vector<BlockId>{BlockId{1}, BlockId{4}}));
  EXPECT_EQ(push.epochs, (std::vector<uint32_t>{0, 1}));
  EXPECT_EQ(push.layers, (LayerRange{0, 2}));
  EXPECT_TRUE(push.last);
}

TEST(Source, ListensOnlyToPeersThatAreUpAndConnectedToIt) {
  for (const PeerId stranger : {PeerId{kAcceptedPeers + 9}, PeerId{1}}) {
    Machine machine;
    machine.bring_to("waiting");
    machine.receive(stranger, Renew{machine.handover});
    machine.receive(stranger, Taken{machine.handover, machine.transfer});
    EXPECT_EQ(says(machine.source.take_commands()), "");
    EXPECT_EQ(machine.state(), "waiting");
  }
}

TEST(Source, HoldsSeveralPrefillsApart) {
  Machine machine;
  machine.bring_to("moving");
  const auto second = random_id<HandoverId>();
  machine.source.hold({second, {BlockId{0}}, 16, "hash"}, machine.now);
  machine.receive(kOther, Renew{second});
  Landing landing = machine.landing(kOther, machine.transfer);  // an id that moves already
  landing.handover = second;
  landing.tokens_total = 16;
  landing.tokens_present = 0;
  landing.target = {BlockId{0}};
  machine.receive(kOther, landing);
  EXPECT_EQ(says(machine.source.take_commands()), "Renewed, AbortTransfer(invalid)");
  machine.on(PeerLost{kOther, kGone});
  const auto released = machine.source.take_released();
  ASSERT_EQ(released.size(), 1U);
  EXPECT_EQ(released[0].handover, second);
  EXPECT_EQ(machine.state(), "moving");
}

}  // namespace
}  // namespace baton::transfer
