#include "router/shadow.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "api/testing.h"

namespace baton::router {
namespace {

constexpr Time kNow{std::chrono::seconds(1)};

api::Receipt receipt() {
  const std::string hash(api::kHashDigits, 'a');
  const api::ReceiptPrompt prompt{.seed = 7,
                                  .sampling = {.temperature = 0.5F, .max_tokens = 9},
                                  .tokens = {.count = 2, .hash = hash},
                                  .choices = {{.tokens = {.count = 1, .hash = hash}}}};
  return {.baton = "0", .fingerprint = "f", .dtype = "bfloat16", .prompts = {prompt}};
}

ClientBody body(std::string_view text) { return *read_client_body(Route::kCompletions, text); }

TEST(Sample, IsAFunctionOfTheNameHasItsShareAndGrowsWithIt) {
  int tenth = 0;
  int half = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::string id = fmt::format("request-{}", i);
    const bool in_tenth = is_sampled(id, 0.1);
    const bool in_half = is_sampled(id, 0.5);
    EXPECT_FALSE(in_tenth && !in_half) << id;
    EXPECT_EQ(in_tenth, is_sampled(id, 0.1));
    EXPECT_FALSE(is_sampled(id, 0));
    EXPECT_TRUE(is_sampled(id, 1));
    tenth += in_tenth ? 1 : 0;
    half += in_half ? 1 : 0;
  }
  EXPECT_NEAR(tenth, 2'000, 200);
  EXPECT_NEAR(half, 10'000, 400);
}

class ShadowPlaceTest : public testing::Test {
 protected:
  InstanceId add(Side side, uint16_t port, std::string fingerprint = "f") {
    api::InstanceIdentity identity = api::identity_of(api::Role::kBoth);
    identity.fingerprint = std::move(fingerprint);
    const InstanceId id = registry_.add(side, "h", port, kNow);
    registry_.on_probe_ok(id, identity, kNow);
    return id;
  }
  // So many requests on the least busy decode instance.
  void load(int requests) {
    for (int i = 0; i < requests; ++i) reservations_.push_back(*registry_.reserve_decode({}, {}, {}, kNow));
  }

  Registry registry_;
  std::vector<Reservation> reservations_;
};

TEST_F(ShadowPlaceTest, IsTheLeastBusyThatHadNoPartInTheAnswer) {
  const InstanceId p = add(Side::kPrefill, 1);
  const InstanceId d = add(Side::kDecode, 2);
  EXPECT_EQ(shadow_place(registry_, receipt(), {p}), d);
  EXPECT_EQ(shadow_place(registry_, receipt(), {d}), p);
  load(1);
  EXPECT_EQ(shadow_place(registry_, receipt(), {p, d}), p);
  EXPECT_EQ(shadow_place(registry_, receipt(), {p}), d);
}

TEST_F(ShadowPlaceTest, IsNobodyWhileTheLoadDoesNotPermit) {
  const InstanceId d = add(Side::kDecode, 2);
  add(Side::kPrefill, 1);
  registry_.on_probe_failed(add(Side::kDecode, 3), "down", kNow);
  load(static_cast<int>(kShadowBesideMax) - 1);
  EXPECT_EQ(shadow_place(registry_, receipt(), {registry_.instances()[1]->id}), d);
  load(1);
  EXPECT_EQ(shadow_place(registry_, receipt(), {}), registry_.instances()[1]->id);
  registry_.on_probe_failed(registry_.instances()[1]->id, "down", kNow);
  EXPECT_EQ(shadow_place(registry_, receipt(), {}), std::nullopt);
  reservations_.clear();
  EXPECT_EQ(shadow_place(registry_, receipt(), {}), d);
}

TEST_F(ShadowPlaceTest, HasTheReceiptsModel) {
  add(Side::kDecode, 2, "another");
  EXPECT_EQ(shadow_place(registry_, receipt(), {}), std::nullopt);
  api::Receipt in_float32 = receipt();
  add(Side::kDecode, 3);
  in_float32.dtype = "float32";
  EXPECT_EQ(shadow_place(registry_, in_float32, {}), std::nullopt);
  EXPECT_NE(shadow_place(registry_, receipt(), {}), std::nullopt);
}

TEST_F(ShadowPlaceTest, OnlyOnePromptOfAClusterOfBatonInstancesIsSampled) {
  add(Side::kDecode, 2);
  EXPECT_TRUE(can_be_shadowed(body(R"({"prompt":"a","n":3})"), registry_));
  EXPECT_FALSE(can_be_shadowed(body(R"({"prompt":["a","b"]})"), registry_));
  ClientBody large = body(R"({"prompt":"a"})");
  large.bytes = kShadowBodyBytesMax + 1;
  EXPECT_FALSE(can_be_shadowed(large, registry_));
  registry_.on_probe_ok(registry_.add(Side::kPrefill, "v", 1, kNow), std::nullopt, kNow);
  EXPECT_FALSE(can_be_shadowed(body(R"({"prompt":"a"})"), registry_));
}

TEST(ShadowBody, IsTheClientsWithWhatTheReceiptResolvedAndNoCachedPrefix) {
  const std::string text =
      R"({"prompt":"a","stream":true,"stream_options":{"include_usage":true},"n":2,"max_completion_tokens":50,)"
      R"("cache_salt":"own","kv_transfer_params":{"x":1},"timings":true,"stop":["e"],"request_id":"r","logprobs":1})";
  EXPECT_EQ(
      shadow_body(body(text), receipt(), "salt"),
      R"({"prompt":"a","n":2,"stop":["e"],"logprobs":1,"stream":false,"receipt":true,"cache_salt":"salt","seed":7,)"
      R"("max_tokens":9,"temperature":0.5,"top_p":1,"top_k":0,"min_p":0,"repetition_penalty":1})");
}

std::string with_receipt(std::string_view more) {
  return fmt::format(R"({{"id":"1","choices":[]{},"receipt":{}}})", more, api::render_receipt(receipt()));
}

TEST(ReceiptTap, TakesTheReceiptOutOfAStreamThatDidNotAskForIt) {
  const std::string text = R"(data: {"choices":[{"index":0,"text":"\"receipt\":{}"}]})"
                           "\n\n";
  const std::string done = "data: [DONE]\n\n";
  ReceiptTap tap(false);
  EXPECT_EQ(tap.events(text), std::nullopt);
  EXPECT_EQ(tap.events(text + "data: " + with_receipt("") + "\n\n" + done), text + done);
  EXPECT_EQ(tap.receipt(), receipt());
  ReceiptTap usage(false);
  EXPECT_EQ(usage.events("data: " + with_receipt(R"(,"usage":{"a":1})") + "\n\n" + done),
            "data: {\"id\":\"1\",\"choices\":[],\"usage\":{\"a\":1}}\n\n" + done);
}

TEST(ReceiptTap, LeavesTheAnswerOfWhoAskedAsItIs) {
  ReceiptTap tap(true);
  EXPECT_EQ(tap.events("data: " + with_receipt("") + "\n\n"), std::nullopt);
  EXPECT_EQ(tap.receipt(), receipt());
  ReceiptTap whole(true);
  EXPECT_EQ(whole.whole(with_receipt("")), std::nullopt);
  EXPECT_EQ(whole.receipt(), receipt());
}

TEST(ReceiptTap, OfAWholeAnswerTheRestKeepsItsBytes) {
  ReceiptTap tap(false);
  EXPECT_EQ(tap.whole(with_receipt(R"(,"x":-0.1000000000000000000001)")),
            R"({"id":"1","choices":[],"x":-0.1000000000000000000001})");
  EXPECT_EQ(tap.receipt(), receipt());
  ReceiptTap none(false);
  EXPECT_EQ(none.whole(R"({"choices":[{"text":"receipt"}]})"), std::nullopt);
  EXPECT_EQ(none.receipt(), std::nullopt);
}

}  // namespace
}  // namespace baton::router
