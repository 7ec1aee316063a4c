// Drives Source and Target over the fake network through seeds of everything that goes wrong, and holds them
// to their promises: blocks come back exactly once, every transfer has one outcome, nothing is stored into a
// block after it was given back, what landed is what was held, and no wait lacks a deadline.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <set>

#include "transfer/fake/fake_network.h"
#include "transfer/source.h"
#include "transfer/target.h"

namespace baton::transfer {
namespace {

constexpr uint32_t kBlocks = 24;
constexpr uint32_t kUnit = 16;  // tokens of equal content: divides every block size

constexpr kv::KvLayout layout_of(uint32_t block_tokens) {
  return {.layers = 2, .kv_heads = 1, .head_dim = 8, .block_tokens = block_tokens};
}
constexpr std::byte kFree{0xEE};  // what free blocks hold

// One process: an arena whose free blocks are known byte by byte, and the engine's use of both machines.
struct Node {
  Incarnation incarnation;
  std::unique_ptr<kv::KvArena> arena;
  std::unique_ptr<fake::FakeMover> mover;
  std::unique_ptr<Source> source;
  std::unique_ptr<Target> target;
  std::set<uint32_t> free;

  std::span<std::byte> bytes(BlockId block) const {
    return {arena->data() + arena->layout().offset(0, block), arena->layout().block_bytes()};
  }
  std::vector<BlockId> take(size_t count) {
    std::vector<BlockId> taken;
    EXPECT_LE(count, free.size()) << "blocks were lost";
    while (taken.size() < count && !free.empty()) {
      const BlockId block{*free.begin()};
      free.erase(free.begin());
      EXPECT_TRUE(std::ranges::all_of(bytes(block), [](std::byte b) { return b == kFree; }))
          << "somebody stored into free block " << index(block);
      taken.push_back(block);
    }
    return taken;
  }
  void give_back(const std::vector<BlockId>& blocks) {
    for (const BlockId block : blocks) {
      EXPECT_TRUE(free.insert(index(block)).second) << "block " << index(block) << " came back twice";
      arena->bump_epoch(block);
      std::ranges::fill(bytes(block), kFree);
    }
  }
};

std::byte content(HandoverId id, size_t unit) { return static_cast<std::byte>(id.bytes[0] ^ (unit * 37)); }

std::span<std::byte> row_of(kv::KvArena& arena, BlockId block, uint32_t row, uint32_t token) {
  const kv::KvLayout& layout = arena.layout();
  const size_t vector = layout.head_dim * size_of(layout.dtype);
  return arena.at(row / 2, block)
      .subspan((size_t{row % 2} * layout.block_tokens + token) * vector, kUnit * vector);
}

// Calls `visit` with the bytes of each unit of positions [first, end), blocks beginning at `first`'s.
void for_units(kv::KvArena& arena, const std::vector<BlockId>& blocks, uint32_t first, uint32_t end,
               const std::function<void(size_t unit, std::span<std::byte>)>& visit) {
  const uint32_t size = arena.layout().block_tokens;
  for (uint32_t at = first; at < end; at += kUnit) {
    for (uint32_t row = 0; row < 4; ++row) {
      visit(at / kUnit, row_of(arena, blocks.at(at / size - first / size), row, at % size));
    }
  }
}

class World {
 public:
  World(uint64_t seed, uint32_t source_tokens, uint32_t target_tokens)
      : random_(seed),
        network_({.seed = seed * 7 + 1, .repeat_percent = 20, .blocks_per_poll = 2}),
        source_tokens_(source_tokens) {
    network_.set_now(now_);
    start(p_, "p", 1, source_tokens);
    start(d_, "d", 2, target_tokens);
  }

  void run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      act();
      settle();
    }
    drain();
  }

 private:
  struct Running {
    HandoverId handover;
    std::vector<BlockId> blocks;
    uint32_t tokens = 0;
    uint32_t present = 0;
  };

  template <class Id>
  Id draw_id() {
    Id id;
    for (uint8_t& byte : id.bytes) byte = static_cast<uint8_t>(random_());
    return id;
  }

  void start(Node& node, const std::string& name, uint16_t port, uint32_t block_tokens) {
    node.incarnation = draw_id<Incarnation>();
    node.arena = *kv::KvArena::create(layout_of(block_tokens), kBlocks, node.incarnation);
    Identity identity;
    identity.engine_id = name;
    identity.incarnation = node.incarnation;
    identity.layout = layout_of(block_tokens);
    node.mover = network_.join(name, port, identity, *node.arena);
    HandoverConfig config;
    config.incarnation = node.incarnation;
    config.lease = std::chrono::milliseconds(300);
    node.source = std::make_unique<Source>(config, *node.arena);
    node.target = std::make_unique<Target>(config, *node.arena);
    node.free.clear();
    for (uint32_t i = 0; i < kBlocks; ++i) {
      node.free.insert(i);
      std::ranges::fill(node.bytes(BlockId{i}), kFree);
    }
  }

  void offer() {
    const auto count = static_cast<uint32_t>(1 + random_() % 6);
    if (p_.free.size() < count) return;
    const uint32_t tokens = count * source_tokens_ - static_cast<uint32_t>(random_() % source_tokens_);
    const Source::Hold hold{draw_id<HandoverId>(), p_.take(count), tokens, "h"};
    for_units(
        *p_.arena, hold.blocks, 0, count * source_tokens_,
        [&](size_t unit, std::span<std::byte> bytes) { std::ranges::fill(bytes, content(hold.id, unit)); });
    Running running{.handover = hold.id, .blocks = {}, .tokens = hold.tokens, .present = 0};
    p_.source->hold(hold, now_);
    if (random_() % 8 == 0) return;  // nobody ever asks for it
    const Expected expected{.transfer = draw_id<TransferId>(),
                            .handover = running.handover,
                            .host = "p",
                            .port = 1,
                            .engine_id = "p",
                            .incarnation = random_() % 16 == 0 ? draw_id<Incarnation>() : p_.incarnation,
                            .tokens = running.tokens,
                            .prompt_hash = random_() % 16 == 0 ? "other" : "h",
                            .deadline = now_ + std::chrono::milliseconds(1 + random_() % 2000)};
    d_.target->expect(expected, now_);
    running_[expected.transfer] = running;
  }

  void land() {
    for (auto& [id, running] : running_) {
      if (!running.blocks.empty() || !d_.target->is_expected(id) || random_() % 2 == 0) continue;
      const kv::KvLayout& layout = d_.arena->layout();
      const uint32_t all = layout.blocks_for(running.tokens);
      const uint32_t have = static_cast<uint32_t>(random_() % (all + 1));
      running.present = std::min(have * layout.block_tokens, running.tokens);
      if (d_.free.size() < all - have) continue;
      running.blocks = d_.take(all - have);
      d_.target->land(id, running.blocks, running.present, now_);
      return;
    }
  }

  void act() {
    switch (random_() % 16) {
      case 0:
      case 1:
      case 2:
      case 3:
        return offer();
      case 4:
      case 5:
      case 6:
      case 7:
        return land();
      case 8: {  // the client leaves
        if (running_.empty()) return;
        const auto at = std::next(running_.begin(), static_cast<ptrdiff_t>(random_() % running_.size()));
        return d_.target->abort(at->first, "the client left", now_);
      }
      case 9: {
        const auto held = p_.source->snapshot();
        if (!held.empty()) p_.source->release(held[random_() % held.size()].handover, "aborted");
        return;
      }
      case 10:
        network_.cut_any();
        return;
      case 11:  // P dies, and lives again with another incarnation
        if (random_() % 4 != 0) return;
        p_.mover.reset();
        return start(p_, "p", 1, source_tokens_);
      case 12:  // P stops for a while
        network_.freeze(*p_.mover, frozen_ = !frozen_);
        return;
      default:
        now_ = now_ + std::chrono::milliseconds(random_() % 120);
        network_.set_now(now_);
        return;
    }
  }

  void settle() {
    for (int i = 0; i < 3; ++i) {
      if (!frozen_) step(p_);
      step(d_);
    }
    for (const ReleasedHold& hold : p_.source->take_released()) p_.give_back(hold.blocks);
    for (const Outcome& outcome : d_.target->take_outcomes()) end(outcome);
  }

  void step(Node& node) {
    for (const MoverEvent& event : node.mover->poll(Duration(0))) {
      node.source->on_event(event, now_);
      node.target->on_event(event, now_);
    }
    node.source->on_time(now_);
    node.target->on_time(now_);
    for (Command& command : node.source->take_commands()) node.mover->execute(std::move(command));
    for (Command& command : node.target->take_commands()) node.mover->execute(std::move(command));
    EXPECT_TRUE(node.source->size() == 0 || node.source->next_deadline() != kNever);
    EXPECT_TRUE(node.target->size() == 0 || node.target->next_deadline() != kNever);
  }

  void end(const Outcome& outcome) {
    const auto at = running_.find(outcome.transfer);
    ASSERT_NE(at, running_.end()) << "a second outcome";
    const Running& running = at->second;
    if (!outcome.error) {
      ++landed_;
      if (!running.blocks.empty()) {
        for_units(*d_.arena, running.blocks, running.present, running.tokens,
                  [&](size_t unit, std::span<std::byte> bytes) {
                    const std::byte expected = content(running.handover, unit);
                    EXPECT_TRUE(std::ranges::all_of(bytes, [&](std::byte b) { return b == expected; }));
                  });
      }
    }
    d_.give_back(running.blocks);
    running_.erase(at);
  }

  // Time alone must end everything.
  void drain() {
    if (frozen_) network_.freeze(*p_.mover, frozen_ = false);
    for (int i = 0; i < 200; ++i) {
      now_ = now_ + std::chrono::milliseconds(50);
      network_.set_now(now_);
      settle();
    }
    EXPECT_EQ(p_.source->size(), 0U);
    EXPECT_EQ(d_.target->size(), 0U);
    EXPECT_TRUE(running_.empty());
    EXPECT_EQ(p_.free.size(), kBlocks);
    EXPECT_EQ(d_.free.size(), kBlocks);
    EXPECT_EQ(p_.take(kBlocks).size(), kBlocks);
    EXPECT_EQ(d_.take(kBlocks).size(), kBlocks);
  }

 public:
  int landed_ = 0;

 private:
  std::mt19937_64 random_;
  Time now_{std::chrono::seconds(1)};
  fake::FakeNetwork network_;
  uint32_t source_tokens_;
  Node p_;
  Node d_;
  bool frozen_ = false;
  std::map<TransferId, Running> running_;
};

struct BlockSizes {
  uint32_t source;
  uint32_t target;
};

class Handover : public testing::TestWithParam<BlockSizes> {};

TEST_P(Handover, KeepsItsPromisesWhateverHappens) {
  int landed = 0;
  for (uint64_t seed = 0; seed < 150 && !HasFailure(); ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    World world(seed, GetParam().source, GetParam().target);
    world.run(150);
    landed += world.landed_;
  }
  EXPECT_GT(landed, 300);
}

INSTANTIATE_TEST_SUITE_P(Explorer, Handover,
                         testing::Values(BlockSizes{16, 16}, BlockSizes{32, 48}, BlockSizes{64, 16}),
                         [](const auto& info) {
                           return fmt::format("{}to{}", info.param.source, info.param.target);
                         });

}  // namespace
}  // namespace baton::transfer
