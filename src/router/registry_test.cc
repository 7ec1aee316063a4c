#include "router/registry.h"

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
  const auto first = c.registry.reserve_prefill(100, {});
  const auto second = c.registry.reserve_prefill(100, {});
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->instance(), c.p[0]);
  EXPECT_EQ(second->instance(), c.p[1]);
  auto big = c.registry.reserve_prefill(100000, {});
  EXPECT_EQ(big->instance(), c.p[0]);
  EXPECT_EQ(c.registry.reserve_prefill(10, {})->instance(), c.p[1]);
}

TEST(Registry, EachPartOfAReservationIsReleasedExactlyOnce) {
  Cluster c(1, 1);
  const Instance& p = *c.registry.find(c.p[0]);
  {
    auto r = *c.registry.reserve_prefill(400, {});
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
  const auto none = c.registry.reserve_prefill(1, {});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::kUnavailable);
  EXPECT_EQ(none.error().message,
            "no prefill instance can take the request (10.0.0.1:7100: connection refused)");
  c.registry.on_probe_ok(c.p[0], std::nullopt, kStart);
  EXPECT_TRUE(c.registry.reserve_prefill(1, {}));
}

TEST(Registry, AnAvoidedInstanceIsTakenOnlyWhenThereIsNoOther) {
  Cluster c(2, 1);
  EXPECT_EQ(c.registry.reserve_prefill(1, {c.p[0]})->instance(), c.p[1]);
  c.registry.on_request_failed(c.p[1], "gone", kStart);
  EXPECT_EQ(c.registry.reserve_prefill(1, {c.p[0]})->instance(), c.p[0]);
}

TEST(Registry, PairsThatDoNotFitAreRefusedBeforeAnyPrefill) {
  Cluster c(1, 1);
  auto p = identity_of(api::Role::kPrefill);
  auto d = identity_of(api::Role::kDecode);
  d.fingerprint = "other";
  c.registry.on_probe_ok(c.p[0], p, kStart);
  c.registry.on_probe_ok(c.d[0], d, kStart);
  const auto none = c.registry.reserve_prefill(1, {});
  ASSERT_FALSE(none);
  EXPECT_EQ(
      none.error().message,
      "no prefill instance can take the request (10.0.0.1:7100: no decode instance fits it: 10.0.0.2:7200: "
      "fingerprint: f on the prefill instance, other on the decode instance)");
  EXPECT_EQ(c.registry.ready().error().message, none.error().message);
  const auto refused = c.registry.refused_pairs();
  ASSERT_EQ(refused.size(), 1U);
  EXPECT_NE(refused[0].reason.find("fingerprint"), std::string::npos) << refused[0].reason;
  d.fingerprint = "f";
  c.registry.on_probe_ok(c.d[0], d, kStart);
  EXPECT_TRUE(c.registry.reserve_prefill(1, {}));
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
  auto running = *c.registry.reserve_prefill(1, {});
  ASSERT_EQ(running.instance(), c.p[0]);
  EXPECT_TRUE(c.registry.remove(Side::kPrefill, "10.0.0.1", 7100));
  EXPECT_EQ(c.registry.count(Side::kPrefill), 2U);
  EXPECT_EQ(c.registry.reserve_prefill(1, {})->instance(), c.p[1]);
  running.release();
  EXPECT_EQ(c.registry.count(Side::kPrefill), 1U);
  EXPECT_FALSE(c.registry.remove(Side::kPrefill, "10.0.0.1", 7100));
}

}  // namespace
}  // namespace baton::router
