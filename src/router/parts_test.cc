#include "router/parts.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "api/response.h"
#include "router/pull_flow.h"

namespace baton::router {
namespace {

std::string answer(std::string_view id, std::vector<std::pair<int, std::string_view>> choices, int prompt,
                   int drawn) {
  std::string list;
  for (const auto& [index, text] : choices)
    list += fmt::format(R"({}{{"index":{},"text":"{}","logprobs":-0.1000000000000000000001}})",
                        list.empty() ? "" : ",", index, text);
  return fmt::format(
      R"({{"id":"cmpl-{}","object":"text_completion","created":{},"model":"m","choices":[{}],"usage":)"
      R"({{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":1}}}}}})",
      id, 100 + prompt, list, prompt, drawn, prompt + drawn);
}

// A request and its parts.
struct Parted {
  explicit Parted(std::string text)
      : body(std::move(text)), client(*read_client_body(Route::kCompletions, body)), parts(client, "id") {}
  std::vector<size_t> begin_all() {
    std::vector<size_t> begun;
    while (const auto part = parts.begin_next()) begun.push_back(*part);
    return begun;
  }
  void answered(size_t part, std::string text) {
    std::string none;
    parts.on_reply(part, {.body = std::move(text)}, "", none);
    EXPECT_EQ(none, "");
  }
  std::string body;
  ClientBody client;
  PartedAnswer parts;
};

TEST(Parts, EachPromptIsARequestOfItsOwnWithAllElseAsItWasWritten) {
  const Parted p(R"({"prompt":["a",  "b\n"],"seed":12345678901234567890,"n":2})");
  EXPECT_EQ(p.parts.body(0), R"({"seed":12345678901234567890,"n":2,"prompt":"a"})");
  EXPECT_EQ(p.parts.body(1), R"({"seed":12345678901234567890,"n":2,"prompt":"b\n"})");
  EXPECT_EQ(p.parts.request_id(1), "id-1");
  EXPECT_EQ(p.parts.place(1).first_choice, 2);
}

TEST(Parts, AtMostSoManyAreBegunAndTheNextOnesWhenSomeEnd) {
  std::string list;
  for (size_t i = 0; i < kPartsAtOnce + 3; ++i) list += list.empty() ? "[1]" : ",[1]";
  Parted p("{\"prompt\":[" + list + "]}");
  EXPECT_EQ(p.begin_all().size(), kPartsAtOnce);
  p.answered(5, answer("id-5", {{0, "x"}}, 1, 1));
  p.answered(3, answer("id-3", {{0, "x"}}, 1, 1));
  EXPECT_EQ(p.begin_all(), (std::vector<size_t>{kPartsAtOnce, kPartsAtOnce + 1}));
  EXPECT_FALSE(p.parts.is_over());
}

TEST(Parts, WholeAnswersAreJoinedInTheOrderOfTheirPromptsAndTheirUsagesAddUp) {
  Parted p(R"({"prompt":["a","b"],"n":2})");
  p.begin_all();
  p.answered(1, answer("id-1", {{0, "b0"}, {1, "b1"}}, 7, 5));
  EXPECT_FALSE(p.parts.is_over());
  p.answered(0, answer("id-0", {{0, "a0"}, {1, "a1"}}, 3, 4));
  ASSERT_TRUE(p.parts.is_over());
  const std::string exact = R"("logprobs":-0.1000000000000000000001})";
  EXPECT_EQ(p.parts.reply().body,
            R"({"id":"cmpl-id","object":"text_completion","created":103,"model":"m","choices":[)"
            R"({"index":0,"text":"a0",)" +
                exact + R"(,{"index":1,"text":"a1",)" + exact + R"(,{"index":2,"text":"b0",)" + exact +
                R"(,{"index":3,"text":"b1",)" + exact +
                R"(],"usage":{"prompt_tokens":10,"completion_tokens":9,"total_tokens":19,)"
                R"("prompt_tokens_details":{"cached_tokens":2}}})");
}

TEST(Parts, APartThatIsSplitHasOneRequestPerChoiceWithSeedsOfTheirOwnAndItsPromptCountsOnce) {
  Parted p(R"({"prompt":"a","n":3,"seed":7})");
  EXPECT_EQ(p.begin_all(), std::vector<size_t>{0});
  p.parts.split(0);
  EXPECT_EQ(p.begin_all(), (std::vector<size_t>{1, 2, 3}));
  EXPECT_EQ(p.parts.body(1), R"({"prompt":"a","n":1,"seed":7})");
  EXPECT_EQ(p.parts.body(3), R"({"prompt":"a","n":1,"seed":9})");
  for (const size_t part : {3U, 1U, 2U})
    p.answered(part, answer(fmt::format("id-{}", part), {{0, std::to_string(part)}}, 5, 2));
  ASSERT_TRUE(p.parts.is_over());
  const auto joined = *api::parse_json_object(p.parts.reply().body);
  EXPECT_EQ(joined.at("choices").at(2).at("index"), 2);
  EXPECT_EQ(joined.at("choices").at(2).at("text"), "3");
  EXPECT_EQ(joined.at("usage").at("prompt_tokens"), 5);
  EXPECT_EQ(joined.at("usage").at("completion_tokens"), 6);
  EXPECT_EQ(joined.at("usage").at("total_tokens"), 11);
  EXPECT_EQ(joined.at("usage").at("prompt_tokens_details").at("cached_tokens"), 1);
}

TEST(Parts, PromptsOfAListMayBeSplitTooWhileOthersAreNot) {
  Parted p(R"({"prompt":["a","b"],"n":2})");
  p.begin_all();
  p.parts.split(0);
  p.answered(1, answer("id-1", {{0, "b0"}, {1, "b1"}}, 1, 2));
  EXPECT_EQ(p.begin_all(), (std::vector<size_t>{2, 3}));
  p.answered(3, answer("id-3", {{0, "a1"}}, 1, 1));
  p.answered(2, answer("id-2", {{0, "a0"}}, 1, 1));
  const auto joined = *api::parse_json_object(p.parts.reply().body);
  std::string texts;
  for (const auto& choice : joined.at("choices").as_array())
    texts += std::string(choice.at("text").as_string()) + std::to_string(choice.at("index").as_int64()) + " ";
  EXPECT_EQ(texts, "a00 a11 b02 b13 ");
  EXPECT_EQ(joined.at("usage").at("prompt_tokens"), 2);
}

TEST(Parts, AStreamEndsWithOneUsageAndOneDone) {
  Parted p(R"({"prompt":["a","b"],"stream":true})");
  p.begin_all();
  const std::string usage =
      R"({"id":"cmpl-id","choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}})";
  std::string out;
  p.parts.on_reply(1, {.content_type = "text/event-stream; charset=utf-8", .body = "data: {}\n\n"}, usage,
                   out);
  EXPECT_EQ(out, "data: {}\n\n");
  p.parts.on_stream_end(0, usage);
  ASSERT_TRUE(p.parts.is_over());
  out.clear();
  p.parts.append_end(out);
  EXPECT_EQ(out,
            "data: {\"id\":\"cmpl-id\",\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":6,"
            "\"total_tokens\":10}}\n\ndata: [DONE]\n\n");
}

TEST(Parts, TheFirstFailureIsTheAnswerAndNothingElseBegins) {
  Parted p(R"({"prompt":["a","b","c"]})");
  ASSERT_EQ(p.parts.begin_next(), 0U);
  std::string out;
  p.parts.on_reply(0, {.status = 429, .body = "{\"error\":\n{}}", .retry_after = "7"}, "", out);
  EXPECT_TRUE(p.parts.is_over());
  EXPECT_TRUE(p.parts.has_failed());
  EXPECT_EQ(p.parts.begin_next(), std::nullopt);
  EXPECT_EQ(p.parts.reply().status, 429);
  EXPECT_EQ(p.parts.reply().retry_after, "7");
  p.parts.append_end(out);  // had its stream begun
  EXPECT_EQ(out, "data: {\"error\":{}}\n\n");
}

TEST(Parts, OfSeveralFailuresTheFirstIsTheAnswer) {
  Parted p(R"({"prompt":["a","b"]})");
  p.begin_all();
  std::string out;
  p.parts.on_reply(1, {.status = 429, .body = "{}", .retry_after = "7"}, "", out);
  p.parts.on_reply(0, {.status = 503, .body = "{}"}, "", out);
  EXPECT_EQ(p.parts.reply().status, 429);
  EXPECT_EQ(p.parts.reply().retry_after, "7");
}

TEST(Parts, AnswersThatAreTooLongTogetherAreAnErrorThatSaysSo) {
  Parted p(R"({"prompt":["a","b"]})");
  p.begin_all();
  const std::string half(kAnswerBytesMax / 2, 'x');
  p.answered(0, answer("id-0", {{0, half}}, 1, 1));
  EXPECT_FALSE(p.parts.has_failed());
  p.answered(1, answer("id-1", {{0, half}}, 1, 1));
  ASSERT_TRUE(p.parts.is_over());
  const Reply reply = p.parts.reply();
  EXPECT_EQ(reply.status, api::http_status(Code::kExhausted));
  EXPECT_NE(reply.body.find("the answers to 2 prompts are longer than 67108864 bytes in all"),
            std::string::npos)
      << reply.body.substr(0, 200);
}

TEST(Parts, AStreamThatBreaksOffHasSaidSoAlready) {
  Parted p(R"({"prompt":["a","b"],"stream":true})");
  p.begin_all();
  p.parts.on_broken(1);
  EXPECT_TRUE(p.parts.is_over());
  std::string out;
  p.parts.append_end(out);
  EXPECT_EQ(out, "");
}

// ---- the flow of a part ----

constexpr Time kNow{std::chrono::seconds(1)};

TEST(Parts, AFlowOfAPartNumbersItsChoicesNamesTheWholeAndLeavesUsageAndDoneToOthers) {
  Registry registry;
  registry.on_probe_ok(registry.add(Side::kPrefill, "p", 1, kNow), std::nullopt, kNow);
  registry.on_probe_ok(registry.add(Side::kDecode, "d", 1, kNow), std::nullopt, kNow);
  Parted p(R"({"prompt":["a","b"],"stream":true})");
  const auto head = p.parts.place(1).head;
  std::string out;
  for (const size_t part : {1U, 0U}) {
    const std::string body = p.parts.body(part);
    ClientBody client = *read_client_body(Route::kCompletions, body);
    client.part = p.parts.place(part);
    PullFlow flow(registry, {}, std::move(client), p.parts.request_id(part), 7);
    flow.start(kNow);
    flow.on_prefill(UpstreamAnswer{200, R"({"choices":[{"index":0}],"kv_transfer_params":{"a":1}})"}, kNow);
    flow.on_decode_head();
    const std::string name = fmt::format(R"("id":"cmpl-id-{}","created":{})", part, 50 + part);
    const std::string event = "{" + name + R"(,"choices":[{"index":0,"text":"x"}],"usage":{"a":1}})";
    const std::string usage = "{" + name + R"(,"choices":[],"usage":{"a":1}})";
    for (const std::string& data : {event, usage, std::string("[DONE]")})
      flow.on_event("data: " + data + "\n\n", data, out);
    out += std::get<End>(flow.on_stream_end({}, kNow)).events;
    EXPECT_EQ(flow.outcome(), "ok");
    EXPECT_FALSE(flow.has_failed());
    EXPECT_EQ(flow.usage_event(), R"({"id":"cmpl-id","created":51,"choices":[],"usage":{"a":1}})");
  }
  EXPECT_EQ(
      out,
      "data: "
      "{\"id\":\"cmpl-id\",\"created\":51,\"choices\":[{\"index\":1,\"text\":\"x\"}],\"usage\":{\"a\":1}}\n\n"
      "data: "
      "{\"id\":\"cmpl-id\",\"created\":51,\"choices\":[{\"index\":0,\"text\":\"x\"}],\"usage\":{\"a\":1}}"
      "\n\n");
}

TEST(Parts, AFlowOfAPartWhoseAnswerEndedWithItsFirstTokenIsNumberedToo) {
  Registry registry;
  const api::InstanceIdentity identity{
      .protocol = 1, .role = api::Role::kBoth, .hands_over = true, .fingerprint = "f"};
  registry.on_probe_ok(registry.add(Side::kPrefill, "p", 1, kNow), identity, kNow);
  registry.on_probe_ok(registry.add(Side::kDecode, "d", 1, kNow), identity, kNow);
  Parted p(R"({"prompt":["a","b"],"stream":true,"stream_options":{"include_usage":true}})");
  const std::string body = p.parts.body(1);
  ClientBody client = *read_client_body(Route::kCompletions, body);
  client.part = p.parts.place(1);
  PullFlow flow(registry, {}, std::move(client), p.parts.request_id(1), 7);
  flow.start(kNow);
  const Step step = flow.on_prefill(
      UpstreamAnswer{200, R"({"id":"cmpl-id-1","choices":[{"index":0,"text":"x"}],"usage":{"a":1}})"}, kNow);
  EXPECT_EQ(std::get<Reply>(step).body,
            "data: {\"id\":\"cmpl-id\",\"choices\":[{\"index\":1,\"text\":\"x\"}]}\n\n");
  EXPECT_EQ(flow.usage_event(), R"({"id":"cmpl-id","choices":[],"usage":{"a":1}})");
}

std::string receipt_of(std::string_view prompts) {
  return fmt::format(R"({{"version":1,"fingerprint":"f","prompts":[{}]}})", prompts);
}

TEST(Parts, TheReceiptOfAListHasThePromptsOfItsPartsInTheirOrder) {
  const std::string joined = receipt_of(R"({"seed":1,"x":[1,2]},{"seed":2})");
  Parted whole(R"({"prompt":["a","b"]})");
  whole.begin_all();
  whole.answered(1, R"({"id":"cmpl-id-1","choices":[],"receipt":)" + receipt_of(R"({"seed":2})") + "}");
  whole.answered(
      0, R"({"id":"cmpl-id-0","choices":[],"receipt":)" + receipt_of(R"({"seed":1,"x":[1,2]})") + "}");
  EXPECT_EQ(whole.parts.reply().body, R"({"id":"cmpl-id","choices":[],"receipt":)" + joined + "}");

  for (const std::string usage : {"", R"("usage":{"a":1},)"}) {
    Parted stream(R"({"prompt":["a","b"],"stream":true})");
    stream.begin_all();
    const auto last = [&](std::string_view prompts) {
      return R"({"id":"cmpl-id","choices":[],)" + usage + R"("receipt":)" + receipt_of(prompts) + "}";
    };
    stream.parts.on_stream_end(1, last(R"({"seed":2})"));
    stream.parts.on_stream_end(0, last(R"({"seed":1,"x":[1,2]})"));
    std::string out;
    stream.parts.append_end(out);
    const std::string sum = usage.empty() ? "" : R"("usage":{"a":2},)";
    EXPECT_EQ(out, R"(data: {"id":"cmpl-id","choices":[],)" + sum + R"("receipt":)" + joined +
                       "}\n\ndata: [DONE]\n\n");
  }
}

TEST(Parts, TheLastEventOfAPartIsKeptBackAlsoWithAReceiptAlone) {
  Parted p(R"({"prompt":["a","b"],"stream":true})");
  const std::string body = p.parts.body(1);
  ClientBody client = *read_client_body(Route::kCompletions, body);
  client.part = p.parts.place(1);
  EventMerger merger(client, nullptr);
  EXPECT_EQ(merger.merge(R"({"id":"cmpl-id-1","choices":[],"receipt":{"prompts":[]}})"), "");
  EXPECT_EQ(merger.usage_event(), R"({"id":"cmpl-id","choices":[],"receipt":{"prompts":[]}})");
}

}  // namespace
}  // namespace baton::router
