// A decode instance dies behind each event of an answer, and whoever goes on dies too: what the client reads
// is what it reads from a cluster that nothing disturbs. The state machines and the shell of the chaos runs.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/simulation/chaos_instance.h"
#include "tests/simulation/chaos_proxy.h"

namespace baton::simulation::chaos {
namespace {

constexpr size_t kInstances = 4;  // one P, three D's

class Cluster {
 public:
  Cluster(api::HandoverOrder order, uint32_t arena_blocks, bool returns)
      : network_({.seed = 1}), wire_(1, {}) {
    network_.set_now(now_);
    std::vector<Backend> backends;
    for (size_t i = 0; i < kInstances; ++i) {
      doors_.push_back(make_served());
      InstanceOptions options{.index = i,
                              .role = i == 0 ? api::Role::kPrefill : api::Role::kDecode,
                              .order = order,
                              .arena_blocks = i == 0 ? 64 : arena_blocks,
                              .speeds = {},
                              .engine = {}};
      options.engine.limits.returns = returns && i > 0;
      instances_.push_back(std::make_unique<Instance>(options, network_, wire_, *doors_[i], i + 1));
      backends.push_back({i == 0 ? router::Side::kPrefill : router::Side::kDecode, instances_[i]->port()});
    }
    proxy_.emplace(0, ProxyOptions{.order = order, .registry = {}, .limits = {}}, backends, wire_,
                   [this](size_t client, const Received& got) { received_[client] = got; });
    proxy_->start(now_);
    for (size_t i = 0; i < kInstances; ++i) proxy_->on_probe(i, instances_[i]->identity(), now_);
  }

  // Each answer. Whoever sends one of the events of `deaths`, counted over all answers, dies with it.
  std::vector<std::string> answers(const std::vector<std::string>& bodies, std::vector<size_t> deaths = {}) {
    received_.assign(bodies.size(), {});
    for (size_t i = 0; i < bodies.size(); ++i) proxy_->request(i, bodies[i], fmt::format("r{}", i), now_);
    for (int turn = 0; turn < 20'000 && !is_over(); ++turn) {
      now_ = now_ + std::chrono::milliseconds(1);
      network_.set_now(now_);
      wire_.deliver(
          now_, [](const Call&, Wire::End) { return true; },
          [&](const Call& call, Wire::End to, Piece piece) {
            if (to == Wire::End::kInstance)
              return instances_[call.instance]->take(call, std::move(piece), now_);
            const bool is_event = piece.kind == Piece::Kind::kEvent;
            proxy_->take(call, std::move(piece), now_);
            if (!is_event || std::ranges::find(deaths, events++) == deaths.end()) return;
            if (instances_[call.instance]->is_alive()) instances_[call.instance]->kill(now_);
          });
      proxy_->on_time(now_);
      for (auto& instance : instances_) {
        if (instance->is_alive()) instance->turn(now_);
      }
    }
    std::vector<std::string> all;
    for (const Received& received : received_)
      all.push_back(fmt::format("{} {}", received.status, received.bytes));
    return all;
  }

  void expect_nothing_left() {
    EXPECT_EQ(proxy_->find_leak(), "");
    for (int i = 0; i < 5000; ++i) {
      now_ = now_ + std::chrono::milliseconds(1);
      network_.set_now(now_);
      wire_.deliver(
          now_, [](const Call&, Wire::End) { return true; },
          [&](const Call& call, Wire::End to, Piece piece) {
            if (to == Wire::End::kInstance) instances_[call.instance]->take(call, std::move(piece), now_);
          });
      for (auto& instance : instances_) {
        if (instance->is_alive()) instance->turn(now_);
      }
    }
    for (const auto& instance : instances_) {
      if (!instance->is_alive()) continue;
      EXPECT_EQ(instance->find_leak(), "");
      EXPECT_EQ(instance->violation, "");
    }
  }

  uint64_t resumed() const { return proxy_->resumed; }
  uint64_t returned() const {
    uint64_t sum = 0;
    for (const auto& instance : instances_) sum += instance->returned;
    return sum;
  }
  size_t events = 0;

 private:
  bool is_over() const { return std::ranges::all_of(received_, &Received::is_over); }

  Time now_{std::chrono::seconds(1)};
  transfer::fake::FakeNetwork network_;
  Wire wire_;
  std::vector<std::unique_ptr<serve::ServedModel>> doors_;
  std::vector<std::unique_ptr<Instance>> instances_;
  std::optional<Proxy> proxy_;
  std::vector<Received> received_;
};

std::string body_of(int number, int max_tokens, int n = 1) {
  std::string prompt;
  for (int i = 0; i < 20 + number; ++i)
    prompt += fmt::format("{}{}", i == 0 ? "" : ",", (i * 7 + number) % 32);
  return fmt::format(
      R"({{"model":"m","prompt":[{}],"max_tokens":{},"seed":{},"n":{},"stream":true,"ignore_eos":true}})",
      prompt, max_tokens, number, n);
}

class Resume : public testing::TestWithParam<api::HandoverOrder> {};
INSTANTIATE_TEST_SUITE_P(Orders, Resume,
                         testing::Values(api::HandoverOrder::kPull, api::HandoverOrder::kLayerwise),
                         [](const auto& order) { return std::string(api::order_name(order.param)); });

TEST_P(Resume, ADThatDiesBehindAnyEventCostsTheClientNothing) {
  for (const int n : {1, 2}) {
    const std::string body = body_of(3, 9, n);
    Cluster calm(GetParam(), 32, false);
    const auto right = calm.answers({body});
    ASSERT_TRUE(right[0].ends_with("data: [DONE]\n\n")) << right[0];
    for (size_t event = 0; event + 1 < calm.events; ++event) {
      Cluster cluster(GetParam(), 32, false);
      EXPECT_EQ(cluster.answers({body}, {event}), right) << "event " << event;
      cluster.expect_nothing_left();
    }
  }
}

TEST_P(Resume, WhoGoesOnMayDieTooAtAnyEvent) {
  const std::string body = body_of(5, 8);
  Cluster calm(GetParam(), 32, false);
  const auto right = calm.answers({body});
  for (size_t first = 0; first + 2 < calm.events; ++first) {
    for (size_t second = first + 1; second + 1 < calm.events; ++second) {
      Cluster cluster(GetParam(), 32, false);
      EXPECT_EQ(cluster.answers({body}, {first, second}), right) << first << ", " << second;
      cluster.expect_nothing_left();
    }
  }
}

TEST_P(Resume, WithoutAnyOtherDTheStreamEndsWithOneErrorBehindWhatWasRight) {
  const std::string body = body_of(5, 8);
  Cluster calm(GetParam(), 32, false);
  const auto right = calm.answers({body});
  Cluster cluster(GetParam(), 32, false);
  const std::string cut = cluster.answers({body}, {1, 2, 3})[0];
  const size_t error = cut.find("data: {\"error\"");
  ASSERT_NE(error, std::string::npos) << cut;
  EXPECT_TRUE(right[0].starts_with(cut.substr(0, error))) << cut;
  EXPECT_EQ(cut.find("[DONE]"), std::string::npos) << cut;
  cluster.expect_nothing_left();
}

TEST_P(Resume, RequestsThatAreGivenBackForWantOfBlocksComeToTheirEnd) {
  std::vector<std::string> bodies;
  for (int i = 0; i < 12; ++i) bodies.push_back(body_of(i, 40));
  Cluster calm(GetParam(), 64, false);
  const auto right = calm.answers(bodies);
  Cluster cluster(GetParam(), 8, true);
  EXPECT_EQ(cluster.answers(bodies), right);
  EXPECT_GT(cluster.returned(), 0U);
  EXPECT_GE(cluster.resumed(), cluster.returned());
  cluster.expect_nothing_left();
}

}  // namespace
}  // namespace baton::simulation::chaos
