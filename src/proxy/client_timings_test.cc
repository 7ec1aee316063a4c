#include "proxy/client_timings.h"

#include <boost/json/parse.hpp>

#include "proxy/request_trace.h"
#include "proxy/testing.h"

namespace baton::proxy {
namespace {
namespace json = boost::json;

// What instances of either kind say of a request, in much less time than it takes.
const std::string kOfP = R"({"total_ns":30,"parts":[{"at":"prefill","phase":"tokenise","ns":10},)"
                         R"({"at":"prefill","phase":"prefill","ns":20}]})";
const std::string kOfD = R"({"total_ns":5,"parts":[{"at":"decode","phase":"handover","ns":2},)"
                         R"({"at":"decode","phase":"decode","ns":3}]})";
const ScriptedAnswer kPrefilled{
    .pieces = {R"({"choices":[{"index":0}],"kv_transfer_params":{"remote_request_id":"h"},"timings":)" +
               kOfP + "}"}};

// "at.phase" of each part; the parts add up.
std::string parts_of(const json::value& timings) {
  std::string names;
  int64_t sum = 0;
  for (const json::value& part : timings.at("parts").as_array()) {
    names += fmt::format("{}{}.{}", names.empty() ? "" : " ", part.at("at").as_string().c_str(),
                         part.at("phase").as_string().c_str());
    sum += part.at("ns").as_int64();
  }
  EXPECT_EQ(sum, timings.at("total_ns").as_int64());
  return names;
}

json::value timings_in(const std::string& text, std::string_view before) {
  const size_t at = text.find(before);
  if (at == std::string::npos) return nullptr;
  const size_t begin = text.find('{', at);
  const size_t end = text.find_first_of("\r\n", begin);
  return json::parse(text.substr(begin, end - begin)).at("timings");
}

constexpr const char* kWhole =
    "proxy.route prefill.tokenise prefill.prefill proxy.gap decode.handover decode.decode "
    "proxy.gap";

class ClientTimings : public testing::Test {
 protected:
  void SetUp() override {
    options::ProxyOptions options;
    options.health_interval = std::chrono::hours(1);
    proxy_ = std::make_unique<RunningProxy>(std::move(options));
    proxy_->add(router::Side::kPrefill, p_);
    proxy_->add(router::Side::kDecode, d_);
    ASSERT_TRUE(proxy_->becomes([](const Hub& hub) {
      return std::ranges::all_of(hub.registry.instances(),
                                 [](const auto& i) { return i->health == router::Health::kUp; });
    }));
    p_.script({kPrefilled, kPrefilled});
  }

  FakeInstance p_{identity_of(api::Role::kPrefill)};
  FakeInstance d_{identity_of(api::Role::kDecode)};
  std::unique_ptr<RunningProxy> proxy_;
};

TEST_F(ClientTimings, OfAWholeAnswerAreThoseOfProxyPAndD) {
  d_.script({{.pieces = {R"({"choices":[{"index":0}],"timings":)" + kOfD + "}"}}});
  const std::string answer = proxy_->post(R"({"prompt":"x","timings":true})");
  EXPECT_EQ(parts_of(timings_in(answer, R"({"choices")")), kWhole);
}

TEST_F(ClientTimings, OfAStreamComeWithItsLastEvent) {
  const std::string text = R"(data: {"choices":[{"index":0,"text":"\"timings\":{}"}]})"
                           "\n\n";
  d_.script({{.pieces = {text, "data: {\"choices\":[],\"timings\":" + kOfD + "}\n\ndata: [DONE]\n\n"},
              .is_stream = true}});
  const std::string answer = proxy_->post(R"({"prompt":"x","stream":true,"timings":true})");
  EXPECT_NE(answer.find(text), std::string::npos) << answer;
  EXPECT_EQ(parts_of(timings_in(answer, R"({"choices":[],)")), kWhole);
  EXPECT_NE(answer.find("data: [DONE]\n\n"), std::string::npos);
}

TEST_F(ClientTimings, OfAnAnswerThatEndsOnPComeFromP) {
  const ScriptedAnswer ended{.pieces = {R"({"choices":[{"index":0,"text":"a"}],"timings":)" + kOfP + "}"}};
  p_.script({ended, ended});
  const std::string whole = proxy_->post(R"({"prompt":"x","timings":true})");
  const std::string parts = parts_of(timings_in(whole, R"({"choices")"));
  EXPECT_TRUE(parts.starts_with("proxy.route prefill.tokenise prefill.prefill proxy.gap")) << parts;
  const std::string stream = proxy_->post(R"({"prompt":"x","stream":true,"timings":true})");
  EXPECT_EQ(stream.find("timings"), stream.rfind("timings")) << stream;  // once
  EXPECT_TRUE(parts_of(timings_in(stream, R"({"choices":[],)")).starts_with("proxy.route prefill.tokenise"));
}

TEST_F(ClientTimings, AreNotLookedForWhereNobodyAsks) {
  const std::string body = R"({"choices":[{"index":0}],"timings":)" + kOfD + "}";
  d_.script({{.pieces = {body}}});
  EXPECT_NE(proxy_->post(R"({"prompt":"x","timings":false})").find(kOfD), std::string::npos);
}

TEST(EventsWithTimings, AreTheSameBytesButForTheTimings) {
  const router::FlowTimes times{.decode_asked = Time{Duration(1)}};
  const std::string events =
      "data: {\"a\":1}\n\ndata: {\"timings\":" + kOfD + "}\n\n: note\n\ndata: {\"b\":2}\n\n";
  const std::string changed = events_with_timings(events, {}, times, Time{Duration(10)});
  EXPECT_TRUE(changed.starts_with("data: {\"a\":1}\n\ndata: {\"timings\":{\"total_ns\":10,")) << changed;
  EXPECT_TRUE(changed.ends_with("}\n\n: note\n\ndata: {\"b\":2}\n\n")) << changed;
  EXPECT_EQ(events_with_timings("data: {\"a\":1}\n\n", {}, times, Time{Duration(10)}), "");
  EXPECT_EQ(events_with_timings("data: {\"timings\":1", {}, times, Time{Duration(10)}), "");
}

// Without a collector the client's trace goes on as it is; with one, instances are below the proxy's span.
TEST_F(ClientTimings, TheClientsTraceGoesThroughTheProxysSpan) {
  constexpr const char* kParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
  http::Request request;
  request.headers.add("traceparent", kParent);
  request.headers.add("tracestate", "a=b");
  proxy_->on_hub([&](Hub& hub) {
    {
      const RequestTrace off(hub, request, "/v1/completions");
    }
    EXPECT_EQ(request.headers.get("traceparent"), kParent);
    hub.spans = std::make_unique<traces::SpanExporter>(
        hub.loop, traces::exporter_options({"127.0.0.1", 1}, "/v1/traces", "test"));
    {
      const RequestTrace trace(hub, request, "/v1/completions");
      const auto place = traces::context_of(request.headers);
      EXPECT_EQ(place->trace.hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
      EXPECT_NE(place->span, 0x00f067aa0ba902b7U);
      EXPECT_EQ(place->state, "a=b");
      EXPECT_EQ(hub.upstream_headers(&request, "r").get("traceparent"), traces::traceparent_text(*place));
    }
    EXPECT_EQ(hub.spans->queued(), 0U);  // the client does not record its trace
    request.headers.set("traceparent", "00-not-a-trace-01");
    {
      RequestTrace trace(hub, request, "/v1/completions");
      EXPECT_TRUE(traces::context_of(request.headers)->is_sampled());
    }
    EXPECT_EQ(hub.spans->queued(), 1U);
    return 0;
  });
}

}  // namespace
}  // namespace baton::proxy
