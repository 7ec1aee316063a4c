#include "router/bodies.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace baton::router {
namespace {

ClientBody chat(std::string_view body) { return *read_client_body(Route::kChat, body); }
ClientBody text(std::string_view body) { return *read_client_body(Route::kCompletions, body); }

TEST(Bodies, TheRequestToPIsVllmAscendsRewriting) {
  const auto sent = prefill_body(
      text(
          R"({"prompt": "x", "max_tokens": 50, "stream": true, "stream_options": {"include_usage": true}, "n": 2})"),
      false, 7);
  EXPECT_EQ(sent,
            R"({"prompt":"x","n":2,"kv_transfer_params":{"do_remote_prefill":false,"do_remote_decode":true,)"
            R"("remote_block_ids":null,"remote_engine_id":null,"remote_host":null,"remote_port":null},)"
            R"("stream":false,"max_tokens":1,"min_tokens":1})");
}

TEST(Bodies, MaxCompletionTokensIsRewrittenOnlyIfTheClientSentIt) {
  EXPECT_NE(
      prefill_body(chat(R"({"max_completion_tokens": 9})"), false, 7).find(R"("max_completion_tokens":1)"),
      std::string::npos);
  EXPECT_EQ(prefill_body(chat(R"({"max_tokens": 9})"), false, 7).find("max_completion_tokens"),
            std::string::npos);
}

TEST(Bodies, ABatonInstanceHearsTheClientsLimitsAndBothSidesTheSameSeed) {
  const auto client = chat(R"({"max_tokens": 50, "min_tokens": 3})");
  const std::string p = prefill_body(client, true, 7);
  EXPECT_NE(p.find(R"("seed":7)"), std::string::npos) << p;
  EXPECT_NE(p.find("50"), std::string::npos) << p;
  EXPECT_NE(decode_body(client, "", true, 7).find(R"("seed":7)"), std::string::npos);
  EXPECT_EQ(prefill_body(chat(R"({"seed": 1})"), true, 7).find(R"("seed":7)"), std::string::npos);
}

TEST(Bodies, AClientsOwnNameOfARequestStaysWithThoseWhoDoNotReadItAsOurs) {
  const auto client = text(R"({"request_id": "mine", "prompt": "a"})");
  for (const bool to_baton : {false, true}) {
    for (const std::string& body : {prefill_body(client, to_baton, 7), decode_body(client, "", to_baton, 7)})
      EXPECT_EQ(body.find("mine") == std::string::npos, to_baton) << body;
  }
}

TEST(Bodies, LimitsThatMakeNoSenseAreLeftForPToRefuseByTheirNames) {
  const std::vector<std::pair<std::string_view, bool>> rows = {
      {R"("max_tokens":-1)", true},
      {R"("max_completion_tokens":-7)", true},
      {R"("min_tokens":-1)", true},
      {R"("max_tokens":1099511627776)", true},
      {R"("max_tokens":"many")", true},
      {R"("max_tokens":1.5)", true},
      {R"("max_tokens":3,"min_tokens":4)", true},
      {R"("max_tokens":3,"max_completion_tokens":5,"min_tokens":4)", false},
      {R"("max_tokens":null)", false},
      {R"("max_tokens":"5")", false},
      {R"("max_tokens":5.0,"min_tokens":5)", false},
      {R"("max_tokens":0)", false},
  };
  for (const auto& [fields, stays] : rows) {
    const std::string body = fmt::format("{{{}}}", fields);
    for (const bool to_baton : {false, true}) {
      const std::string sent = prefill_body(text(body), to_baton, 7);
      EXPECT_EQ(sent.find(fields) != std::string::npos, stays) << sent;
      EXPECT_EQ(sent.find(R"("max_tokens":1,"min_tokens":1)") != std::string::npos, !stays) << sent;
      EXPECT_EQ(sent.find("client_min_tokens") != std::string::npos, to_baton && !stays) << sent;
    }
  }
  EXPECT_NE(prefill_body(text(R"({"max_tokens":"5"})"), true, 7).find(R"("client_max_tokens":5)"),
            std::string::npos);
}

TEST(Bodies, TheClientsOwnTransferParametersNeverReachAnInstance) {
  const auto client = chat(R"({"kv_transfer_params": {"remote_host": "evil"}, "a": 1})");
  EXPECT_EQ(prefill_body(client, false, 7).find("evil"), std::string::npos);
  EXPECT_EQ(decode_body(client, "", false, 7), R"({"a":1})");
  EXPECT_EQ(decode_body(client, R"({"remote_port":30000})", false, 7),
            R"({"a":1,"kv_transfer_params":{"remote_port":30000}})");
}

TEST(Bodies, NumbersAndOrderArePassedOnAsTheyWereWritten) {
  const auto client = text(R"({ "b" : 1.50 , "a" : 12345678901234567890, "prompt":[1,2] })");
  EXPECT_EQ(decode_body(client, "", false, 7), R"({"b":1.50,"a":12345678901234567890,"prompt":[1,2]})");
  EXPECT_TRUE(client.prompts.empty());
}

TEST(Bodies, SeveralPromptsAreTakenApartAsTheyWereWrittenAndWhatIsNoListOfPromptsIsNot) {
  using Prompts = std::vector<std::string_view>;
  const std::vector<std::pair<std::string_view, Prompts>> rows = {
      {R"(["a", "b"])", {R"("a")", R"("b")"}},
      {R"([ "a,]\\\"" ,"]" ])", {R"("a,]\\\"")", R"("]")"}},
      {"[[1, 2],[3]]", {"[1, 2]", "[3]"}},
      {R"(["a"])", {}},
      {"[1, 2, 3]", {}},
      {"[]", {}},
      {R"("a")", {}},
      {R"(["a", 1])", {}},
      {R"([["a"], [1]])", {}},
      {R"([[1], "a"])", {}},
      {"[[[1]], [1]]", {"[[1]]", "[1]"}},  // its part is refused
  };
  for (const auto& [prompt, expected] : rows) {
    const std::string body = fmt::format(R"({{"prompt":{}}})", prompt);
    EXPECT_EQ(text(body).prompts, expected) << prompt;
  }
}

TEST(Bodies, MorePromptsAndAnswersThanALimitAreRefusedByName) {
  std::string many = R"({"prompt":[)";
  for (int i = 0; i < 257; ++i) many += i == 0 ? "\"x\"" : ",\"x\"";
  EXPECT_EQ(read_client_body(Route::kCompletions, many + "]}").error().message,
            "prompt: 257 prompts, expected at most 256");
  many = R"({"n":"128","prompt":[)";
  for (int i = 0; i < 9; ++i) many += i == 0 ? "[1]" : ",[1]";
  EXPECT_EQ(read_client_body(Route::kCompletions, many + "]}").error().message,
            "n: 128 for each of 9 prompts is 1152 answers, expected at most 1024");
}

TEST(Bodies, WrongTypesOfWhatTheProxyReadsAreNamed) {
  const auto wrong = read_client_body(Route::kChat, R"({"stream": "yes"})");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().param, "stream");
  EXPECT_FALSE(read_client_body(Route::kChat, "[]"));
  EXPECT_FALSE(read_client_body(Route::kChat, "{"));
}

constexpr std::string_view kParams =
    R"({"do_remote_prefill":true,"remote_request_id":"id7","remote_port":30000})";

PrefillAnswer p_answer() {
  return *read_prefill_answer(
      R"({"choices":[{"index":0,"text":"ab","logprobs":{"tokens":["a","b","c"],)"
      R"("token_logprobs":[null,-1,-2],"top_logprobs":[null,{},{}],"text_offset":[0,1,2]},)"
      R"("prompt_logprobs":[null,{"1":{"rank":1}}]}],"usage":{"prompt_tokens":2,)"
      R"("prompt_tokens_details":{"cached_tokens":1}},"kv_transfer_params":)" +
      std::string(kParams) + "}");
}

TEST(Bodies, PromptLogprobsOfAStreamAreRefusedAsOneInstanceRefusesThem) {
  for (const Route route : {Route::kCompletions, Route::kChat}) {
    const auto refused = read_client_body(route, R"({"stream":true,"prompt_logprobs":1})");
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().message, "prompt_logprobs: 1, expected none when stream is true");
    EXPECT_EQ(refused.error().param, "prompt_logprobs");
    EXPECT_TRUE(read_client_body(route, R"({"stream":true,"prompt_logprobs":null})"));
    EXPECT_TRUE(read_client_body(route, R"({"stream":false,"prompt_logprobs":1})"));
  }
  EXPECT_TRUE(read_client_body(Route::kCompletions, R"({"stream":true,"echo":true,"logprobs":1})"));
}

TEST(Bodies, PsParametersComeOutByteForByte) {
  const auto p = p_answer();
  EXPECT_EQ(p.kv_transfer_params, kParams);
  EXPECT_EQ(p.remote_request_id, "id7");
  EXPECT_EQ(p.cached_tokens, 1);
  EXPECT_EQ(read_prefill_answer(R"({"choices":[],"kv_transfer_params":null})")->kv_transfer_params, "");
  EXPECT_FALSE(read_prefill_answer("nonsense"));
  EXPECT_FALSE(read_prefill_answer(R"({"error":{}})"));
}

TEST(Bodies, PsPartIsMergedIntoAWholeAnswer) {
  const auto p = p_answer();
  const auto merged = *whole_answer(
      text(R"({"prompt":"ab","echo":true,"logprobs":1,"prompt_logprobs":1})"), &p,
      R"({"choices":[{"index":0,"text":"abc","logprobs":{"tokens":["c"],"token_logprobs":[-3],"top_logprobs":[{}],)"
      R"("text_offset":[3]}}],"usage":{"prompt_tokens":2,"prompt_tokens_details":{"cached_tokens":2}}})");
  EXPECT_NE(merged.find(R"("tokens":["a","b","c"])"), std::string::npos) << merged;
  // D counted from the beginning of the prompt: P's own first token, which may begin inside a character, has
  // no say.
  EXPECT_NE(merged.find(R"("text_offset":[0,1,3])"), std::string::npos) << merged;
  EXPECT_NE(merged.find(R"("prompt_logprobs":[null,{"1":{"rank":1}}])"), std::string::npos) << merged;
  EXPECT_NE(merged.find(R"("cached_tokens":1)"), std::string::npos) << merged;
}

TEST(Bodies, EventsAreTouchedOnlyWherePsPartBelongs) {
  const PrefillAnswer of_p = p_answer();
  EventMerger plain(text(R"({"prompt":"ab"})"), &of_p);
  EXPECT_FALSE(plain.merge(R"({"choices":[{"index":0,"text":"x"}]})"));
  EXPECT_NE(plain.merge(R"({"choices":[],"usage":{"prompt_tokens_details":{"cached_tokens":9}}})")
                ->find(R"("cached_tokens":1)"),
            std::string::npos);
  EventMerger echo(text(R"({"prompt":"ab","echo":true,"logprobs":0})"), &of_p);
  const auto first = echo.merge(R"({"choices":[{"index":0,"text":"abx","logprobs":{"tokens":["x"]}}]})");
  ASSERT_TRUE(first);
  EXPECT_NE(first->find(R"("tokens":["a","b","x"])"), std::string::npos) << *first;
  EXPECT_FALSE(echo.merge(R"({"choices":[{"index":0,"text":"y","logprobs":{"tokens":["y"]}}]})"));
}

TEST(Bodies, LogprobsKeepEveryDigitAndOffsetsGoOnAfterThePrompt) {
  const auto client = text(R"({"prompt":"ab","echo":true,"logprobs":1})");
  const auto p = *read_prefill_answer(
      R"({"choices":[{"index":0,"logprobs":{"tokens":["a","b\"],","c"],)"
      R"("token_logprobs":[null,-26.607765197753906,-9],"top_logprobs":[null,{},{}],"text_offset":[0,1,5]}}],"usage":{"prompt_tokens":2}})");
  constexpr std::string_view kFromD =
      R"({"choices":[{"index":0,"logprobs":{"tokens":["c"],"token_logprobs":[-1.0150337219238281],)"
      R"("top_logprobs":[{}],"text_offset":[0]}}],"usage":{"prompt_tokens":2}})";
  EventMerger events(client, &p);
  for (const std::string& merged : {*whole_answer(client, &p, std::string(kFromD)), *events.merge(kFromD)}) {
    EXPECT_NE(merged.find(R"([null,-26.607765197753906,-1.0150337219238281])"), std::string::npos) << merged;
    EXPECT_NE(merged.find(R"("text_offset":[0,1,5])"), std::string::npos) << merged;
    EXPECT_NE(merged.find(R"("tokens":["a","b\"],","c"])"), std::string::npos) << merged;
  }
}

TEST(Bodies, PSpeaksForAPromptThatDComputedToo) {
  const auto client = text(R"({"prompt":"ab","echo":true,"logprobs":1})");
  constexpr std::string_view kFromD =
      R"({"choices":[{"index":0,"logprobs":{"tokens":["a","b","c"],"token_logprobs":[null,null,-7],)"
      R"("top_logprobs":[null,null,{}],"text_offset":[0,1,2]}}],"usage":{"prompt_tokens":2}})";
  const auto p = p_answer();
  EventMerger events(client, &p);
  for (const std::string& merged : {*whole_answer(client, &p, std::string(kFromD)), *events.merge(kFromD)}) {
    EXPECT_NE(merged.find(R"("tokens":["a","b","c"])"), std::string::npos) << merged;
    EXPECT_NE(merged.find(R"("token_logprobs":[null,-1,-7])"), std::string::npos) << merged;
    EXPECT_NE(merged.find(R"("text_offset":[0,1,2])"), std::string::npos) << merged;
  }
}

TEST(Bodies, AnAnswerThatEndedOnPBecomesAStream) {
  const auto p = *read_prefill_answer(
      R"({"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant",)"
      R"("content":"No"},"finish_reason":"length"}],"usage":{"prompt_tokens":2},"kv_transfer_params":null})");
  std::string events;
  for (const std::string& data :
       as_events(chat(R"({"stream":true,"stream_options":{"include_usage":true}})"), p))
    events += "data: " + data + "\n\n";
  EXPECT_NE(events.find(R"("delta":{"role":"assistant","content":""})"), std::string::npos) << events;
  EXPECT_NE(events.find(R"("delta":{"content":"No"})"), std::string::npos) << events;
  EXPECT_NE(events.find(R"("choices":[],"usage":{"prompt_tokens":2})"), std::string::npos) << events;
}

TEST(Bodies, ItsReceiptComesWithTheLastEvent) {
  const auto p =
      *read_prefill_answer(R"({"id":"1","choices":[{"index":0,"text":"No"}],"receipt":{"version":1}})");
  const auto events = as_events(text(R"({"prompt":"a","stream":true})"), p);
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].find("receipt"), std::string::npos) << events[0];
  EXPECT_EQ(events[1], R"({"id":"1","choices":[],"receipt":{"version":1}})");
}

}  // namespace
}  // namespace baton::router
