#include "serve/debug_text.h"

#include <gtest/gtest.h>

#include <chrono>
#include <limits>

namespace baton::serve {
namespace {

using std::chrono::milliseconds;

TEST(FillMetrics, TakesGaugesAndCountersOfTheEngineAndLeavesTheDoors) {
  EngineReport report;
  report.stats.requests_running = 2;
  report.stats.requests_waiting = 3;
  report.stats.blocks_total = 8;
  report.stats.blocks_free = 6;
  report.stats.blocks_held = 1;
  report.stats.blocks_landing = 4;
  report.stats.preemptions = 5;
  report.stats.handover_bytes = 4096;
  report.stats.handovers_taken = 1;
  report.stats.handovers_landed = 10;
  report.stats.handovers_released = 7;
  report.stats.handovers_failed = 9;
  report.stats.handover_exposed.observe(milliseconds(3));
  report.stats.handover_hidden.observe(milliseconds(30));
  report.stats.observe_step(3);
  report.stats.observe_step(300);
  api::ServeMetrics metrics;
  metrics.clients_gone = 77;
  metrics.handover_time_s.observe(1);
  fill_metrics(report, metrics);
  EXPECT_EQ(metrics.requests_running, 2);
  EXPECT_EQ(metrics.requests_waiting, 3);
  EXPECT_EQ(metrics.kv_blocks_total, 8);
  EXPECT_EQ(metrics.kv_blocks_free, 6);
  EXPECT_EQ(metrics.kv_blocks_held, 1);
  EXPECT_EQ(metrics.kv_blocks_landing, 4);
  EXPECT_EQ(metrics.kv_cache_usage, 0.25);
  EXPECT_EQ(metrics.preemptions, 5U);
  EXPECT_EQ(metrics.handover_bytes, 4096U);
  EXPECT_EQ(metrics.handovers["done"], 11U);
  EXPECT_EQ(metrics.handovers["released"], 7U);
  EXPECT_EQ(metrics.handovers["failed"], 9U);
  EXPECT_EQ(metrics.clients_gone, 77U);
  EXPECT_EQ(metrics.handover_exposed_s.count(), 1U);
  EXPECT_EQ(metrics.handover_exposed_s.sum(), 0.003);
  EXPECT_EQ(metrics.handover_hidden_s.counts()[4], 1U);  // 20 to 40 ms
  const std::string text = api::render_metrics(metrics);
  for (const char* line : {"vllm:iteration_tokens_total_sum{model_name=\"\",engine=\"0\"} 303\n",
                           "vllm:iteration_tokens_total_bucket{model_name=\"\",engine=\"0\",le=\"8.0\"} 1\n"})
    EXPECT_NE(text.find(line), std::string::npos) << text;
  // Again is not twice: the engine counts, the exposition shows.
  fill_metrics(report, metrics);
  EXPECT_EQ(metrics.handovers["done"], 11U);
}

TEST(FillMetrics, AnEngineWithoutBlocksUsesNone) {
  api::ServeMetrics metrics;
  fill_metrics({}, metrics);
  EXPECT_EQ(metrics.kv_cache_usage, 0.0);
}

TEST(DebugRequests, SayWhatEachWaitsForAndHowLong) {
  const Time now{std::chrono::seconds(100)};
  EngineReport report;
  report.stats.blocks_total = 8;
  report.stats.blocks_free = 5;
  report.stats.blocks_held = 2;
  report.stats.blocks_landing = 1;
  engine::RequestSnapshot waiting;
  waiting.external_id = "a\"b";
  waiting.state = "queued";
  waiting.waits_for = "a turn";
  waiting.since = now - milliseconds(1500);
  waiting.until = now + milliseconds(250);
  waiting.priority = -3;
  waiting.prompt_tokens = 5;
  engine::RequestSnapshot running;
  running.external_id = "r";
  running.state = "decode";
  running.since = now;
  running.prompt_tokens = 16;
  running.computed_tokens = 18;
  running.output_tokens = 3;
  running.blocks = 2;
  report.requests = {waiting, running};
  Timeline line(Phase::kQueue, now);
  line.enter(Phase::kHandover, now + milliseconds(1));
  line.enter(Phase::kPrefill, now + milliseconds(4));
  line.enter(Phase::kDecodeWait, now + milliseconds(6));
  line.enter(Phase::kDecode, now + milliseconds(7));
  line.end(now + milliseconds(10));
  RecentRequests recent;
  recent.add({.request_id = "old",
              .prompt_tokens = 9,
              .cached_tokens = 4,
              .output_tokens = 2,
              .held = false,
              .remote = true,
              .recomputed = true,
              .timeline = line,
              .outcome = "finished"});
  EXPECT_EQ(
      render_debug_requests(report, recent, now),
      R"({"requests":[{"request_id":"a\"b","state":"queued","waits_for":"a turn","since_ms":1.5E3,"until_ms":2.5E2,"priority":-3,"prompt_tokens":5,"computed_tokens":0,"output_tokens":0,"kv_blocks":0},)"
      R"({"request_id":"r","state":"decode","waits_for":"","since_ms":0E0,"until_ms":null,"priority":0,"prompt_tokens":16,"computed_tokens":18,"output_tokens":3,"kv_blocks":2}],)"
      R"("recent":[{"request_id":"old","outcome":"finished","prompt_tokens":9,"cached_tokens":4,"output_tokens":2,"held":false,"remote":true,"recomputed":true,"queue_ms":1E0,"prefill_ms":2E0,"handover_ms":3E0,"decode_ms":4E0,"parts":[{"phase":"queue","ns":1000000},{"phase":"handover","ns":3000000},{"phase":"prefill","ns":2000000},{"phase":"decode_wait","ns":1000000},{"phase":"decode","ns":3000000}]}],)"
      R"("kv_blocks":{"total":8,"free":5,"held":2,"landing":1}})");
}

TEST(RecentRequests, ForgetTheOldestOfTooMany) {
  RecentRequests recent;
  for (size_t i = 0; i < kRecentMax + 3; ++i) {
    RecentRequest one;
    one.request_id = std::to_string(i);
    recent.add(std::move(one));
  }
  EXPECT_EQ(recent.entries().size(), kRecentMax);
  EXPECT_EQ(recent.entries().front().request_id, "3");
  EXPECT_EQ(recent.entries().back().request_id, std::to_string(kRecentMax + 2));
}

}  // namespace
}  // namespace baton::serve
