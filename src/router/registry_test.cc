#include "router/registry.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "api/testing.h"

namespace baton::router {
namespace {

constexpr Time kStart{std::chrono::seconds(1)};

struct Cluster {
  Registry registry;
  std::vector<InstanceId> p;
  std::vector<InstanceId> d;

  Cluster(size_t prefill, size_t decode) {
    for (size_t i = 0; i < prefill; ++i) {
      p.push_back(registry.add(Side::kPrefill, "10.0.0.1", static_cast<uint16_t>(7100 + i), kStart));
      registry.on_probe_ok(p.back(), std::nullopt, kStart);
    }
    for (size_t i = 0; i < decode; ++i) {
      d.push_back(registry.add(Side::kDecode, "10.0.0.2", static_cast<uint16_t>(7200 + i), kStart));
      registry.on_probe_ok(d.back(), std::nullopt, kStart);
    }
  }
};

TEST(Registry, ScoresAreThoseOfTheTutorialsProxy) {
  EXPECT_DOUBLE_EQ(prefill_score(4000), 1000 * 0.0345 + 120.0745);
  EXPECT_DOUBLE_EQ(decode_score(4000), 4000);
}

TEST(Registry, TheLeastLoadedWinsAndEqualsTakeTurns) {
  Cluster c(2, 1);
  const auto first = c.registry.reserve_prefill({.body_bytes = 100}, {}, kStart);
  const auto second = c.registry.reserve_prefill({.body_bytes = 100}, {}, kStart);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->instance(), c.p[0]);
  EXPECT_EQ(second->instance(), c.p[1]);
  auto big = c.registry.reserve_prefill({.body_bytes = 100000}, {}, kStart);
  EXPECT_EQ(big->instance(), c.p[0]);
  EXPECT_EQ(c.registry.reserve_prefill({.body_bytes = 10}, {}, kStart)->instance(), c.p[1]);
}

TEST(Registry, EachPartOfAReservationIsReleasedExactlyOnce) {
  Cluster c(1, 1);
  const Instance& p = *c.registry.find(c.p[0]);
  {
    auto r = *c.registry.reserve_prefill({.body_bytes = 400}, {}, kStart);
    EXPECT_DOUBLE_EQ(p.active_tokens, prefill_score(400));
    EXPECT_DOUBLE_EQ(p.active_kv, prefill_score(400));
    r.release_tokens();
    r.release_tokens();
    EXPECT_DOUBLE_EQ(p.active_tokens, 0);
    EXPECT_DOUBLE_EQ(p.active_kv, prefill_score(400));
    Reservation moved = std::move(r);
    EXPECT_FALSE(r);  // NOLINT(bugprone-use-after-move)
    moved.release();
    moved.release();
    EXPECT_EQ(p.in_flight, 0U);
  }
  EXPECT_EQ(p.in_flight, 0U);
  EXPECT_DOUBLE_EQ(p.active_kv, 0);
}

TEST(Registry, OnlyInstancesThatAreUpAreChosenAndTheErrorSaysWhyNot) {
  Cluster c(1, 1);
  c.registry.on_request_failed(c.p[0], "connection refused", kStart);
  const auto none = c.registry.reserve_prefill({.body_bytes = 1}, {}, kStart);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::kUnavailable);
  EXPECT_EQ(none.error().message,
            "no prefill instance can take the request (10.0.0.1:7100: connection refused)");
  c.registry.on_probe_ok(c.p[0], std::nullopt, kStart);
  EXPECT_TRUE(c.registry.reserve_prefill({.body_bytes = 1}, {}, kStart));
}

TEST(Registry, AnAvoidedInstanceIsTakenOnlyWhenThereIsNoOther) {
  Cluster c(2, 1);
  EXPECT_EQ(c.registry.reserve_prefill({.body_bytes = 1}, {c.p[0]}, kStart)->instance(), c.p[1]);
  c.registry.on_request_failed(c.p[1], "gone", kStart);
  EXPECT_EQ(c.registry.reserve_prefill({.body_bytes = 1}, {c.p[0]}, kStart)->instance(), c.p[0]);
}

TEST(Registry, PairsThatDoNotFitAreRefusedBeforeAnyPrefill) {
  Cluster c(1, 1);
  auto p = identity_of(api::Role::kPrefill);
  auto d = identity_of(api::Role::kDecode);
  d.fingerprint = "other";
  c.registry.on_probe_ok(c.p[0], p, kStart);
  c.registry.on_probe_ok(c.d[0], d, kStart);
  const auto none = c.registry.reserve_prefill({.body_bytes = 1}, {}, kStart);
  ASSERT_FALSE(none);
  EXPECT_EQ(
      none.error().message,
      "no prefill instance can take the request (10.0.0.1:7100: no decode instance fits it: 10.0.0.2:7200: "
      "fingerprint: f on the prefill instance, other on the decode instance)");
  EXPECT_EQ(c.registry.ready(kStart).error().message, none.error().message);
  const auto refused = c.registry.refused_pairs();
  ASSERT_EQ(refused.size(), 1U);
  EXPECT_NE(refused[0].reason.find("fingerprint"), std::string::npos) << refused[0].reason;
  d.fingerprint = "f";
  c.registry.on_probe_ok(c.d[0], d, kStart);
  EXPECT_TRUE(c.registry.reserve_prefill({.body_bytes = 1}, {}, kStart));
  EXPECT_TRUE(c.registry.refused_pairs().empty());
}

TEST(Registry, WhatKeepsAnInstanceFromSayingWhoItIsIsPartOfWhyItsPairIsRefused) {
  Cluster c(1, 1);
  c.registry.on_probe_ok(c.p[0], api::identity_of(api::Role::kPrefill), kStart);
  c.registry.on_probe_ok(c.d[0], std::nullopt, kStart, "it asks for an API key");
  EXPECT_EQ(c.registry.refused_pairs().at(0).reason,
            "one is a Baton instance and the other is not (10.0.0.2:7200: it asks for an API key)");
  c.registry.on_probe_ok(c.d[0], api::identity_of(api::Role::kDecode), kStart);
  EXPECT_EQ(c.registry.find(c.d[0])->notice, "");
}

TEST(Registry, ARemovedInstanceEndsWhatItHasAndThenIsGone) {
  Cluster c(2, 1);
  auto running = *c.registry.reserve_prefill({.body_bytes = 1}, {}, kStart);
  ASSERT_EQ(running.instance(), c.p[0]);
  EXPECT_TRUE(c.registry.remove(Side::kPrefill, "10.0.0.1", 7100));
  EXPECT_EQ(c.registry.count(Side::kPrefill), 2U);
  EXPECT_EQ(c.registry.reserve_prefill({.body_bytes = 1}, {}, kStart)->instance(), c.p[1]);
  running.release();
  EXPECT_EQ(c.registry.count(Side::kPrefill), 1U);
  EXPECT_FALSE(c.registry.remove(Side::kPrefill, "10.0.0.1", 7100));
}

TEST(Registry, ADrainEndsWithItsOwnRequestsWhateverElseRuns) {
  Cluster c(2, 1);
  auto running = *c.registry.reserve_prefill({.body_bytes = 1}, {}, kStart);
  const auto elsewhere = c.registry.reserve_prefill({.body_bytes = 1}, {}, kStart);
  ASSERT_NE(running.instance(), elsewhere->instance());
  EXPECT_TRUE(c.registry.remove(Side::kPrefill, "10.0.0.1", 7100));
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(c.registry.reserve_prefill({.body_bytes = 1}, {}, kStart)->instance(), elsewhere->instance());
  }
  EXPECT_NE(c.registry.find(running.instance()), nullptr);
  const InstanceId drained = running.instance();
  running.release();
  EXPECT_EQ(c.registry.find(drained), nullptr);
  EXPECT_EQ(c.registry.find(elsewhere->instance())->in_flight, 1U);
}

TEST(Registry, ADrainingInstanceThatIsAddedAgainStaysAndAnUnknownOneMayBeAddedAfterItsRemoval) {
  Cluster c(1, 1);
  auto running = *c.registry.reserve_prefill({.body_bytes = 1}, {}, kStart);
  EXPECT_TRUE(c.registry.remove(Side::kPrefill, "10.0.0.1", 7100));
  EXPECT_FALSE(c.registry.reserve_prefill({.body_bytes = 1}, {}, kStart));
  EXPECT_EQ(c.registry.add(Side::kPrefill, "10.0.0.1", 7100, kStart), c.p[0]);
  EXPECT_EQ(c.registry.reserve_prefill({.body_bytes = 1}, {}, kStart)->instance(), c.p[0]);
  running.release();
  EXPECT_NE(c.registry.find(c.p[0]), nullptr);

  EXPECT_FALSE(c.registry.remove(Side::kPrefill, "10.0.0.9", 7100));
  const InstanceId late = c.registry.add(Side::kPrefill, "10.0.0.9", 7100, kStart);
  c.registry.on_probe_ok(late, std::nullopt, kStart);
  EXPECT_EQ(c.registry.reserve_prefill({.body_bytes = 1}, {c.p[0]}, kStart)->instance(), late);
}

// ---- policies ----

// So many prefill and two decode instances, by policy; no identity unless a test gives one.
struct Chosen {
  Registry registry;
  std::vector<InstanceId> p, d;
  explicit Chosen(RegistryOptions options, size_t prefill = 3) : registry(options) {
    for (size_t i = 0; i < prefill; ++i)
      p.push_back(registry.add(Side::kPrefill, "p", static_cast<uint16_t>(i + 1), kStart));
    for (size_t i = 0; i < 2; ++i)
      d.push_back(registry.add(Side::kDecode, "d", static_cast<uint16_t>(i + 1), kStart));
    for (const auto& side : {p, d})
      for (const InstanceId id : side) registry.on_probe_ok(id, std::nullopt, kStart);
  }
  Demand demand(std::string_view prompt, std::string_view others = "") {
    body = fmt::format(R"({{"prompt":{}{}}})", prompt, others);
    return registry.demand_of(*read_client_body(Route::kCompletions, body));
  }
  Reservation prefill(const Demand& of) { return *registry.reserve_prefill(of, {}, kStart); }
  std::string body;
};

std::string words(char c, size_t count) { return "\"" + std::string(count, c) + "\""; }

TEST(Policies, LeastTokensCountsIdsAsTheyAreAndTextByWhatAnswersHaveShown) {
  Chosen c({.policy = Policy::kLeastTokens});
  EXPECT_EQ(c.demand("[1, 2,3]").prompt_tokens, 3);
  Demand text = c.demand(words('x', 798), R"(,"max_tokens":7,"n":2)");
  EXPECT_EQ(text.prompt_tokens, 200);
  EXPECT_EQ(text.answer_tokens, 14);
  EXPECT_TRUE(text.chain.empty());
  const Reservation p = c.prefill(text);
  EXPECT_EQ(c.registry.find(p.instance())->active_tokens, 200);
  c.registry.on_prefilled(p, text, 100, std::nullopt);  // 8 bytes a token
  EXPECT_EQ(text.prompt_tokens, 100);
  EXPECT_EQ(c.registry.reserve_decode(text, p.instance(), {}, kStart)->instance(), c.d[0]);
  EXPECT_NEAR(c.demand(words('x', 478)).prompt_tokens, 100, 1e-9);  // 4.8 by now
}

TEST(Policies, LeastTokensPrefersWhoHasFewerTokensNotFewerRequests) {
  Chosen c({.policy = Policy::kLeastTokens}, 2);
  const auto big = c.prefill(c.demand(words('x', 4000)));
  const auto a = c.prefill(c.demand(words('x', 40)));
  const auto b = c.prefill(c.demand(words('x', 40)));
  EXPECT_NE(a.instance(), big.instance());
  EXPECT_EQ(b.instance(), a.instance());
}

TEST(Policies, PrefixGoesWhereTheBeginningIsUnlessThatIsMuchBusier) {
  Chosen c({.policy = Policy::kPrefix});
  const std::string shared(8000, 's');
  const auto ask = [&](char c1) { return c.demand("\"" + shared + std::string(400, c1) + "\""); };
  const InstanceId first = c.prefill(ask('a')).instance();
  for (const char other : {'b', 'c', 'd'}) EXPECT_EQ(c.prefill(ask(other)).instance(), first) << other;
  EXPECT_NE(c.prefill(c.demand(words('z', 4000))).instance(), first);  // somebody's turn
  std::vector<Reservation> busy;
  for (int i = 0; i < 40; ++i) busy.push_back(c.prefill(ask('e')));
  EXPECT_TRUE(std::ranges::any_of(busy, [&](const auto& r) { return r.instance() != first; }));
  EXPECT_EQ(busy.front().instance(), first);
}

TEST(Policies, PrefixForgetsAnInstanceThatIsAnotherProcess) {
  Chosen c({.policy = Policy::kPrefix});
  auto p = api::identity_of(api::Role::kPrefill);
  for (const InstanceId id : c.d) c.registry.on_probe_ok(id, api::identity_of(api::Role::kDecode), kStart);
  for (const InstanceId id : c.p) c.registry.on_probe_ok(id, p, kStart);
  const Demand demand = c.demand(words('x', 8000));
  const InstanceId first = c.prefill(demand).instance();
  EXPECT_EQ(c.prefill(demand).instance(), first);
  c.registry.on_probe_ok(first, p, kStart);  // the same life
  EXPECT_EQ(c.prefill(demand).instance(), first);
  p.incarnation = random_id<Incarnation>();
  c.registry.on_probe_ok(first, p, kStart);
  EXPECT_NE(c.prefill(demand).instance(), first);
}

TEST(Policies, PrefixBelievesAnInstanceAsFarAsWhatItReports) {
  Chosen c({.policy = Policy::kPrefix}, 1);
  Demand demand = c.demand(words('x', 8000));
  static_cast<void>(c.prefill(demand));
  for (int i = 0; i < 30; ++i) {
    const Reservation p = c.prefill(demand);
    c.registry.on_prefilled(p, demand, 2000, 0);
  }
  EXPECT_LT(c.registry.find(c.p[0])->trust, 0.01);
  EXPECT_NEAR(c.registry.find(c.p[0])->active_tokens, 0, 1e-9);
  for (int i = 0; i < 30; ++i) {
    const Reservation p = c.prefill(demand);
    c.registry.on_prefilled(p, demand, 2000, 1990);
  }
  EXPECT_GT(c.registry.find(c.p[0])->trust, 0.9);
}

TEST(Policies, PrefixHandsOverToWhoHasTheBeginningToo) {
  Chosen c({.policy = Policy::kPrefix}, 1);
  const Demand demand = c.demand(words('x', 8000));
  const auto decode = [&] { return c.registry.reserve_decode(demand, c.p[0], {}, kStart)->instance(); };
  EXPECT_EQ(decode(), c.d[0]);
  EXPECT_EQ(decode(), c.d[0]);  // not in turn: this one has the beginning
  EXPECT_EQ(c.registry.reserve_decode(c.demand(words('y', 8000)), c.p[0], {}, kStart)->instance(), c.d[1]);
}

TEST(Policies, PrefixForgetsWhenCachesAreEmptied) {
  Chosen c({.policy = Policy::kPrefix});
  const Demand demand = c.demand(words('x', 8000));
  const InstanceId first = c.prefill(demand).instance();
  ASSERT_EQ(c.prefill(demand).instance(), first);
  c.registry.forget_caches();
  EXPECT_NE(c.prefill(demand).instance(), first);
}

TEST(Policies, TheTutorialsScoreOfAPCountsKvThatWaitsLessThanWork) {
  Chosen c({}, 2);
  const auto ask = [&](size_t bytes) {
    return c.registry.reserve_prefill({.body_bytes = bytes}, {}, kStart);
  };
  auto waits = *ask(400);  // it computes no more, its KV is not fetched yet
  ASSERT_EQ(waits.instance(), c.p[0]);
  waits.release_tokens();
  ask(400)->release();
  EXPECT_EQ(ask(400)->instance(), c.p[1]);  // idle, though the other one was chosen longer ago
  const auto works = *ask(400);
  ASSERT_EQ(works.instance(), c.p[1]);
  EXPECT_EQ(ask(400)->instance(), c.p[0]);  // 0.3 of a prefill is less than one
}

// ---- breaker and room ----

TEST(Registry, AnotherProcessBeginsWithAClosedBreaker) {
  Chosen c({}, 1);
  auto p = api::identity_of(api::Role::kPrefill);
  for (const InstanceId id : c.d) c.registry.on_probe_ok(id, api::identity_of(api::Role::kDecode), kStart);
  c.registry.on_probe_ok(c.p[0], p, kStart);
  for (uint32_t i = 0; i < Breaker::kFailuresToOpen; ++i) c.registry.on_answer_failed(c.p[0], kStart);
  c.registry.on_probe_ok(c.p[0], p, kStart);  // a probe says nothing of requests
  EXPECT_FALSE(c.registry.reserve_prefill({}, {}, kStart));
  p.incarnation = random_id<Incarnation>();
  c.registry.on_probe_ok(c.p[0], p, kStart);
  EXPECT_TRUE(c.registry.reserve_prefill({}, {}, kStart));
}

TEST(Registry, WhoWaitsIsWokenByEverythingThatMayMakeRoom) {
  Chosen c({}, 1);
  int woken = 0;
  const auto place = c.registry.queue().enter([&] { ++woken; });
  c.registry.reserve_prefill({}, {}, kStart)->release();
  EXPECT_EQ(woken, 1);
  c.registry.on_probe_failed(c.p[0], "refused", kStart);  // it may be told that nobody is left
  EXPECT_EQ(woken, 2);
  c.registry.on_probe_failed(c.p[0], "refused", kStart);
  EXPECT_EQ(woken, 2);
  c.registry.on_probe_ok(c.p[0], std::nullopt, kStart);
  EXPECT_EQ(woken, 3);
  const auto running = *c.registry.reserve_prefill({}, {}, kStart);
  c.registry.remove(Side::kPrefill, "p", 1);
  EXPECT_EQ(woken, 4);
  c.registry.add(Side::kPrefill, "p", 1, kStart);  // it stays
  EXPECT_EQ(woken, 5);
}

TEST(Registry, AnInstanceWhoseBreakerIsOpenIsLeftAloneAndSaysSo) {
  Chosen c({}, 1);
  for (uint32_t i = 0; i < Breaker::kFailuresToOpen; ++i) c.registry.on_answer_failed(c.p[0], kStart);
  const auto none = c.registry.reserve_prefill({}, {}, kStart);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::kUnavailable);
  EXPECT_EQ(none.error().message,
            "no prefill instance can take the request (p:1: its breaker is open after failures in a row, for "
            "1.0 s)");
  const Time later = kStart + Breaker::kPauseFirst;
  {
    const auto trial = c.registry.reserve_prefill({}, {}, later);
    ASSERT_TRUE(trial);
    EXPECT_FALSE(c.registry.reserve_prefill({}, {}, later));  // one at a time
  }
  const auto next = c.registry.reserve_prefill({}, {}, later);  // its client had left
  ASSERT_TRUE(next);
  c.registry.on_answered(c.p[0], later);
  EXPECT_TRUE(c.registry.reserve_prefill({}, {}, later));
}

TEST(Registry, WhatFailsTogetherCountsOnce) {
  Chosen c({}, 1);
  for (uint32_t i = 0; i < 3 * Breaker::kFailuresToOpen; ++i)
    c.registry.on_request_failed(c.p[0], "reset", kStart);
  c.registry.on_probe_ok(c.p[0], std::nullopt, kStart);
  EXPECT_TRUE(c.registry.reserve_prefill({}, {}, kStart));
}

TEST(Registry, NoPrefillIsBegunThatNoDecodeInstanceHasRoomFor) {
  Chosen c({.in_flight_max = 1}, 3);
  auto a = c.registry.reserve_prefill({}, {}, kStart);
  auto b = c.registry.reserve_prefill({}, {}, kStart);
  ASSERT_TRUE(a && b);
  const auto none = c.registry.reserve_prefill({}, {}, kStart);
  ASSERT_FALSE(none);  // one P is idle, and the two D are promised
  EXPECT_EQ(none.error().code, Code::kExhausted);
  EXPECT_NE(none.error().message.find("every decode instance"), std::string::npos) << none.error().message;
  a->release();
  EXPECT_TRUE(c.registry.reserve_prefill({}, {}, kStart));
}

}  // namespace
}  // namespace baton::router
