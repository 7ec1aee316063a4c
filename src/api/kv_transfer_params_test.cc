#include "api/kv_transfer_params.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

namespace baton::api {
namespace {

Result<std::optional<KvTransferParams>> parse(std::string_view text) {
  return parse_kv_transfer_params(json::parse(text));
}

TEST(KvTransferParams, TakesWhatEveryVersionOfTheConnectorWrites) {
  struct Row {
    std::string_view text;
    std::vector<std::vector<int64_t>> blocks;
    std::optional<int32_t> tp;
    std::string_view request_id;
  };
  const std::vector<Row> rows = {
      {R"({"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[1,2],"remote_engine_id":"0",)"
       R"("remote_host":"10.0.0.1","remote_port":30000,"last_token_id":5})",
       {{1, 2}},
       std::nullopt,
       ""},
      {R"({"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[1,2],"remote_engine_id":"0",)"
       R"("remote_host":"10.0.0.1","remote_port":30000,"last_token_id":5,"remote_pcp_size":1,"remote_dcp_size":1,)"
       R"("remote_multi_nodes_meta_mapping":{"0":{"host":"h","engine_id":"0"}},"num_prompt_blocks":2})",
       {{1, 2}},
       std::nullopt,
       ""},
      {R"({"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[1,2],[3]],"remote_engine_id":"0",)"
       R"("remote_host":"10.0.0.1","remote_port":"30000","last_token_id":5,"remote_request_id":"cmpl-x","remote_ptp_size":"8",)"
       R"("remote_block_size":[128,128]})",
       {{1, 2}, {3}},
       8,
       "cmpl-x"},
      {R"([{"do_remote_prefill":true,"remote_block_ids":[1],"remote_engine_id":"0","remote_host":"10.0.0.1",)"
       R"("remote_port":30000,"remote_tp_size":"4","last_token_id":5}])",
       {{1}},
       4,
       ""},
  };
  for (const Row& row : rows) {
    const auto params = parse(row.text);
    ASSERT_TRUE(params && *params) << row.text;
    EXPECT_TRUE((*params)->do_remote_prefill);
    EXPECT_EQ((*params)->remote_block_ids, row.blocks);
    EXPECT_EQ((*params)->remote_port, 30000);
    EXPECT_EQ((*params)->last_token_id, 5);
    EXPECT_EQ((*params)->remote_ptp_size, row.tp);
    EXPECT_EQ((*params)->remote_request_id, row.request_id);
    EXPECT_FALSE((*params)->baton);
  }
  EXPECT_FALSE(parse("null").value());
  EXPECT_FALSE(parse("{}").value());
}

TEST(KvTransferParams, TheRequestToPHasTheSixKeys) {
  EXPECT_EQ(
      render_prefill_params(std::nullopt),
      R"({"do_remote_prefill":false,"do_remote_decode":true,"remote_block_ids":null,"remote_engine_id":null,)"
      R"("remote_host":null,"remote_port":null})");
  const std::string own = render_prefill_params(ClientLimits{.max_tokens = 9, .min_tokens = 2});
  EXPECT_NE(own.find(R"("baton":{"protocol":2,"client_max_tokens":9,"client_min_tokens":2})"),
            std::string::npos)
      << own;
  EXPECT_EQ((*parse(own))->baton->client, (ClientLimits{.max_tokens = 9, .min_tokens = 2}));
  EXPECT_EQ((*parse(render_prefill_params(ClientLimits{})))->baton->client, ClientLimits{});
}

KvTransferParams offer() {
  KvTransferParams params;
  params.do_remote_prefill = true;
  params.remote_block_ids = {{4, 5, 6}};
  params.remote_engine_id = "e\"1";
  params.remote_host = "::1";
  params.remote_port = 30008;
  params.remote_request_id = "cmpl-1-0";
  params.last_token_id = 17;
  params.num_prompt_blocks = 3;
  params.remote_ptp_size = 1;
  params.remote_pcp_size = 1;
  params.remote_dcp_size = 1;
  params.remote_block_size = 16;
  Offer& own = params.baton.emplace().offer.emplace();
  own.handover_id = random_id<HandoverId>();
  own.incarnation = random_id<Incarnation>();
  own.fingerprint = "f00d";
  own.prompt_hash = "beef";
  own.num_tokens = 40;
  own.block_size = 16;
  own.lease = std::chrono::milliseconds(30000);
  own.prompt_tokens = 40;
  own.cached_tokens = 16;
  for (int32_t choice = 0; choice < 2; ++choice) {
    FirstToken first;
    first.token = 17 + choice;
    first.drawn_with = {.temperature = 0.7F,
                        .top_p = 0.95F,
                        .top_k = 20,
                        .min_p = 0.1F,
                        .repetition_penalty = 1.05F,
                        .presence_penalty = -0.3F,
                        .frequency_penalty = 1e-7F,
                        .seed = 0xFFFFFFFFFFFFFFFFULL,
                        .choice = choice,
                        .logprobs = 1,
                        .masks_hash = "00ff"};
    first.logprobs =
        PositionLogprobs{{17, "", -0.105360545F, 1}, {{17, "", -0.105360545F, 1}, {3, "", -3.25e-20F, 2}}};
    own.first_tokens.push_back(first);
  }
  own.first_tokens[1].finish_reason = FinishReason::kStop;
  own.first_tokens[1].stop_reason = TokenId{9};
  return params;
}

TEST(KvTransferParams, AnOfferComesBackBitForBit) {
  const KvTransferParams params = offer();
  const std::string text = render_kv_transfer_params(params);
  const auto back = parse(text);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(**back, params) << text;
  EXPECT_TRUE(text.starts_with(
      R"({"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[4,5,6]],"remote_engine_id":)"));
}

TEST(KvTransferParams, EachMistakeNamesTheKey) {
  struct Row {
    std::string_view text;
    std::string_view message;
  };
  for (const Row& row :
       {Row{"1", "kv_transfer_params: 1, expected an object or a list of objects"},
        Row{"[1]", "kv_transfer_params[0]: 1, expected an object"},
        Row{R"({"remote_port":70000})",
            "kv_transfer_params.remote_port: 70000, expected a port from 0 to 65535"},
        Row{R"({"remote_block_ids":7})",
            "kv_transfer_params.remote_block_ids: 7, expected a list of block numbers, or one list per "
            "group"},
        Row{R"({"remote_block_ids":[1,-1]})",
            "kv_transfer_params.remote_block_ids[1]: -1, expected a block number"},
        Row{R"({"remote_block_ids":[[1],2]})",
            "kv_transfer_params.remote_block_ids: 2, expected one list per group"},
        Row{R"({"remote_block_ids":[[1],[1.5]]})",
            "kv_transfer_params.remote_block_ids[1][0]: 1.5, expected a block number"},
        Row{R"({"do_remote_prefill":"x"})",
            "kv_transfer_params.do_remote_prefill: \"x\", expected true or false"},
        Row{R"({"remote_host":1})", "kv_transfer_params.remote_host: 1, expected a string"},
        Row{R"({"remote_ptp_size":-1})",
            "kv_transfer_params.remote_ptp_size: -1, expected an integer from 0 to 2147483647"},
        Row{R"({"baton":1})", "kv_transfer_params.baton: 1, expected an object"},
        Row{R"({"baton":{"protocol":1}})", "kv_transfer_params.baton.protocol: 1, expected 2"},
        Row{R"({"baton":{"protocol":2,"offer":{"handover_id":"xy"}}})",
            "kv_transfer_params.baton.offer.handover_id: \"xy\", expected 32 hexadecimal digits"},
        Row{R"({"metaserver":1})", "kv_transfer_params.metaserver: 1, expected a string"},
        Row{R"({"baton":{"protocol":2,"landing":[]}})",
            "kv_transfer_params.baton.landing: [], expected an object"},
        Row{R"({"baton":{"protocol":2,"landing":{"transfer_id":"xy"}}})",
            "kv_transfer_params.baton.landing.transfer_id: \"xy\", expected 32 hexadecimal digits"},
        Row{R"([{"remote_port":1},{"remote_port":2}])",
            "kv_transfer_params[1]: another hand-over than [0], expected one for all choices"}}) {
    const auto params = parse(row.text);
    ASSERT_FALSE(params) << row.text;
    EXPECT_EQ(params.error().message, row.message);
    EXPECT_EQ(params.error().param, "kv_transfer_params");
  }
}

TEST(KvTransferParams, DsPostHasTheKeysOfTheLayerwiseConnectorAndPReadsItsLanding) {
  const MetaserverPost post{.request_id = "cmpl-x-0",
                            .block_ids = {7, 3},
                            .engine_id = "e\"",
                            .host = "fd00::2",
                            .port = 30200,
                            .tensor_parallel_size = 1,
                            .landing = {.transfer_id = TransferId{{1, 2}},
                                        .incarnation = Incarnation{{3, 4}},
                                        .fingerprint = "f00d",
                                        .prompt_hash = "beef",
                                        .num_tokens = 20,
                                        .cached_tokens = 16,
                                        .block_size = 16}};
  const std::string text = render_metaserver_post(post);
  EXPECT_EQ(
      text,
      R"({"request_id":"cmpl-x-0","token_ids":[],"do_remote_prefill":false,"do_remote_decode":true,)"
      R"("remote_block_ids":[[7,3]],"remote_block_size":[16],"remote_engine_id":"e\"","remote_host":"fd00::2",)"
      R"("remote_port":30200,"remote_tp_size":1,"remote_pcp_size":1,"remote_dcp_size":1,)"
      R"("remote_cached_tokens":16,"baton":{"protocol":2,"landing":{"transfer_id":")" +
          post.landing.transfer_id.hex() + R"(","incarnation":")" + post.landing.incarnation.hex() +
          R"(","fingerprint":"f00d","prompt_hash":"beef","num_tokens":20,"cached_tokens":16,"block_size":16}}})");
  const auto read = parse(text);
  ASSERT_TRUE(read && *read) << read.error().message;
  const KvTransferParams& params = **read;
  EXPECT_TRUE(params.do_remote_decode);
  EXPECT_FALSE(params.do_remote_prefill);
  EXPECT_EQ(params.remote_host, "fd00::2");
  EXPECT_EQ(params.remote_port, 30200);
  EXPECT_EQ(params.remote_engine_id, "e\"");
  EXPECT_EQ(params.remote_ptp_size, 1);
  EXPECT_EQ(params.remote_block_size, 16);
  ASSERT_TRUE(params.baton);
  EXPECT_EQ(params.baton->landing, post.landing);
  EXPECT_FALSE(params.baton->offer || params.baton->client);
  EXPECT_EQ(**parse(render_kv_transfer_params(params)), params);
}

TEST(KvTransferParams, PostsOfEveryVersionOfTheLayerwiseConnectorAreRead) {
  for (
      const std::string_view text :
      {R"({"token_ids":[],"request_id":"cmpl-x-0","do_remote_prefill":false,"do_remote_decode":true,)"
       R"("remote_block_ids":[1,2],"remote_engine_id":"2","remote_host":"10.0.0.2","remote_port":30200})",
       R"({"token_ids":[],"request_id":"chatcmpl-x","do_remote_prefill":false,"do_remote_decode":true,)"
       R"("remote_block_ids":[[1,2]],"remote_block_size":[128],"remote_engine_id":"2","remote_host":"10.0.0.2",)"
       R"("remote_port":"30200","remote_tp_size":"1","remote_pcp_size":1,"remote_dcp_size":1,"remote_cached_tokens":0})"}) {
    const auto params = parse(text);
    ASSERT_TRUE(params && *params) << params.error().message;
    EXPECT_TRUE((*params)->do_remote_decode);
    EXPECT_EQ((*params)->remote_block_ids, (std::vector<std::vector<int64_t>>{{1, 2}}));
    EXPECT_EQ((*params)->remote_port, 30200);
    EXPECT_FALSE((*params)->baton);
  }
}

TEST(KvTransferParams, TheRequestToDNamesTheMetaserverAsItWasGiven) {
  const std::string text = render_metaserver_params("http://[::1]:8000/v1/metaserver");
  EXPECT_EQ(
      text,
      R"({"do_remote_decode":false,"do_remote_prefill":true,"metaserver":"http://[::1]:8000/v1/metaserver"})");
  const auto params = parse(text);
  ASSERT_TRUE(params && *params);
  EXPECT_EQ((*params)->metaserver, "http://[::1]:8000/v1/metaserver");
  EXPECT_EQ(**parse(render_kv_transfer_params(**params)), **params);
}

TEST(Offer, IsRefusedByTheNameOfWhatDiffers) {
  const Offer own = *offer().baton->offer;
  EXPECT_EQ(offer_mismatch(own, own), "");
  Offer other = own;
  other.block_size = 32;
  EXPECT_EQ(offer_mismatch(other, own), "");
  other.num_tokens = 39;
  EXPECT_EQ(offer_mismatch(other, own), "num_tokens: 39 there, 40 here");
  other.prompt_hash = "dead";
  EXPECT_EQ(offer_mismatch(other, own), "prompt_hash: dead there, beef here");
  other.fingerprint = "cafe";
  EXPECT_EQ(offer_mismatch(other, own), "fingerprint: cafe there, f00d here");
}

}  // namespace
}  // namespace baton::api
