#include "transfer/transfer_thread.h"

#include <gtest/gtest.h>

#include <cstring>

#include "transfer/tcp/socket_mover.h"

namespace baton::transfer {
namespace {

constexpr kv::KvLayout kLayout{.layers = 2, .kv_heads = 1, .head_dim = 32, .block_tokens = 16};
constexpr kv::Move kMove{.first = 0, .end = 16};

struct Shell {
  Incarnation incarnation = random_id<Incarnation>();
  std::unique_ptr<kv::KvArena> arena = *kv::KvArena::create(kLayout, 8, incarnation);
  Mailbox<MoverEvent> events{64};
  uint16_t port = 0;
  std::unique_ptr<TransferThread> thread;

  explicit Shell(bool listens) {
    tcp::SocketMoverConfig config;
    config.identity.layout = kLayout;
    config.identity.incarnation = incarnation;
    config.identity.boot_id = tcp::boot_id();
    if (listens) config.listen = net::Address{"127.0.0.1", 0};
    auto mover = *tcp::SocketMover::create(std::move(config), *arena);
    port = mover->port();
    thread = std::make_unique<TransferThread>(
        std::move(mover), [this](MoverEvent& event) { return events.post(std::move(event)); });
  }
  template <class Event>
  std::optional<Event> wait_for() {
    for (int i = 0; i < 200; ++i) {
      for (MoverEvent& event : events.wait_all(std::chrono::milliseconds(50))) {
        if (auto* const found = std::get_if<Event>(&event)) return std::move(*found);
      }
    }
    return std::nullopt;
  }
};

TEST(TransferThread, CarriesCommandsAndEventsBetweenTwoProcessesWorthOfThreads) {
  Shell p(true);
  Shell d(false);
  std::memset(p.arena->data(), 5, 8 * kLayout.block_bytes());
  std::vector<Command> commands;
  commands.emplace_back(Connect{PeerId{1}, "127.0.0.1", p.port});
  d.thread->post(std::move(commands));
  ASSERT_TRUE(d.wait_for<PeerUp>());
  const auto up = p.wait_for<PeerUp>();
  ASSERT_TRUE(up);
  EXPECT_EQ(up->transport, Transport::kLocal);
  Landing landing;
  landing.transfer = random_id<TransferId>();
  landing.target = {BlockId{3}};
  commands.clear();
  commands.emplace_back(AllowStores{PeerId{1}, landing.transfer, landing.target, {0}, kMove});
  commands.emplace_back(Send{PeerId{1}, landing});
  d.thread->post(std::move(commands));
  ASSERT_TRUE(p.wait_for<Received>());
  commands.clear();
  commands.emplace_back(Push{up->peer, landing.transfer, {0, 2}, {BlockId{6}}, {0}, kMove, true});
  p.thread->post(std::move(commands));
  const auto landed = d.wait_for<Landed>();
  ASSERT_TRUE(landed);
  EXPECT_EQ(landed->bytes, kLayout.block_bytes());
  EXPECT_EQ(0, std::memcmp(d.arena->at(0, BlockId{3}).data(), p.arena->at(0, BlockId{6}).data(),
                           kLayout.layer_bytes()));
}

}  // namespace
}  // namespace baton::transfer
