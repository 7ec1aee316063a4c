#include "serve/debug_text.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

namespace baton::serve {
namespace json = boost::json;

void fill_metrics(const EngineReport& report, api::ServeMetrics& metrics) {
  const engine::EngineStats& stats = report.stats;
  metrics.requests_running = stats.requests_running;
  metrics.requests_waiting = stats.requests_waiting;
  metrics.kv_blocks_total = stats.blocks_total;
  metrics.kv_blocks_free = stats.blocks_free;
  metrics.kv_blocks_held = stats.blocks_held;
  metrics.kv_blocks_landing = stats.blocks_landing;
  metrics.kv_cache_usage =
      stats.blocks_total == 0 ? 0.0 : 1.0 - static_cast<double>(stats.blocks_free) / stats.blocks_total;
  metrics.preemptions = stats.preemptions;
  metrics.returned = stats.returned;
  metrics.iteration_tokens =
      api::Histogram(engine::kStepTokenEdges, stats.step_tokens, static_cast<double>(stats.step_tokens_sum));
  metrics.handover_bytes = stats.handover_bytes;
  const auto histogram = [](const engine::DurationCounts& counts) {
    return api::Histogram(engine::kSecondsEdges, counts.counts, counts.sum_s);
  };
  metrics.handover_exposed_s = histogram(stats.handover_exposed);
  metrics.handover_hidden_s = histogram(stats.handover_hidden);
  metrics.handovers["done"] = stats.handovers_taken + stats.handovers_landed;
  metrics.handovers["released"] = stats.handovers_released;
  metrics.handovers["failed"] = stats.handovers_failed;
}

namespace {

json::object describe(const engine::RequestSnapshot& request, Time now) {
  json::object out;
  out["request_id"] = request.external_id;
  out["state"] = request.state;
  out["waits_for"] = request.waits_for;
  out["since_ms"] = milliseconds(now - request.since);
  if (request.until == kNever) {
    out["until_ms"] = nullptr;
  } else {
    out["until_ms"] = milliseconds(request.until - now);
  }
  out["priority"] = request.priority;
  out["prompt_tokens"] = request.prompt_tokens;
  out["computed_tokens"] = request.computed_tokens;
  out["output_tokens"] = request.output_tokens;
  out["kv_blocks"] = request.blocks;
  return out;
}

json::object describe(const RecentRequest& request) {
  json::object out;
  out["request_id"] = request.request_id;
  out["outcome"] = request.outcome;
  out["prompt_tokens"] = request.prompt_tokens;
  out["cached_tokens"] = request.cached_tokens;
  out["output_tokens"] = request.output_tokens;
  out["held"] = request.held;
  out["remote"] = request.remote;
  out["recomputed"] = request.recomputed;
  const Timeline& line = request.timeline;
  out["queue_ms"] = milliseconds(line.total(Phase::kQueue) + line.total(Phase::kReserve));
  out["prefill_ms"] = milliseconds(line.total(Phase::kPrefill));
  out["handover_ms"] = milliseconds(line.total(Phase::kHandover));
  out["decode_ms"] = milliseconds(line.total(Phase::kDecodeWait) + line.total(Phase::kDecode));
  json::array parts;
  for (const auto& [phase, took] : line.parts())
    parts.push_back(json::object{{"phase", phase_name(phase)}, {"ns", took.count()}});
  out["parts"] = std::move(parts);
  return out;
}

}  // namespace

std::string render_debug_requests(const EngineReport& report, const RecentRequests& recent, Time now) {
  json::array requests;
  for (const auto& request : report.requests) requests.push_back(describe(request, now));
  json::array finished;
  for (const auto& request : recent.entries()) finished.push_back(describe(request));
  json::object blocks;
  blocks["total"] = report.stats.blocks_total;
  blocks["free"] = report.stats.blocks_free;
  blocks["held"] = report.stats.blocks_held;
  blocks["landing"] = report.stats.blocks_landing;
  json::object out;
  out["requests"] = std::move(requests);
  out["recent"] = std::move(finished);
  out["kv_blocks"] = std::move(blocks);
  return json::serialize(out);
}

}  // namespace baton::serve
