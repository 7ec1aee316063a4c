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
