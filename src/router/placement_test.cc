#include "router/placement.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>

#include "api/testing.h"
#include "router/registry.h"

namespace baton::router {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
constexpr Time kNow{std::chrono::seconds(1)};

// A step of 10 ms and 1 ms a token; a hand-over of 5 ms and 0.1 ms a token.
constexpr api::Speeds kSpeeds{.prefill_step = milliseconds(10),
                              .prefill_tokens_per_s = 1000,
                              .handover = milliseconds(5),
                              .handover_bytes_per_s = 1e6,
                              .kv_bytes_per_token = 100};

api::Speeds times(api::Speeds speeds, double faster) {
  speeds.prefill_step =
      Duration(static_cast<int64_t>(static_cast<double>(speeds.prefill_step.count()) / faster));
  speeds.prefill_tokens_per_s *= faster;
  return speeds;
}

TEST(Placement, ComparesWhatIsLostEitherWay) {
  struct Row {
    const char* name;
    double tokens, cached_on_p, cached_on_d, queued;
    uint32_t in_flight;
    double p_faster;
    microseconds local, handover;
    bool is_local;
  };
  // An exchange with P takes 2 ms: with nothing cached the hand-over costs 7 ms and 0.1 ms a token.
  for (const Row& row : {
           Row{"a short prompt", 7, 0, 0, 0, 0, 1, microseconds(24'000), microseconds(24'700), true},
           Row{"one token more", 8, 0, 0, 0, 0, 1, microseconds(26'000), microseconds(25'800), false},
           Row{"one answer at D counts as the next one", 7, 0, 0, 0, 1, 1, microseconds(24'000),
               microseconds(24'700), true},
           Row{"two answers at D", 7, 0, 0, 0, 2, 1, microseconds(31'000), microseconds(24'700), false},
           Row{"D computes another prompt", 7, 0, 0, 1, 1, 1, microseconds(25'000), microseconds(24'700),
               false},
           Row{"a long prompt", 1000, 0, 0, 0, 0, 1, microseconds(2'010'000), microseconds(1'117'000), false},
           Row{"D has most of it", 1000, 0, 995, 0, 0, 1, microseconds(20'000), microseconds(1'017'500),
               true},
           Row{"D has most of it, many answers there", 1000, 0, 900, 0, 20, 1, microseconds(2'110'000),
               microseconds(1'027'000), false},
           Row{"P has it too", 1000, 995, 900, 0, 0, 1, microseconds(210'000), microseconds(32'000), false},
           Row{"D has all of it: the last token", 1000, 0, 1000, 0, 0, 1, microseconds(12'000),
               microseconds(1'017'100), true},
           Row{"P is ten times as fast", 7, 0, 0, 0, 0, 10, microseconds(24'000), microseconds(9'400), false},
           Row{"P counts as no slower than D", 30, 0, 0, 0, 0, 0.25, microseconds(70'000),
               microseconds(50'000), false},
       }) {
    const auto estimate = estimate_placement({.prompt_tokens = row.tokens,
                                              .p = {times(kSpeeds, row.p_faster), row.cached_on_p},
                                              .d = {kSpeeds, row.cached_on_d},
                                              .exchange = milliseconds(2),
                                              .queued_tokens = row.queued,
                                              .in_flight = row.in_flight});
    EXPECT_NEAR(seconds(estimate.local), seconds(row.local), 1e-6) << row.name;
    EXPECT_NEAR(seconds(estimate.handover), seconds(row.handover), 1e-6) << row.name;
    EXPECT_EQ(local_costs_less(estimate), row.is_local) << row.name;
  }
}

// Whatever the speeds: what makes D busier, or a prompt of which D lacks more, never turns a hand-over into a
// prefill of D.
TEST(Placement, MoreWorkForDNeverMakesItComputeMore) {
  std::mt19937_64 random(1);
  const auto draw = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  const auto some_speeds = [&] {
    return api::Speeds{.prefill_step = microseconds(static_cast<int64_t>(draw(0, 1e5))),
                       .prefill_tokens_per_s = draw(1, 1e5),
                       .handover = microseconds(static_cast<int64_t>(draw(0, 1e4))),
                       .handover_bytes_per_s = draw(1e3, 1e10),
                       .kv_bytes_per_token = static_cast<int64_t>(draw(0, 1e5))};
  };
  int turned = 0;
  for (int i = 0; i < 20'000; ++i) {
    const PlacementInput idle{.prompt_tokens = draw(1, 3000),
                              .p = {some_speeds(), draw(0, 1000)},
                              .d = {some_speeds(), draw(0, 3000)},
                              .exchange = microseconds(static_cast<int64_t>(draw(0, 1e4))),
                              .queued_tokens = draw(0, 100),
                              .in_flight = static_cast<uint32_t>(draw(0, 8))};
    PlacementInput busier = idle;
    busier.in_flight += static_cast<uint32_t>(draw(0, 8));
    busier.queued_tokens += draw(0, 500);
    const bool was_local = local_costs_less(estimate_placement(idle));
    const bool is_local = local_costs_less(estimate_placement(busier));
    EXPECT_TRUE(was_local || !is_local) << i;
    turned += was_local && !is_local ? 1 : 0;
    // Where a token costs D no less than the hand-over of it saves.
    PlacementInput lacks = idle;
    lacks.p.speeds = lacks.d.speeds;
    lacks.p.cached_tokens = lacks.d.cached_tokens;
    lacks.d.speeds.kv_bytes_per_token = 0;
    const bool was = local_costs_less(estimate_placement(lacks));
    lacks.prompt_tokens += draw(0, 500);
    EXPECT_TRUE(was || !local_costs_less(estimate_placement(lacks))) << i;
  }
  EXPECT_GT(turned, 100);
}

TEST(Placement, NoSpeedThatSomebodySaysOverflows) {
  const api::Speeds worst{.prefill_step = api::kSpeedStepMax,
                          .prefill_tokens_per_s = 1e-300,
                          .handover = api::kSpeedStepMax,
                          .handover_bytes_per_s = 1e-300,
                          .kv_bytes_per_token = api::kSpeedMax};
  const auto estimate = estimate_placement({.prompt_tokens = 4e6,
                                            .p = {worst, 0},
                                            .d = {worst, 0},
                                            .exchange = milliseconds(1),
                                            .queued_tokens = 1e9,
                                            .in_flight = UINT32_MAX});
  EXPECT_GT(estimate.local, Duration{0});
  EXPECT_GT(estimate.handover, Duration{0});
}

// ---- what the registry knows ----

class Placing : public testing::Test {
 protected:
  void build(RegistryOptions options, std::optional<api::Speeds> speeds = kSpeeds, bool baton = true) {
    registry_.emplace(options);
    for (uint16_t i = 1; i <= 2; ++i) {
      p_.push_back(registry_->add(Side::kPrefill, "p", i, kNow));
      d_.push_back(registry_->add(Side::kDecode, "d", i, kNow));
      for (const auto& [id, role] :
           {std::pair(p_.back(), api::Role::kPrefill), std::pair(d_.back(), api::Role::kDecode)}) {
        auto identity = api::identity_of(role);
        identity.speeds = speeds;
        registry_->on_probe_ok(id, baton ? std::optional(identity) : std::nullopt, kNow);
        registry_->on_probe_took(id, milliseconds(2));
      }
    }
  }
  // Of so many tokens, by the four bytes that a token has until somebody says better.
  Demand demand(size_t tokens, char letter = 'x') {
    body_ = fmt::format(R"({{"prompt":"{}"}})", std::string(4 * tokens - 2, letter));
    return registry_->demand_of(*read_client_body(Route::kCompletions, body_));
  }
  Result<Placed> place(const Demand& of, std::vector<InstanceId> avoid = {}) {
    return registry_->place_prefill(of, avoid, kNow);
  }
  std::string where(const Demand& of, std::vector<InstanceId> avoid = {}) {
    const auto placed = place(of, std::move(avoid));
    if (!placed) return std::string(placed.error().code == Code::kExhausted ? "full" : "none");
    EXPECT_EQ(static_cast<bool>(placed->d), placed->placement.on == api::kAtDecode);
    return fmt::format("{}: {}", placed->placement.on, placed->placement.reason);
  }

  std::optional<Registry> registry_;
  std::vector<InstanceId> p_, d_;
  std::string body_;
};

TEST_F(Placing, TheRuleIsAskedOnlyWhereBothSidesSayTheirSpeeds) {
  build({});
  EXPECT_EQ(where(demand(7)), "decode: local_costs_less");
  EXPECT_EQ(where(demand(700)), "prefill: handover_costs_less");
  const auto placed = place(demand(700));
  ASSERT_TRUE(placed && placed->placement.estimate);
  EXPECT_EQ(placed->placement.estimate->prompt_tokens, 700);
  EXPECT_EQ(placed->placement.estimate->delayed, 1U);

  auto unmeasured = api::identity_of(api::Role::kPrefill);
  for (const InstanceId p : p_) registry_->on_probe_ok(p, unmeasured, kNow);
  EXPECT_EQ(where(demand(7)), "prefill: not_measured");
}

TEST_F(Placing, InstancesThatAreNoBatonHandOver) {
  build({}, kSpeeds, false);
  EXPECT_EQ(where(demand(7)), "prefill: not_measured");
  EXPECT_TRUE(demand(700).chain.empty());  // nobody will look at it
}

TEST_F(Placing, TheOperatorsWordCounts) {
  build({.local_prefill = LocalPrefill::kNever});
  EXPECT_EQ(where(demand(7)), "prefill: asked");
  registry_.reset();
  build({.local_prefill = LocalPrefill::kAlways});
  EXPECT_EQ(where(demand(4000)), "decode: asked");
}

TEST_F(Placing, WithAlwaysABatonDIsNeededAndNoP) {
  build({.in_flight_max = 1, .local_prefill = LocalPrefill::kAlways});
  for (const InstanceId p : p_) registry_->on_probe_failed(p, "refused", kNow);
  EXPECT_TRUE(registry_->ready(kNow));
  const auto first = place(demand(7)), second = place(demand(7));
  EXPECT_NE(first->d.instance(), second->d.instance());
  EXPECT_EQ(where(demand(7)), "full");
  for (const InstanceId d : d_) registry_->on_probe_failed(d, "refused", kNow);
  EXPECT_EQ(where(demand(7)), "none");
  EXPECT_FALSE(registry_->ready(kNow));
}

TEST_F(Placing, WhatDHasInItsPrefixCacheIsNotCountedWhateverThePolicy) {
  for (const Policy policy : {Policy::kTutorial, Policy::kLeastTokens, Policy::kPrefix}) {
    p_.clear();
    d_.clear();
    build({.policy = policy});
    const Demand long_one = demand(2000);
    EXPECT_EQ(where(long_one), "prefill: handover_costs_less");
    const InstanceId has = registry_->reserve_decode(long_one, {}, {}, kNow)->instance();
    const auto placed = place(long_one);
    ASSERT_TRUE(placed && placed->d) << static_cast<int>(policy);
    EXPECT_EQ(placed->d.instance(), has);
    EXPECT_EQ(placed->placement.estimate->cached_tokens, 2000);
    EXPECT_EQ(where(demand(2000, 'y')), "prefill: handover_costs_less");
  }
}

TEST_F(Placing, ADThatDoesNotHaveWhatIsThoughtIsBelievedLess) {
  build({});
  Demand long_one = demand(2000);
  static_cast<void>(registry_->reserve_decode(long_one, {}, {}, kNow));
  int local = 0;
  for (; local < 100; ++local) {
    auto placed = place(long_one);
    if (!placed->d) break;
    registry_->on_prefilled(placed->d, long_one, 2000, 0);  // its usage: nothing was cached
  }
  EXPECT_GT(local, 0);
  EXPECT_LT(local, 20);
}

TEST_F(Placing, WhatDIsDoingCountsAndIsForgottenOnce) {
  build({});
  std::vector<Reservation> running;
  // Both D's take short prompts until they have enough of them.
  while (true) {
    auto placed = place(demand(6));
    if (!placed->d) break;
    running.push_back(std::move(placed->d));
    ASSERT_LT(running.size(), 20U);
  }
  EXPECT_GE(running.size(), 2U);
  EXPECT_GT(registry_->find(d_[0])->own_prefill, 0);
  EXPECT_GT(registry_->find(d_[1])->own_prefill, 0);
  for (Reservation& one : running) {
    one.release_prefill();
    one.release_prefill();
  }
  EXPECT_NEAR(registry_->find(d_[0])->own_prefill, 0, 1e-9);
  Reservation moved = std::move(running.front());
  running.clear();
  moved.release();
  moved.release();
  for (const InstanceId d : d_) {
    EXPECT_EQ(registry_->find(d)->own_prefill, 0);
    EXPECT_EQ(registry_->find(d)->in_flight, 0U);
  }
  EXPECT_EQ(where(demand(6)), "decode: local_costs_less");
}

TEST_F(Placing, ADThatHasFailedTheRequestOrHasNoRoomIsNotWorthIt) {
  build({.in_flight_max = 1});
  EXPECT_EQ(where(demand(7), {d_[0], d_[1]}), "prefill: handover_costs_less");
  EXPECT_EQ(where(demand(7), {d_[0]}), "decode: local_costs_less");
  // A place at D that is promised to a prompt at P is not free.
  const auto p = registry_->reserve_prefill(demand(7), {}, kNow);
  const auto one = place(demand(7));
  ASSERT_TRUE(p && one && one->d);
  EXPECT_FALSE(place(demand(7))->d);
}

TEST_F(Placing, AProbesTimeIsTheShortestOfLate) {
  build({});
  const auto exchange = [&] { return registry_->find(p_[0])->exchange; };
  EXPECT_EQ(exchange(), milliseconds(2));
  registry_->on_probe_took(p_[0], milliseconds(1));
  EXPECT_EQ(exchange(), milliseconds(1));
  registry_->on_probe_took(p_[0], milliseconds(17));
  EXPECT_EQ(exchange(), milliseconds(2));
  for (int i = 0; i < 200; ++i) registry_->on_probe_took(p_[0], milliseconds(17));
  EXPECT_GT(exchange(), milliseconds(16));
}

}  // namespace
}  // namespace baton::router
