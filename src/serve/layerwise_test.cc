// The layer-wise order at the door: which parameters fit which instance, what the engine is asked, what the
// metaserver is told.
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "serve/request_builder.h"
#include "serve/testing.h"

namespace baton::serve {
namespace {

const std::vector<TokenId> kPrompt = {10, 11, 12, 13};

const ServedModel& layerwise_model() {
  static const ServedModel model = [] {
    ServedModel one = test_model();
    one.identity.hands_over = true;
    one.identity.order = api::HandoverOrder::kLayerwise;
    return one;
  }();
  return model;
}

api::CommonRequest with_params(std::string_view json) {
  api::CommonRequest request;
  request.kv_transfer_params = boost::json::parse(json);
  return request;
}

constexpr std::string_view kSixKeys =
    R"({"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null})";
constexpr std::string_view kHeldByP =
    R"({"do_remote_decode":false,"do_remote_prefill":true,"remote_host":"h","remote_port":1,"remote_engine_id":"e"})";
constexpr std::string_view kToMetaserver =
    R"({"do_remote_decode":false,"do_remote_prefill":true,"metaserver":"http://proxy:8000/v1/metaserver"})";
constexpr std::string_view kForeignPost =
    R"({"request_id":"cmpl-x-0","do_remote_decode":true,"do_remote_prefill":false,"remote_block_ids":[1],"remote_engine_id":"2","remote_host":"10.0.0.2","remote_port":30200})";

engine::ReservedEvent reserved() {
  return {.request = RequestId{1},
          .transfer = TransferId{{5, 6}},
          .blocks = {BlockId{9}, BlockId{3}},
          .tokens = static_cast<uint32_t>(kPrompt.size()),
          .tokens_present = 2,
          .prompt_hash = engine::prompt_hash(kPrompt)};
}

std::string post_of_d() {
  return render_reserved(reserved(), "cmpl-x-0",
                         {.host = "10.0.0.2", .port = 30200, .identity = &layerwise_model().identity});
}

TEST(Layerwise, EachOrderTakesItsOwnParametersAndNamesTheFixForTheOthers) {
  struct Row {
    api::HandoverOrder order;
    api::Role role;
    std::string params;
    std::vector<std::string_view> words;  // none: taken
  };
  using enum api::HandoverOrder;
  using enum api::Role;
  const Row rows[] = {
      {kLayerwise, kPrefill, post_of_d(), {}},
      {kLayerwise, kBoth, post_of_d(), {}},
      {kLayerwise, kDecode, std::string(kToMetaserver), {}},
      {kLayerwise, kBoth, std::string(kToMetaserver), {}},
      {kLayerwise,
       kPrefill,
       std::string(kSixKeys),
       {"remote_host null", "layer-wise order", "--order layerwise"}},
      {kLayerwise,
       kDecode,
       std::string(kHeldByP),
       {"KV at h:1", "expected a metaserver", "--order layerwise"}},
      {kLayerwise, kPrefill, std::string(kForeignPost), {"10.0.0.2:30200", "only between Baton instances"}},
      {kLayerwise,
       kDecode,
       R"({"do_remote_prefill":true,"metaserver":"https://x/"})",
       {"https://x/", "http://"}},
      {kPull, kPrefill, std::string(kSixKeys), {}},
      {kPull, kDecode, std::string(kHeldByP), {}},
      {kPull, kPrefill, post_of_d(), {"10.0.0.2:30200", "pull order", "--order pull"}},
      {kPull, kPrefill, std::string(kForeignPost), {"10.0.0.2:30200", "pull order"}},
      {kPull, kDecode, std::string(kToMetaserver), {"http://proxy:8000/v1/metaserver", "--order pull"}},
      // A role without a part in it ignores them, as ever.
      {kLayerwise, kDecode, std::string(kSixKeys), {}},
      {kPull, kPrefill, std::string(kToMetaserver), {}},
  };
  for (const Row& row : rows) {
    api::InstanceIdentity identity = layerwise_model().identity;
    identity.role = row.role;
    identity.order = row.order;
    const auto part = handover_part(with_params(row.params), identity);
    EXPECT_EQ(part.has_value(), row.words.empty()) << row.params;
    if (part) continue;
    EXPECT_EQ(part.error().code, Code::kInvalid);
    EXPECT_EQ(part.error().param, "kv_transfer_params");
    for (const std::string_view word : row.words) {
      EXPECT_NE(part.error().message.find(word), std::string::npos)
          << part.error().message << " lacks " << word;
    }
    EXPECT_TRUE(part.error().message.starts_with("kv_transfer_params")) << part.error().message;
  }
}

Result<engine::Request> build(std::string_view params, const std::vector<TokenId>& prompt = kPrompt) {
  const api::CommonRequest request = with_params(params);
  TRY(const HandoverPart part, handover_part(request, layerwise_model().identity));
  std::string why;
  return build_request(layerwise_model(), request, part, prompt, 16,
                       {.seed = 1, .handover = HandoverId{{1, 2}}, .transfer = TransferId{{3, 4}}}, why);
}

TEST(Layerwise, DAwaitsTheKvOfItsPromptFromWhoeverComes) {
  const auto built = build(kToMetaserver);
  ASSERT_TRUE(built) << built.error().message;
  ASSERT_TRUE(built->remote);
  EXPECT_TRUE(built->remote->is_layerwise);
  EXPECT_EQ(built->remote->tokens, kPrompt.size());
  EXPECT_EQ(built->remote->prompt_hash, engine::prompt_hash(kPrompt));
  EXPECT_EQ(built->remote->host, "");
  EXPECT_EQ(built->transfer, (TransferId{{3, 4}}));
  EXPECT_FALSE(built->hold || built->remote_landing);
}

TEST(Layerwise, PFillsWhatDPostedUnderTheClientsTrueLimits) {
  boost::json::value post = boost::json::parse(post_of_d());
  post.at("baton").as_object()["client_max_tokens"] = 50;
  post.at("baton").as_object()["client_min_tokens"] = 3;
  const auto built = build(boost::json::serialize(post));
  ASSERT_TRUE(built) << built.error().message;
  EXPECT_EQ(built->hold, (HandoverId{{1, 2}}));
  ASSERT_TRUE(built->remote_landing);
  EXPECT_EQ(*built->remote_landing,
            (engine::RemoteLanding{.host = "10.0.0.2",
                                   .port = 30200,
                                   .engine_id = "e",
                                   .incarnation = layerwise_model().identity.incarnation,
                                   .transfer = TransferId{{5, 6}}}));
  EXPECT_FALSE(built->remote);
  EXPECT_EQ(built->sampling.max_tokens, 50U);
  EXPECT_EQ(built->sampling.min_tokens, 3U);
}

TEST(Layerwise, BlocksForAnotherPromptOrModelAreRefusedByName) {
  const auto other_prompt = build(post_of_d(), {10, 11, 12, 14});
  ASSERT_FALSE(other_prompt);
  EXPECT_NE(other_prompt.error().message.find("another prompt"), std::string::npos);
  EXPECT_EQ(other_prompt.error().code, Code::kInvalid);
  boost::json::value post = boost::json::parse(post_of_d());
  post.at("baton").at("landing").as_object()["fingerprint"] = "cafe";
  const auto other_model = build(boost::json::serialize(post));
  ASSERT_FALSE(other_model);
  EXPECT_NE(other_model.error().message.find("fingerprint: cafe there, f here"), std::string::npos)
      << other_model.error().message;
}

TEST(Metaserver, IsAnHttpUrlWhosePathIsKept) {
  const std::pair<std::string_view, Metaserver> good[] = {
      {"http://10.0.0.1:8000/v1/metaserver", {{"10.0.0.1", 8000}, "/v1/metaserver"}},
      {"http://[fd00::1]:8000/a%20b/?x=1&y", {{"fd00::1", 8000}, "/a%20b/?x=1&y"}},
      {"http://proxy.example", {{"proxy.example", 80}, "/"}},
      {"http://proxy:1?x", {{"proxy", 1}, "/?x"}},
  };
  for (const auto& [url, expected] : good) {
    const auto parsed = parse_metaserver(url);
    ASSERT_TRUE(parsed) << parsed.error().message;
    EXPECT_EQ(*parsed, expected) << url;
  }
  for (const std::string_view bad :
       {"https://x/", "x:1/", "http://", "http:///x", "http://a@b/", "http://a:1/x y", "http://a:1/#x",
        "http://a:99999/", "http://a:1/\r\n", "http://a:1/\xc3\xa9"}) {
    const auto parsed = parse_metaserver(bad);
    ASSERT_FALSE(parsed) << bad;
    EXPECT_EQ(parsed.error().param, "kv_transfer_params");
  }
}

}  // namespace
}  // namespace baton::serve
