// Choosing instances: 100 of them, a full prefix table of a million entries, each request another
// conversation of up to 30 kB that goes on where one of the past left off. Counters in microseconds.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "api/testing.h"
#include "router/registry.h"

namespace baton::router {
namespace {

constexpr Time kNow{std::chrono::seconds(1)};
constexpr size_t kConversations = 20'000;  // of 50 links each: a million
constexpr size_t kLinks = 50;

struct Bench {
  Registry registry{{.policy = Policy::kPrefix}};
  std::mt19937_64 random{1};

  Bench() {
    for (uint16_t i = 0; i < 50; ++i) {
      for (const auto& [side, role] :
           {std::pair(Side::kPrefill, api::Role::kPrefill), std::pair(Side::kDecode, api::Role::kDecode)})
        registry.on_probe_ok(registry.add(side, side == Side::kPrefill ? "p" : "d", i, kNow), measured(role),
                             kNow);
    }
    for (size_t i = 0; i < kConversations; ++i) {
      auto p = registry.reserve_prefill(demand(i, kLinks), {}, kNow);
      benchmark::DoNotOptimize(p);
    }
  }
  static api::InstanceIdentity measured(api::Role role) {
    auto identity = api::identity_of(role);
    identity.speeds = api::Speeds{.prefill_step = std::chrono::milliseconds(1),
                                  .prefill_tokens_per_s = 10'000,
                                  .handover = std::chrono::microseconds(500),
                                  .handover_bytes_per_s = 1e10,
                                  .kv_bytes_per_token = 100'000};
    return identity;
  }
  // The chain of one conversation as far as `links`, as prefix_chain makes it.
  Demand demand(size_t conversation, size_t links) const {
    Demand out{
        .body_bytes = links * 600, .prompt_tokens = static_cast<double>(links * 150), .answer_tokens = 256};
    for (size_t k = 0; k < links; ++k)
      out.chain.push_back({(conversation * kLinks + k + 1) * 0x9e3779b97f4a7c15ULL, (k + 1) * 600});
    return out;
  }
};

double percentile(std::vector<double>& us, double part) {
  const auto at = us.begin() + static_cast<ptrdiff_t>(part * static_cast<double>(us.size() - 1));
  std::nth_element(us.begin(), at, us.end());
  return *at;
}

// Both choices of one request, with what they record, and first whether its prompt is handed over at all.
void choose_p_and_d(benchmark::State& state) {
  static Bench bench;
  std::vector<double> us;
  for (auto _ : state) {
    state.PauseTiming();
    const Demand demand = bench.demand(bench.random() % kConversations, 1 + bench.random() % kLinks);
    state.ResumeTiming();
    const auto begin = std::chrono::steady_clock::now();
    auto placed = bench.registry.place_prefill(demand, {}, kNow);
    auto p = bench.registry.reserve_prefill(demand, {}, kNow);
    auto d = bench.registry.reserve_decode(demand, p->instance(), {}, kNow);
    us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
    benchmark::DoNotOptimize(placed);
    benchmark::DoNotOptimize(d);
  }
  state.counters["p50_us"] = percentile(us, 0.5);
  state.counters["p99_us"] = percentile(us, 0.99);
}
BENCHMARK(choose_p_and_d)->Iterations(50'000)->Unit(benchmark::kMicrosecond);

// The chain of a chat of 30 kB, from its body.
void chain_of_30_kB(benchmark::State& state) {
  std::string messages;
  for (int i = 0; i < 30; ++i)
    messages +=
        fmt::format(R"({}{{"role":"user","content":"{}"}})", i == 0 ? "" : ",", std::string(970, 'x'));
  const std::string body = fmt::format(R"({{"messages":[{}]}})", messages);
  const auto client = read_client_body(Route::kChat, body);
  for (auto _ : state) benchmark::DoNotOptimize(prefix_chain(*client));
}
BENCHMARK(chain_of_30_kB)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace baton::router
