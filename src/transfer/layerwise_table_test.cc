// Both machines do in the layer-wise order what their tables in docs/handover.md say, row by row, and nothing
// else.
#include <gtest/gtest.h>

#include <functional>

#include "transfer/source.h"
#include "transfer/target.h"
#include "transfer/testing_table.h"

namespace baton::transfer {
namespace {

constexpr kv::KvLayout kLayout{.layers = 2, .kv_heads = 1, .head_dim = 8, .block_tokens = 16};
constexpr Duration kDeadline = std::chrono::seconds(100);
const Error kGone{Code::kUnavailable, "gone"};

template <class Machine>
using Events = std::map<std::string, std::function<void(Machine&)>>;

template <class Machine>
void expect_table(std::string_view heading, std::set<std::string> states, const Events<Machine>& events) {
  states.insert("unknown");
  std::set<std::string> names;
  for (const auto& [name, event] : events) names.insert(name);
  for (const auto& [at, row] :
       expand_table(read_table(heading, {"State", "Event", "Says", "Next"}), states, names)) {
    const auto& [state, event] = at;
    SCOPED_TRACE(fmt::format("{} | {}", state, event));
    Machine machine(event == "the deadline passes");
    machine.bring_to(state);
    ASSERT_EQ(machine.state(), state);
    if (row.at("Next") == "CHECK") {
      EXPECT_DEATH(events.at(event)(machine), "CHECK");
      continue;
    }
    events.at(event)(machine);
    EXPECT_EQ(says(machine.take_commands()), row.at("Says"));
    EXPECT_EQ(machine.state_or_end(), row.at("Next"));
  }
}

class P {
 public:
  explicit P(bool is_short) : deadline_(is_short ? std::chrono::seconds(10) : kDeadline) {
    d.engine_id = "d-1";
    d.incarnation = random_id<Incarnation>();
    d.layout = kLayout;
  }
  void promise() {
    source.promise({.id = handover,
                    .transfer = transfer,
                    .host = "d",
                    .port = 1,
                    .engine_id = "d-1",
                    .incarnation = d.incarnation,
                    .tokens = 40,
                    .prompt_hash = "hash",
                    .deadline = now + deadline_},
                   now);
  }
  void on(const MoverEvent& event) { source.on_event(event, now); }
  void receive(Message message) { on(Received{peer, std::move(message)}); }
  Landing landing(TransferId id) const {
    return {.transfer = id,
            .handover = handover,
            .target_incarnation = d.incarnation,
            .target = {BlockId{7}, BlockId{5}},
            .tokens_present = 16,
            .tokens_total = 40,
            .prompt_hash = "hash",
            .deadline = deadline_};
  }
  Landing misfit() const {
    Landing landing = this->landing(transfer);
    landing.prompt_hash = "another";
    return landing;
  }
  bool finish() {
    source.on_layer(handover, blocks, 1, 40);
    source.take_commands();
    return source.finish(handover, blocks, {}, now);
  }
  void pass(Duration duration) {
    now = now + duration;
    source.on_time(now);
  }
  void bring_to(const std::string& state) {
    if (state == "unknown") return;
    promise();
    on(PeerUp{.peer = peer, .identity = d, .transport = Transport::kFake, .flow = Flow::kFromCaller});
    EXPECT_EQ(says(take_commands()), "Connect, Claim");
    if (state == "promised") return;
    receive(landing(transfer));
    EXPECT_EQ(source.take_ready(), std::vector{handover});
    if (state == "moving") EXPECT_TRUE(finish());
    take_commands();
  }
  std::vector<Command> take_commands() { return source.take_commands(); }
  std::string state() const {
    const auto held = source.snapshot();
    return held.empty() ? "unknown" : std::string(held_state_name(held[0].state));
  }
  std::string state_or_end() {
    const auto released = source.take_released();
    if (released.empty()) return state();
    EXPECT_EQ(source.size(), 0U);
    EXPECT_EQ(source.held_blocks(), 0U);
    return "ended: " + std::string(hold_end_name(released[0].end));
  }

  std::unique_ptr<kv::KvArena> arena = *kv::KvArena::create(kLayout, 8, Incarnation{});
  HandoverId handover = random_id<HandoverId>();
  TransferId transfer = random_id<TransferId>();
  PeerId peer{kCalledDecodePeers};
  Identity d;
  std::vector<BlockId> blocks = {BlockId{3}, BlockId{1}, BlockId{4}};
  HandoverConfig config;
  Source source{config, *arena};
  Time now{std::chrono::seconds(1)};

 private:
  Duration deadline_;
};

TEST(Layerwise, PDoesWhatItsTableSays) {
  expect_table<P>("## P, layer-wise order:", {"promised", "filling", "moving"},
                  {
                      {"promise", [](P& m) { m.promise(); }},
                      {"Landing", [](P& m) { m.receive(m.landing(m.transfer)); }},
                      {"another Landing", [](P& m) { m.receive(m.landing(random_id<TransferId>())); }},
                      {"Landing that does not fit", [](P& m) { m.receive(m.misfit()); }},
                      {"on_layer", [](P& m) { m.source.on_layer(m.handover, m.blocks, 0, 40); }},
                      {"finish", [](P& m) { m.finish(); }},
                      {"Taken", [](P& m) { m.receive(Taken{m.handover, m.transfer}); }},
                      {"ReleaseHandover", [](P& m) { m.receive(ReleaseHandover{m.handover, "why"}); }},
                      {"PeerLost", [](P& m) { m.on(PeerLost{m.peer, kGone}); }},
                      {"MoveFailed", [](P& m) { m.on(MoveFailed{m.transfer, kGone}); }},
                      {"the lease passes", [](P& m) { m.pass(m.config.lease); }},
                      {"the deadline passes", [](P& m) { m.pass(std::chrono::seconds(10)); }},
                      {"release", [](P& m) { m.source.release(m.handover, "why"); }},
                  });
}

TEST(Layerwise, PGivesUpWhenDIsAnotherThanPromised) {
  for (const bool restarted : {true, false}) {
    P p(false);
    p.promise();
    Identity other = p.d;
    (restarted ? other.engine_id : other.fingerprint) = "d-2";
    if (!restarted) other.incarnation = random_id<Incarnation>();
    p.on(PeerUp{.peer = p.peer, .identity = other, .transport = Transport::kFake, .flow = Flow::kFromCaller});
    EXPECT_EQ(says(p.take_commands()), "Connect, Claim, AbortTransfer(cancelled)");
    EXPECT_EQ(p.state_or_end(), "ended: failed");
  }
}

TEST(Layerwise, PAnnouncesWhatIsComputedAndNoMore) {
  P p(false);
  p.bring_to("filling");
  const auto announced = [&](uint32_t layer, uint32_t end) {
    p.source.on_layer(p.handover, p.blocks, layer, end);
    const auto commands = p.take_commands();
    if (commands.empty()) return std::string();
    const auto& push = std::get<Push>(commands.at(0));
    return fmt::format("layers {}+{} of {} to {}{}", push.layers.first, push.layers.count, push.move.first,
                       push.move.end, push.last ? ", last" : "");
  };
  EXPECT_EQ(announced(0, 16), "");  // D has these
  EXPECT_EQ(announced(0, 31), "");  // no block of D ends here
  EXPECT_EQ(announced(0, 33), "layers 0+1 of 16 to 32");
  EXPECT_EQ(announced(1, 33), "layers 1+1 of 16 to 32");
  EXPECT_EQ(announced(0, 40), "layers 0+1 of 32 to 48");
  EXPECT_EQ(announced(1, 40), "layers 1+1 of 32 to 48, last");
}

class D {
 public:
  explicit D(bool /*is_short*/) {
    for (const PeerId peer : {kPeer, kOther}) {
      Identity identity;
      identity.engine_id = peer == kPeer ? "p-1" : "p-2";
      identity.layout = kLayout;
      on(PeerUp{
          .peer = peer, .identity = identity, .transport = Transport::kFake, .flow = Flow::kFromCaller});
    }
  }
  void expect() {
    Expected expected;
    expected.flow = Flow::kFromCaller;
    expected.transfer = transfer;
    expected.tokens = 40;
    expected.prompt_hash = "hash";
    expected.deadline = now + kDeadline;
    target.expect(std::move(expected), now);
  }
  void on(const MoverEvent& event) { target.on_event(event, now); }
  void receive(PeerId peer, Message message) { on(Received{peer, std::move(message)}); }
  void claim(PeerId peer) { receive(peer, Claim{transfer, handover}); }
  void land() { target.land(transfer, {BlockId{2}, BlockId{0}}, 16, now); }
  void done() { receive(kPeer, PrefillDone{transfer, {std::byte{7}}}); }
  void pass(Duration duration) {
    now = now + duration;
    target.on_time(now);
  }
  void bring_to(const std::string& state) {
    if (state == "unknown") return;
    expect();
    if (state == "connecting with blocks") land();
    if (!state.starts_with("connecting")) claim(kPeer);
    if (state == "moving" || state == "stopping") land();
    if (state == "stopping") target.abort(transfer, "the client left", now);
    take_commands();
  }
  std::vector<Command> take_commands() { return target.take_commands(); }
  std::string state() const {
    const auto expected = target.snapshot();
    if (expected.empty()) return "unknown";
    const bool with_blocks = expected[0].state == TransferState::kConnecting && expected[0].blocks > 0;
    return std::string(transfer_state_name(expected[0].state)) + (with_blocks ? " with blocks" : "");
  }
  std::string state_or_end() {
    const auto outcomes = target.take_outcomes();
    if (outcomes.empty()) return state();
    EXPECT_EQ(target.size(), 0U);
    if (!outcomes[0].error) EXPECT_EQ(outcomes[0].note, std::vector{std::byte{7}});
    return std::string("ended: ") + (outcomes[0].error ? code_name(outcomes[0].error->code) : "landed");
  }

  static constexpr PeerId kPeer{kAcceptedPeers + 1};
  static constexpr PeerId kOther{kAcceptedPeers + 2};
  std::unique_ptr<kv::KvArena> arena = *kv::KvArena::create(kLayout, 4, Incarnation{});
  HandoverId handover = random_id<HandoverId>();
  TransferId transfer = random_id<TransferId>();
  HandoverConfig config;
  Target target{config, *arena};
  Time now{std::chrono::seconds(1)};
};

TEST(Layerwise, DDoesWhatItsTableSays) {
  std::set<std::string> states = names_of<TransferState>(transfer_state_name);
  states.insert("connecting with blocks");
  expect_table<D>(
      "## D, layer-wise order:", states,
      {
          {"expect", [](D& m) { m.expect(); }},
          {"Claim", [](D& m) { m.claim(D::kPeer); }},
          {"Claim of another peer", [](D& m) { m.claim(D::kOther); }},
          {"land", [](D& m) { m.land(); }},
          {"land with nothing missing", [](D& m) { m.target.land(m.transfer, {}, 40, m.now); }},
          {"Landed", [](D& m) { m.on(Landed{m.transfer, 1}); }},
          {"PrefillDone", [](D& m) { m.done(); }},
          {"Landed after PrefillDone",
           [](D& m) {
             m.done();
             m.on(Landed{m.transfer, 1});
           }},
          {"MoveFailed", [](D& m) { m.on(MoveFailed{m.transfer, {Code::kCorrupt, "checksum"}}); }},
          {"refuse", [](D& m) { m.target.refuse(m.transfer, kGone, m.now); }},
          {"abort", [](D& m) { m.target.abort(m.transfer, "the client left", m.now); }},
          {"AbortTransfer", [](D& m) { m.receive(D::kPeer, AbortTransfer{m.transfer, kGone}); }},
          {"PeerLost", [](D& m) { m.on(PeerLost{D::kPeer, kGone}); }},
          {"the deadline passes", [](D& m) { m.pass(kDeadline); }},
          {"StoresStopped", [](D& m) { m.on(StoresStopped{m.transfer}); }},
      });
}

}  // namespace
}  // namespace baton::transfer
