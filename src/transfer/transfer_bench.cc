// The movers against what they are made of, taken in turn within one run: local and UCX's shared memory
// against memcpy of the same bytes, tcp against raw loopback sockets whose ends also compute the checksum,
// UCX's TCP against one that does not. The counter "ratio" is the mover's speed as a fraction of that.
#include <benchmark/benchmark.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
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
constexpr size_t kSocketWriteBytes = size_t{1} << 20;

double timed(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return seconds(std::chrono::steady_clock::now() - begin);
}

struct Setting {
  TransportChoice choice = TransportChoice::kTcp;
  std::string ucx_transports = {};  // UCX's transports
  kv::KvLayout layout = kLayout;
  uint32_t blocks = kBlocks;  // a multiple of `connections`
  uint32_t connections = 1;
};

// P's on threads of their own, one for each connection; D on the caller's.
class Pair {
 public:
  explicit Pair(const Setting& setting) : setting_(setting) {
    set_log_level(LogLevel::kError);
    const auto p = random_id<Incarnation>();
    const auto d = random_id<Incarnation>();
    source_ = *kv::KvArena::create(setting.layout, setting.blocks, p);
    target_ = *kv::KvArena::create(setting.layout, setting.blocks, d);
    std::memset(source_->data(), 1, bytes());
    std::memset(target_->data(), 2, bytes());
    tcp::SocketMoverConfig config;
    config.identity.layout = setting.layout;
    config.identity.boot_id = tcp::boot_id();
    config.choice = setting.choice;
    config.silence_max = std::chrono::minutes(1);  // D says nothing while its thread measures the limit
    config.ucx_transports = setting.ucx_transports;
    config.identity.incarnation = d;
    d_mover_ = *tcp::SocketMover::create(config, *target_);
    config.identity.incarnation = p;
    config.listen = net::Address{"127.0.0.1", 0};
    for (uint32_t i = 1; i <= setting.connections; ++i) {
      p_movers_.push_back(*tcp::SocketMover::create(config, *source_));
      p_threads_.emplace_back([this, mover = p_movers_.back().get()] { serve(*mover); });
      d_mover_->execute(Connect{PeerId{i}, "127.0.0.1", p_movers_.back()->port()});
    }
    wait_for<PeerUp>();
  }
  ~Pair() {
    done_ = true;
    for (size_t i = 0; i < p_movers_.size(); ++i) {
      p_movers_[i]->wake();
      p_threads_[i].join();
    }
  }

  // Every block once; returns the seconds from AllowStores to the last Landed.
  double move() {
    std::vector<Landing> landings(setting_.connections);
    for (uint32_t block = 0; block < setting_.blocks; ++block) {
      Landing& landing = landings[block * setting_.connections / setting_.blocks];
      landing.transfer = landing.target.empty() ? random_id<TransferId>() : landing.transfer;
      landing.target.push_back(BlockId{block});
    }
    return timed([&] {
      for (uint32_t i = 0; i < setting_.connections; ++i) {
        d_mover_->execute(AllowStores{PeerId{i + 1}, landings[i].transfer, landings[i].target,
                                      std::vector<uint32_t>(landings[i].target.size(), 0), move_of_one()});
        d_mover_->execute(Send{PeerId{i + 1}, landings[i]});
      }
      wait_for<Landed>();
    });
  }
  double copy() {
    return timed([&] { std::memcpy(target_->data(), source_->data(), bytes()); });
  }
  size_t bytes() const { return setting_.blocks * setting_.layout.block_bytes(); }
  kv::KvArena& source() { return *source_; }
  kv::KvArena& target() { return *target_; }

 private:
  kv::Move move_of_one() const {
    return {.first = 0, .end = setting_.blocks / setting_.connections * setting_.layout.block_tokens};
  }
  void serve(tcp::SocketMover& mover) {
    while (!done_) {
      for (MoverEvent& event : mover.poll(std::chrono::milliseconds(20))) {
        const auto* const received = std::get_if<Received>(&event);
        if (received == nullptr) continue;
        const auto& landing = std::get<Landing>(received->message);
        mover.execute(Push{received->peer,
                           landing.transfer,
                           {0, setting_.layout.layers},
                           landing.target,
                           std::vector<uint32_t>(landing.target.size(), 0),
                           move_of_one(),
                           true});
      }
    }
  }
  // One of them from each connection.
  template <class Event>
  void wait_for() {
    for (uint32_t missing = setting_.connections; missing > 0;) {
      for (const MoverEvent& event : d_mover_->poll(std::chrono::milliseconds(20))) {
        CHECK(!std::holds_alternative<PeerLost>(event) && !std::holds_alternative<MoveFailed>(event));
        missing -= std::holds_alternative<Event>(event) ? 1 : 0;
      }
    }
  }

  Setting setting_;
  std::unique_ptr<kv::KvArena> source_;
  std::unique_ptr<kv::KvArena> target_;
  std::vector<std::unique_ptr<tcp::SocketMover>> p_movers_;
  std::unique_ptr<tcp::SocketMover> d_mover_;
  std::vector<std::thread> p_threads_;
  std::atomic<bool> done_{false};
};

// [first, first + bytes) of the arena through a blocking socket in writes of 1 MiB; both ends may take the
// checksum of each.
void raw_socket_part(Pair& pair, size_t first, size_t bytes, bool checksums) {
  const net::Listener listener = *net::listen({"127.0.0.1", 0});
  const net::Fd sender = *net::connect(listener.local, std::chrono::seconds(1));
  const net::Fd receiver(accept(listener.fd.get(), nullptr, nullptr));
  std::thread sending([&] {
    for (size_t at = first; at < first + bytes; at += kSocketWriteBytes) {
      const size_t piece = std::min(kSocketWriteBytes, first + bytes - at);
      if (checksums) benchmark::DoNotOptimize(XXH3_64bits(pair.source().data() + at, piece));
      for (size_t done = 0; done < piece;) {
        done += static_cast<size_t>(send(sender.get(), pair.source().data() + at + done, piece - done, 0));
      }
    }
  });
  for (size_t at = first; at < first + bytes; at += kSocketWriteBytes) {
    const size_t piece = std::min(kSocketWriteBytes, first + bytes - at);
    CHECK(recv(receiver.get(), pair.target().data() + at, piece, MSG_WAITALL) == static_cast<ssize_t>(piece));
    if (checksums) benchmark::DoNotOptimize(XXH3_64bits(pair.target().data() + at, piece));
  }
  sending.join();
}

double raw_sockets(Pair& pair, uint32_t connections, bool checksums) {
  const size_t each = pair.bytes() / connections;
  return timed([&] {
    std::vector<std::thread> parts;
    for (uint32_t i = 1; i < connections; ++i)
      parts.emplace_back([&, i] { raw_socket_part(pair, i * each, each, checksums); });
    raw_socket_part(pair, 0, each, checksums);
    for (std::thread& part : parts) part.join();
  });
}

// The mover and its limit in turn, after one round of each that does not count.
void compare(benchmark::State& state, const Setting& setting, const auto& limit_of) {
  Pair pair(setting);
  pair.move();
  limit_of(pair);
  double mover = 0;
  double limit = 0;
  for ([[maybe_unused]] auto _ : state) {
    mover += pair.move();
    limit += limit_of(pair);
  }
  const double moved = static_cast<double>(state.iterations()) * static_cast<double>(pair.bytes());
  state.counters["mover_GB/s"] = moved / mover / 1e9;
  state.counters["limit_GB/s"] = moved / limit / 1e9;
  state.counters["ratio"] = limit / mover;
}

constexpr auto kMemcpy = [](Pair& pair) { return pair.copy(); };

void local_against_memcpy(benchmark::State& state) {
  compare(state, {.choice = TransportChoice::kLocal}, kMemcpy);
}
BENCHMARK(local_against_memcpy)->Unit(benchmark::kMillisecond)->Iterations(20)->UseRealTime();

void ucx_shared_memory_against_memcpy(benchmark::State& state) {
  compare(state, {.choice = TransportChoice::kUcx, .ucx_transports = "posix,sysv"}, kMemcpy);
}
BENCHMARK(ucx_shared_memory_against_memcpy)->Unit(benchmark::kMillisecond)->Iterations(10)->UseRealTime();

void ucx_tcp_against_raw_socket(benchmark::State& state) {
  compare(state, {.choice = TransportChoice::kUcx, .ucx_transports = "tcp"},
          [](Pair& pair) { return raw_sockets(pair, 1, false); });
}
BENCHMARK(ucx_tcp_against_raw_socket)->Unit(benchmark::kMillisecond)->Iterations(10)->UseRealTime();

void tcp_against_raw_socket(benchmark::State& state) {
  compare(state, {}, [](Pair& pair) { return raw_sockets(pair, 1, true); });
}
BENCHMARK(tcp_against_raw_socket)->Unit(benchmark::kMillisecond)->Iterations(10)->UseRealTime();

void four_tcp_against_raw_sockets(benchmark::State& state) {
  compare(state, {.connections = 4}, [](Pair& pair) { return raw_sockets(pair, 4, true); });
}
BENCHMARK(four_tcp_against_raw_sockets)->Unit(benchmark::kMillisecond)->Iterations(10)->UseRealTime();

}  // namespace
}  // namespace baton::transfer
