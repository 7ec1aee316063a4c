// Where a request says that its time went: in its answer, in the metrics, in spans.
#include "serve/door_testing.h"
#include "serve/request_spans.h"

namespace baton::serve {
namespace {

int64_t sum_of_parts(const json::value& timings) {
  int64_t sum = 0;
  for (const json::value& part : timings.at("parts").as_array()) sum += part.at("ns").as_int64();
  return sum;
}

TEST(Timings, OfAnAnswerAreAPartitionAndGivenToWhoAsks) {
  Door door;
  const std::string asked = R"("prompt":"x","max_tokens":5,"ignore_eos":true)";
  EXPECT_FALSE(door.complete(asked).whole().as_object().contains("timings"));
  const json::value whole = door.complete(asked + R"(,"timings":true)").whole();
  std::vector<json::value> found{whole.at("timings")};
  for (const char* options : {"", R"(,"stream_options":{"include_usage":true})"}) {
    const auto chunks =
        door.chat(R"("max_tokens":5,"stream":true,"timings":true)" + std::string(options)).chunks();
    for (size_t i = 0; i + 1 < chunks.size(); ++i) EXPECT_FALSE(chunks[i].as_object().contains("timings"));
    EXPECT_TRUE(chunks.back().at("choices").as_array().empty());
    EXPECT_EQ(has_usage(chunks.back()), *options != '\0');
    found.push_back(chunks.back().at("timings"));
  }
  found.push_back(door.complete(R"("prompt":["a","b"],"max_tokens":2,"timings":true)").whole().at("timings"));
  for (const json::value& timings : found) {
    EXPECT_EQ(sum_of_parts(timings), timings.at("total_ns").as_int64());
    EXPECT_EQ(timings.at("parts").at(0).at("phase"), "tokenise");
    EXPECT_EQ(timings.at("parts").at(0).at("at"), "instance");
    EXPECT_EQ(timings.at("parts").as_array().back().at("phase"), "deliver");
  }
}

double metric(const std::string& text, const std::string& line) {
  const size_t at = text.find("\n" + line + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + line.size() + 2));
}

TEST(Routes, MetricsCountEachRequestsLongestChoiceAndItsPrefillByToken) {
  Door door;
  ASSERT_EQ(door.complete(R"("prompt":"x","max_tokens":3,"ignore_eos":true,"n":2)").status, 200);
  const std::string text = door.ask("GET", "/metrics").body;
  const std::string labels = R"({model_name="m",engine="0"})";
  EXPECT_EQ(metric(text, "vllm:request_generation_tokens_sum" + labels), 6);
  EXPECT_EQ(metric(text, "vllm:request_max_num_generation_tokens_sum" + labels), 3);
  const double prefill = metric(text, "vllm:request_prefill_time_seconds_sum" + labels);
  const double prompt = metric(text, "vllm:request_prompt_tokens_sum" + labels);
  EXPECT_NEAR(metric(text, "vllm:time_per_prefill_token_request_seconds_sum" + labels), prefill / prompt,
              1e-12);
}

TEST(Timings, InTheMetricsThePhasesOfRequestsAddUpToTheirLatency) {
  Door door;
  for (int i = 0; i < 5; ++i) ASSERT_EQ(door.chat(R"("max_tokens":4,"ignore_eos":true)").status, 200);
  const std::string text = door.ask("GET", "/metrics").body;
  const std::string labels = R"(model_name="m",engine="0")";
  double sum = 0;
  for (size_t phase = 0; phase < kPhases; ++phase) {
    const double part = metric(text, fmt::format("baton:request_phase_seconds_sum{{{},phase=\"{}\"}}", labels,
                                                 phase_name(static_cast<Phase>(phase))));
    EXPECT_GE(part, 0) << phase;
    sum += part;
  }
  EXPECT_GT(sum, 0);
  EXPECT_NEAR(sum, metric(text, "vllm:e2e_request_latency_seconds_sum{" + labels + "}"), 1e-9);
  EXPECT_EQ(metric(text, "vllm:request_queue_time_seconds_count{" + labels + "}"), 5);
}

TEST(Spans, OfARequestAreBelowItsSendersAndItsPhasesBelowThem) {
  const std::optional<traces::TraceContext> sender =
      traces::parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  Timeline line(Phase::kTokenise, {Duration(10)});
  line.enter(Phase::kPrefill, {Duration(30)});
  line.end({Duration(90)});
  engine::SamplingParams sampling;
  sampling.n = 2;
  EndedRequest ended{.name = "r",
                     .model = "m",
                     .at = "decode",
                     .timeline = &line,
                     .sampling = &sampling,
                     .prompt_tokens = 3,
                     .output_tokens = 4,
                     .first_token = Duration(50)};
  const auto spans = request_spans(ended, sender);
  ASSERT_EQ(spans.size(), 3U);
  EXPECT_EQ(spans[0].name, "llm_request");
  EXPECT_EQ(spans[0].parent, sender->span);
  EXPECT_EQ(spans[0].place.trace, sender->trace);
  EXPECT_EQ(spans[1].parent, spans[0].place.span);
  EXPECT_EQ(spans[1].begin, spans[0].begin);
  EXPECT_EQ(spans[2].name, "prefill");
  EXPECT_EQ(spans[2].end, spans[0].end);
  const auto has = [&](std::string_view key, const traces::AttributeValue& value) {
    return std::ranges::count(spans[0].attributes, traces::Attribute{std::string(key), value}) == 1;
  };
  EXPECT_TRUE(has("gen_ai.usage.prompt_tokens", int64_t{3}));
  EXPECT_TRUE(has("gen_ai.usage.completion_tokens", int64_t{4}));
  EXPECT_TRUE(has("gen_ai.request.n", int64_t{2}));
  EXPECT_TRUE(has("gen_ai.request.id", std::string("r")));
  EXPECT_TRUE(has("gen_ai.latency.time_to_first_token", 50e-9));
  EXPECT_TRUE(has("gen_ai.latency.time_in_model_prefill", 60e-9));
  ended.has_parts = false;
  EXPECT_EQ(request_spans(ended, sender).size(), 1U);
  traces::TraceContext unrecorded = *sender;
  unrecorded.flags = 0;
  EXPECT_TRUE(request_spans(ended, unrecorded).empty());
  EXPECT_EQ(request_spans(ended, std::nullopt)[0].parent, 0U);
}

}  // namespace
}  // namespace baton::serve
