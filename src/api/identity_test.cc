// The order of a hand-over in what instances say of themselves.
#include "api/identity.h"

#include <gtest/gtest.h>

namespace baton::api {
namespace {

std::string models(std::string_view identity) {
  return R"({"data":[],"baton":)" + std::string(identity) + "}";
}

InstanceIdentity identity(HandoverOrder order) {
  InstanceIdentity one;
  one.hands_over = true;
  one.incarnation = Incarnation{{1, 2}};
  one.order = order;
  return one;
}

TEST(Identity, TheOrderIsReadBackAndPullWhereNobodySpeaksOfIt) {
  for (const HandoverOrder order : {HandoverOrder::kPull, HandoverOrder::kLayerwise}) {
    const InstanceIdentity one = identity(order);
    EXPECT_EQ(parse_models_identity(models(render_identity(one))).value().value(), one);
  }
  const std::string incarnation = Incarnation{{1, 2}}.hex();
  const auto old = parse_models_identity(models(R"({"role":"both","incarnation":")" + incarnation + "\"}"));
  ASSERT_TRUE(old && *old);
  EXPECT_EQ((*old)->order, HandoverOrder::kPull);
  EXPECT_EQ(
      parse_models_identity(models(R"({"role":"both","incarnation":")" + incarnation + R"(","order":"x"})"))
          .error()
          .message,
      "order: \"x\", expected pull or layerwise");
}

TEST(Identity, SpeedsAreReadBackAndOnesThatAreNoneAreRefusedByName) {
  InstanceIdentity one = identity(HandoverOrder::kPull);
  EXPECT_EQ(render_identity(one).find("speeds"), std::string::npos);
  one.speeds = Speeds{.prefill_step = std::chrono::microseconds(1234),
                      .prefill_tokens_per_s = 1.5e4 / 7,
                      .handover = std::chrono::nanoseconds(5),
                      .handover_bytes_per_s = 3.25e10,
                      .kv_bytes_per_token = 114'688};
  EXPECT_EQ(parse_models_identity(models(render_identity(one))).value().value(), one);
  struct Row {
    const char* speeds;
    const char* error;
  };
  for (const Row& row : {
           Row{"1", "speeds: 1, expected an object"},
           Row{"{}", "prefill_tokens_per_s: null, expected a number above 0"},
           Row{R"({"prefill_tokens_per_s":0})",
               "prefill_tokens_per_s: 0, expected a number above 0, at most 1000000000000000"},
           Row{R"({"prefill_tokens_per_s":1,"handover_bytes_per_s":-1})",
               "handover_bytes_per_s: -1, expected a number above 0, at most 1000000000000000"},
           Row{R"({"prefill_tokens_per_s":1,"handover_bytes_per_s":1,"prefill_step_ns":-1})",
               "prefill_step_ns: -1, expected an integer from 0 to 3600000000000"},
           Row{R"({"prefill_tokens_per_s":1,"handover_bytes_per_s":1,"kv_bytes_per_token":"x"})",
               "kv_bytes_per_token: \"x\", expected an integer from 0 to 1000000000000000"},
       }) {
    const auto read =
        parse_models_identity(models(R"({"role":"both","incarnation":")" + Incarnation{{1, 2}}.hex() +
                                     R"(","speeds":)" + row.speeds + "}"));
    ASSERT_FALSE(read) << row.speeds;
    EXPECT_EQ(read.error().message, row.error);
  }
}

TEST(Identity, WhetherItResumesIsReadBackAndItDoesNotWhereNobodySpeaksOfIt) {
  InstanceIdentity one = identity(HandoverOrder::kPull);
  for (const int32_t resume : {0, 1}) {
    one.resume = resume;
    EXPECT_EQ(parse_models_identity(models(render_identity(one))).value().value(), one);
  }
  const std::string old = R"({"role":"both","incarnation":")" + one.incarnation.hex() + "\"}";
  EXPECT_EQ(parse_models_identity(models(old)).value()->resume, 0);
}

TEST(Identity, TwoOrdersAreNoPairAndTheReasonNamesBoth) {
  const InstanceIdentity pull = identity(HandoverOrder::kPull);
  const InstanceIdentity layerwise = identity(HandoverOrder::kLayerwise);
  EXPECT_EQ(pairing_mismatch(layerwise, layerwise), "");
  EXPECT_EQ(pairing_mismatch(layerwise, pull),
            "order: layerwise on the prefill instance, pull on the decode instance");
  EXPECT_EQ(pairing_mismatch(pull, layerwise),
            "order: pull on the prefill instance, layerwise on the decode instance");
}

}  // namespace
}  // namespace baton::api
