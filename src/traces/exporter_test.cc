// The exporter before a collector that answers by a script.
#include "traces/exporter.h"

#include <gtest/gtest.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <deque>
#include <mutex>

#include "http/server.h"
#include "http/testing.h"

namespace baton::traces {
namespace {
namespace json = boost::json;
using std::chrono::milliseconds;

// Statuses in order, then 200 for ever; 0: holds the request until the other side leaves.
class FakeCollector {
 public:
  explicit FakeCollector(std::deque<int> statuses = {}) : statuses_(std::move(statuses)) {
    auto listener = net::listen({"127.0.0.1", 0});
    CHECK(listener.has_value());
    thread_.call([&] {
      server_ = std::make_unique<http::Server>(
          thread_.loop(), std::move(*listener), http::ServerOptions{},
          [this](http::Request& request, http::ResponseWriter& writer) { return answer(request, writer); });
      server_->start();
      at_ = net::to_address(server_->local());
    });
  }
  ~FakeCollector() {
    thread_.call([this] { server_.reset(); });
  }

  const net::Address& at() const { return at_; }
  void set_body(std::string body) { body_ = std::move(body); }
  // "target content-type body" of each request.
  std::vector<std::string> heard() {
    const std::lock_guard lock(mutex_);
    return heard_;
  }

 private:
  http::Awaitable<void> answer(http::Request& request, http::ResponseWriter& writer) {
    int status = 200;
    {
      const std::lock_guard lock(mutex_);
      heard_.push_back(request.target + " " + std::string(request.headers.get("Content-Type").value_or("")) +
                       " " + request.body);
      if (!statuses_.empty()) {
        status = statuses_.front();
        statuses_.pop_front();
      }
    }
    if (status == 0) {
      const auto slept = co_await thread_.loop().sleep(std::chrono::seconds(60));
      co_return;
    }
    writer.send(status, "application/json", body_);
  }

  std::mutex mutex_;
  std::deque<int> statuses_;
  std::string body_ = "{}";
  std::vector<std::string> heard_;
  net::Address at_;
  std::unique_ptr<http::Server> server_;
  http::LoopThread thread_;
};

// An exporter on a loop of its own.
class Exporting {
 public:
  explicit Exporting(net::Address to) {
    ExporterOptions options{.to = std::move(to),
                            .target = "/v1/traces",
                            .resource = {{"service.name", "test"}},
                            .interval = milliseconds(1),
                            .timeout = milliseconds(200),
                            .retry_delay = milliseconds(1)};
    thread_.call([&] { exporter_.emplace(thread_.loop(), std::move(options)); });
  }
  ~Exporting() {
    thread_.call([this] { exporter_.reset(); });
  }
  void add(size_t count) {
    thread_.call([&] { exporter_->add(spans(count)); });
  }
  ExporterCounters counters() {
    return thread_.call([this] { return exporter_->counters(); });
  }
  // Until so many spans have left the queue, one way or the other.
  ExporterCounters await(uint64_t spans) {
    for (int i = 0; i < 2000; ++i) {
      const ExporterCounters now = counters();
      if (now.exported + now.dropped >= spans) return now;
      std::this_thread::sleep_for(milliseconds(5));
    }
    return counters();
  }
  void flush(Duration limit) { thread_.await(exporter_->flush(limit)); }

  static std::vector<Span> spans(size_t count) {
    std::vector<Span> out(count);
    for (size_t i = 0; i < count; ++i) {
      out[i].place = begin_span(std::nullopt);
      out[i].name = "span " + std::to_string(i);
    }
    return out;
  }

 private:
  http::LoopThread thread_;
  std::optional<SpanExporter> exporter_;
};

size_t spans_in(const std::string& heard) {
  const json::value body = json::parse(heard.substr(heard.find('{')));
  return body.at("resourceSpans").at(0).at("scopeSpans").at(0).at("spans").as_array().size();
}

TEST(Otlp, ASpanIsWrittenAsTheProtocolSays) {
  TraceContext place = *parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  place.state = "a=b";
  const DatedSpan dated{{.place = place,
                         .parent = 0xABC,
                         .parent_is_remote = true,
                         .name = "llm \"request\"",
                         .kind = SpanKind::kServer,
                         .begin = {std::chrono::seconds(5)},
                         .end = {std::chrono::seconds(6)},
                         .attributes = {{"t", std::string("x")}, {"i", int64_t{7}}, {"d", 0.5}, {"b", true}},
                         .error = "broken"},
                        WallClock({std::chrono::seconds(5)}, 1'700'000'000'000'000'001)};
  EXPECT_EQ(
      render_spans({&dated, 1}, {{"service.name", std::string("s")}}),
      R"({"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"s"}}]},)"
      R"("scopeSpans":[{"scope":{"name":"baton","version":")" BATON_VERSION R"("},"spans":[)"
      R"({"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00f067aa0ba902b7","parentSpanId":"0000000000000abc",)"
      R"("traceState":"a=b","flags":769,"name":"llm \"request\"","kind":2,)"
      R"("startTimeUnixNano":"1700000000000000001","endTimeUnixNano":"1700000001000000001",)"
      R"("attributes":[{"key":"t","value":{"stringValue":"x"}},{"key":"i","value":{"intValue":"7"}},)"
      R"({"key":"d","value":{"doubleValue":0.5}},{"key":"b","value":{"boolValue":true}}],)"
      R"("status":{"code":2,"message":"broken"}}]}]}]})");
}

TEST(Otlp, PartsFollowEachOtherWithinTheirParent) {
  Timeline line(Phase::kQueue, {Duration(100)});
  line.enter(Phase::kPrefill, {Duration(130)});
  line.enter(Phase::kDecode, {Duration(190)});
  line.end({Duration(200)});
  Span parent{.place = begin_span(std::nullopt), .name = "p", .begin = line.begin(), .end = line.end()};
  std::vector<Span> children;
  append_phases(parent, line, children);
  ASSERT_EQ(children.size(), 3U);
  EXPECT_EQ(children[1].name, "prefill");
  EXPECT_EQ(children.front().begin, parent.begin);
  EXPECT_EQ(children.back().end, parent.end);
  for (size_t i = 0; i < children.size(); ++i) {
    EXPECT_EQ(children[i].parent, parent.place.span);
    EXPECT_EQ(children[i].place.trace, parent.place.trace);
    if (i > 0) EXPECT_EQ(children[i].begin, children[i - 1].end);
  }
}

TEST(Otlp, WhatACollectorRefusesIsRead) {
  EXPECT_EQ(rejected_spans(R"({"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}})"), 3U);
  EXPECT_EQ(rejected_spans(R"({"partialSuccess":{"rejectedSpans":4}})"), 4U);
  EXPECT_EQ(rejected_spans(R"({"partialSuccess":{}})"), 0U);
  EXPECT_EQ(rejected_spans("not json"), 0U);
}

TEST(Exporter, SendsWhatItIsGivenInBatches) {
  FakeCollector collector;
  Exporting exporting(collector.at());
  exporting.add(3);
  EXPECT_EQ(exporting.await(3).exported, 3U);
  ASSERT_EQ(collector.heard().size(), 1U);
  EXPECT_TRUE(collector.heard()[0].starts_with("/v1/traces application/json {\"resourceSpans\""));
  EXPECT_EQ(spans_in(collector.heard()[0]), 3U);
  exporting.add(kSpansPerBatchMax + 5);
  EXPECT_EQ(exporting.await(kSpansPerBatchMax + 8).exported, kSpansPerBatchMax + 8);
  ASSERT_EQ(collector.heard().size(), 3U);
  EXPECT_EQ(spans_in(collector.heard()[1]), kSpansPerBatchMax);
}

TEST(Exporter, TriesAgainWhatTheCollectorCannotTakeNow) {
  FakeCollector collector({503, 429});
  Exporting exporting(collector.at());
  exporting.add(2);
  const ExporterCounters counters = exporting.await(2);
  EXPECT_EQ(counters.exported, 2U);
  EXPECT_EQ(counters.dropped, 0U);
  EXPECT_EQ(collector.heard().size(), 3U);
}

TEST(Exporter, DropsWhatIsRefusedAndGoesOn) {
  FakeCollector collector({400, 500, 502, 502, 502});
  Exporting exporting(collector.at());
  for (const uint64_t so_far : {1U, 2U, 3U}) {
    exporting.add(1);
    EXPECT_EQ(exporting.await(so_far).dropped, so_far);
  }
  EXPECT_EQ(collector.heard().size(), 1U + 1U + kExportAttempts);
  exporting.add(1);
  EXPECT_EQ(exporting.await(4).exported, 1U);
}

TEST(Exporter, CountsWhatAPartialSuccessLeavesOut) {
  FakeCollector collector;
  collector.set_body(R"({"partialSuccess":{"rejectedSpans":"2"}})");
  Exporting exporting(collector.at());
  exporting.add(5);
  const ExporterCounters counters = exporting.await(5);
  EXPECT_EQ(counters.exported, 3U);
  EXPECT_EQ(counters.dropped, 2U);
}

TEST(Exporter, ACollectorThatHangsOrIsAwayCostsSpansOnly) {
  FakeCollector hanging({0, 0, 0});
  Exporting exporting(hanging.at());
  // The queue takes all or nothing of a request, and is bounded while a batch is on its way.
  exporting.add(kSpansPerBatchMax);
  while (hanging.heard().empty()) std::this_thread::sleep_for(milliseconds(1));
  exporting.add(kSpansQueuedMax - 1);
  exporting.add(2);
  EXPECT_EQ(exporting.counters().dropped, 2U);
  exporting.add(1);
  EXPECT_EQ(exporting.counters().dropped, 2U);
  EXPECT_EQ(exporting.await(kSpansPerBatchMax + 2).dropped, kSpansPerBatchMax + 2);

  net::Address nobody;
  {
    const FakeCollector gone;
    nobody = gone.at();
  }
  Exporting away(nobody);
  away.add(4);
  EXPECT_EQ(away.await(4).dropped, 4U);
}

TEST(Exporter, FlushSendsWhatIsThereAndDoesNotWaitForEver) {
  FakeCollector collector;
  Exporting exporting(collector.at());
  exporting.add(300);
  exporting.flush(std::chrono::seconds(20));
  EXPECT_EQ(exporting.counters().exported, 300U);
  exporting.flush(std::chrono::seconds(20));  // nothing is there

  FakeCollector hanging({0, 0, 0, 0});
  Exporting stuck(hanging.at());
  stuck.add(1);
  stuck.flush(milliseconds(20));
  EXPECT_EQ(stuck.counters().exported, 0U);
}

}  // namespace
}  // namespace baton::traces
