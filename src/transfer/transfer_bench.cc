// The movers against what they are made of, taken in turn within one run: local against memcpy of the same
// bytes, tcp against a raw loopback socket whose two ends also compute the checksum. The counter "ratio" is
// the mover's speed as a fraction of that.
#include <benchmark/benchmark.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include <atomic>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "net/socket.h"
#include "transfer/tcp/socket_mover.h"

namespace baton::transfer {
namespace {

constexpr kv::KvLayout kLayout{
    .layers = 28, .kv_heads = 8, .head_dim = 128, .block_tokens = 16};  // qwen3-0.6b
constexpr uint32_t kBlocks = 72;                                        // 126 MiB
constexpr kv::Move kMove{.first = 0, .end = kBlocks * kLayout.block_tokens};

double timed(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return seconds(std::chrono::steady_clock::now() - begin);
}

// P on its own thread, D on the caller's.
class Pair {
 public:
  explicit Pair(TransportChoice choice) {
    set_log_level(LogLevel::kError);
    const auto p = random_id<Incarnation>();
    const auto d = random_id<Incarnation>();
    source_ = *kv::KvArena::create(kLayout, kBlocks, p);
    target_ = *kv::KvArena::create(kLayout, kBlocks, d);
    std::memset(source_->data(), 1, kBlocks * kLayout.block_bytes());
    std::memset(target_->data(), 2, kBlocks * kLayout.block_bytes());
    tcp::SocketMoverConfig config;
    config.identity.layout = kLayout;
    config.identity.boot_id = tcp::boot_id();
    config.choice = choice;
    config.identity.incarnation = d;
    d_mover_ = *tcp::SocketMover::create(config, *target_);
    config.identity.incarnation = p;
    config.listen = net::Address{"127.0.0.1", 0};
    p_mover_ = *tcp::SocketMover::create(config, *source_);
    p_thread_ = std::thread([this] { serve(); });
    d_mover_->execute(Connect{PeerId{1}, "127.0.0.1", p_mover_->port()});
    wait_for<PeerUp>();
  }
  ~Pair() {
    done_ = true;
    p_mover_->wake();
    p_thread_.join();
  }

  // Every block once; returns the seconds from AllowStores to Landed.
  double move() {
    Landing landing;
    landing.transfer = random_id<TransferId>();
    for (uint32_t i = 0; i < kBlocks; ++i) landing.target.push_back(BlockId{i});
    return timed([&] {
      d_mover_->execute(
          AllowStores{PeerId{1}, landing.transfer, landing.target, std::vector<uint32_t>(kBlocks, 0), kMove});
      d_mover_->execute(Send{PeerId{1}, landing});
      wait_for<Landed>();
    });
  }
  double copy() {
    return timed([&] { std::memcpy(target_->data(), source_->data(), kBlocks * kLayout.block_bytes()); });
  }
  kv::KvArena& source() { return *source_; }
  kv::KvArena& target() { return *target_; }

 private:
  void serve() {
    while (!done_) {
      for (MoverEvent& event : p_mover_->poll(std::chrono::milliseconds(20))) {
        const auto* const received = std::get_if<Received>(&event);
        if (received == nullptr) continue;
        const auto& landing = std::get<Landing>(received->message);
        p_mover_->execute(Push{received->peer,
                               landing.transfer,
                               {0, kLayout.layers},
                               landing.target,
                               std::vector<uint32_t>(kBlocks, 0),
                               kMove,
                               true});
      }
    }
  }
  template <class Event>
  void wait_for() {
    while (true) {
      for (const MoverEvent& event : d_mover_->poll(std::chrono::milliseconds(20))) {
        CHECK(!std::holds_alternative<PeerLost>(event) && !std::holds_alternative<MoveFailed>(event));
        if (std::holds_alternative<Event>(event)) return;
      }
    }
  }

  std::unique_ptr<kv::KvArena> source_;
  std::unique_ptr<kv::KvArena> target_;
  std::unique_ptr<tcp::SocketMover> p_mover_;
  std::unique_ptr<tcp::SocketMover> d_mover_;
  std::thread p_thread_;
  std::atomic<bool> done_{false};
};

// The same bytes through a blocking socket in pieces of a frame, both ends taking the checksum.
double raw_socket(Pair& pair) {
  const net::Listener listener = *net::listen({"127.0.0.1", 0});
  const net::Fd sender = *net::connect(listener.local, std::chrono::seconds(1));
  const net::Fd receiver(accept(listener.fd.get(), nullptr, nullptr));
  const size_t bytes = kBlocks * kLayout.block_bytes();
  std::thread sending([&] {
    for (size_t at = 0; at < bytes; at += kKvBytesMax) {
      const size_t piece = std::min(kKvBytesMax, bytes - at);
      benchmark::DoNotOptimize(XXH3_64bits(pair.source().data() + at, piece));
      for (size_t done = 0; done < piece;) {
        done += static_cast<size_t>(send(sender.get(), pair.source().data() + at + done, piece - done, 0));
      }
    }
  });
  const double taken = timed([&] {
    for (size_t at = 0; at < bytes; at += kKvBytesMax) {
      const size_t piece = std::min(kKvBytesMax, bytes - at);
      CHECK(recv(receiver.get(), pair.target().data() + at, piece, MSG_WAITALL) ==
            static_cast<ssize_t>(piece));
      benchmark::DoNotOptimize(XXH3_64bits(pair.target().data() + at, piece));
    }
  });
  sending.join();
  return taken;
}

void report(benchmark::State& state, double mover, double limit) {
  const double bytes =
      static_cast<double>(state.iterations()) * kBlocks * static_cast<double>(kLayout.block_bytes());
  state.counters["mover_GB/s"] = bytes / mover / 1e9;
  state.counters["limit_GB/s"] = bytes / limit / 1e9;
  state.counters["ratio"] = limit / mover;
}

void local_against_memcpy(benchmark::State& state) {
  Pair pair(TransportChoice::kLocal);
  pair.move();
  double mover = 0;
  double limit = 0;
  for ([[maybe_unused]] auto _ : state) {
    mover += pair.move();
    limit += pair.copy();
  }
  report(state, mover, limit);
}
BENCHMARK(local_against_memcpy)->Unit(benchmark::kMillisecond)->Iterations(20)->UseRealTime();

void tcp_against_raw_socket(benchmark::State& state) {
  Pair pair(TransportChoice::kTcp);
  pair.move();
  raw_socket(pair);
  double mover = 0;
  double limit = 0;
  for ([[maybe_unused]] auto _ : state) {
    mover += pair.move();
    limit += raw_socket(pair);
  }
  report(state, mover, limit);
}
BENCHMARK(tcp_against_raw_socket)->Unit(benchmark::kMillisecond)->Iterations(10)->UseRealTime();

}  // namespace
}  // namespace baton::transfer
