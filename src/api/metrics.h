// Counters, gauges and histograms as plain structs with one owner thread, and their Prometheus text
// (exposition format 0.0.4) under vLLM's names and buckets (vllm/v1/metrics/loggers.py), so that its
// dashboards work. Own code rather than prometheus-cpp: that library locks and looks up a label map at each
// observation, while here the owner adds to a number and the text is made when somebody asks.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/timeline.h"

namespace baton::api {

// Cumulative in its text, plain counts per bucket in memory.
class Histogram {
 public:
  // `bounds`: upper edges, ascending, static storage; +Inf is implied.
  explicit Histogram(std::span<const double> bounds) : bounds_(bounds), counts_(bounds.size() + 1) {}
  // A copy of what another owner has counted. counts [bounds + 1], not cumulative.
  Histogram(std::span<const double> bounds, std::span<const uint64_t> counts, double sum);
  void observe(double value) { observe(value, 1); }
  void observe(double value, uint64_t times);

  std::span<const double> bounds() const { return bounds_; }
  std::span<const uint64_t> counts() const { return counts_; }  // [bounds + 1], not cumulative
  uint64_t count() const { return count_; }
  double sum() const { return sum_; }

 private:
  std::span<const double> bounds_;
  std::vector<uint64_t> counts_;
  uint64_t count_ = 0;
  double sum_ = 0;
};

// Upper edges, as vLLM has them.
std::span<const double> first_token_buckets_s();
std::span<const double> inter_token_buckets_s();
std::span<const double> request_latency_buckets_s();
std::span<const double> prefill_token_buckets_s();
std::span<const double> token_count_buckets();   // 1, 2, 5, 10, ... 1e6
std::span<const double> choice_count_buckets();  // 1, 2, 5, 10, 20

using Labels = std::vector<std::pair<std::string, std::string>>;

// Writes the text exposition: one `family` call, then its samples.
class Exposition {
 public:
  enum class Type { kCounter, kGauge, kHistogram };
  void family(std::string_view name, Type type, std::string_view help);
  void sample(const Labels& labels, double value);  // of the family opened last
  void histogram(const Labels& labels, const Histogram& histogram);
  std::string take() { return std::move(out_); }

 private:
  void line(std::string_view suffix, const Labels& labels, std::string_view le, double value);
  std::string out_;
  std::string name_;
};

inline constexpr std::string_view kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

// What became of the spans that were made for --otlp-traces-endpoint.
struct SpanCounts {
  uint64_t exported = 0;
  uint64_t dropped = 0;  // the collector was slow, away or refused them
};

// One engine instance. Owned by the io thread of `baton serve`.
struct ServeMetrics {
  std::string model_name = {};
  int32_t engine = 0;  // data-parallel rank

  int64_t requests_running = 0;
  int64_t requests_waiting = 0;
  double kv_cache_usage = 0;  // [0, 1]
  uint64_t preemptions = 0;
  uint64_t returned = 0;  // given back to the proxy for want of blocks
  uint64_t resumed = 0;   // answers that went on here
  uint64_t prompt_tokens = 0;
  uint64_t generation_tokens = 0;
  uint64_t prefix_cache_queries = 0;  // tokens
  uint64_t prefix_cache_hits = 0;     // tokens
  // By finish reason, vLLM's from the start: a rate over a series that begins at 1 misses its first request.
  std::map<std::string, uint64_t, std::less<>> finished = {
      {"abort", 0}, {"error", 0}, {"length", 0}, {"stop", 0}};

  Histogram time_to_first_token_s{first_token_buckets_s()};
  Histogram inter_token_latency_s{inter_token_buckets_s()};
  Histogram time_per_output_token_s{inter_token_buckets_s()};     // per request: mean over its answer
  Histogram time_per_prefill_token_s{prefill_token_buckets_s()};  // per request: mean over its prompt
  Histogram e2e_latency_s{request_latency_buckets_s()};
  Histogram queue_time_s{request_latency_buckets_s()};
  Histogram prefill_time_s{request_latency_buckets_s()};
  Histogram decode_time_s{request_latency_buckets_s()};
  Histogram inference_time_s{request_latency_buckets_s()};
  Histogram iteration_tokens{token_count_buckets()};
  Histogram request_prompt_tokens{token_count_buckets()};
  Histogram request_generation_tokens{token_count_buckets()};
  Histogram request_max_generation_tokens{token_count_buckets()};  // of the longest of its choices
  Histogram request_params_max_tokens{token_count_buckets()};
  Histogram request_params_n{choice_count_buckets()};

  int32_t block_tokens = 0;  // of one KV block
  bool prefix_caching = true;
  int64_t kv_blocks_total = 0;
  int64_t kv_blocks_free = 0;
  int64_t kv_blocks_held = 0;     // on P: under a lease, waiting to be taken
  int64_t kv_blocks_landing = 0;  // on D: being filled by a peer
  uint64_t handover_bytes = 0;
  uint64_t requests_refused = 0;  // queue full
  uint64_t clients_gone = 0;      // hung up before their answer was whole
  std::map<std::string, uint64_t, std::less<>>
      handovers;  // by outcome: done, aborted, expired, refused, failed
  Histogram handover_time_s{first_token_buckets_s()};
  Histogram handover_exposed_s{first_token_buckets_s()};
  Histogram handover_hidden_s{first_token_buckets_s()};
  // By base/timeline.h's phases: what each request spent there. Together they are e2e_latency_s.
  std::vector<Histogram> phase_s{kPhases, Histogram(first_token_buckets_s())};
  SpanCounts spans;
};
std::string render_metrics(const ServeMetrics& metrics);

// The proxy. Owned by its io thread.
struct ProxyMetrics {
  struct Instance {
    std::string address;  // host:port
    std::string role;     // prefill, decode
    bool up = false;
    int64_t in_flight = 0;
    double load = 0;  // the score that its reservations add up to
    uint64_t requests = 0;
    uint64_t failures = 0;
  };
  std::vector<Instance> instances = {};
  int64_t requests_in_flight = 0;
  int64_t requests_waiting = 0;
  std::map<std::string, uint64_t, std::less<>>
      outcomes;  // by status class or reason: ok, client_gone, p_failed, ...
  // Where prompts were computed ("prefill", "decode") and why (api/timings.h Placement).
  std::map<std::pair<std::string, std::string>, uint64_t> prefills;
  uint64_t retries = 0;
  uint64_t parity_checked = 0;     // of --shadow: answers that were computed once more
  uint64_t parity_mismatches = 0;  // and came out otherwise
  uint64_t parity_skipped =
      0;                     // of the sample, not computed again: the load, or the instance, did not permit
  uint64_t resumptions = 0;  // answers that went on at another decode instance
  Histogram time_to_first_byte_s{first_token_buckets_s()};
  Histogram prefill_time_s{request_latency_buckets_s()};
  Histogram e2e_latency_s{request_latency_buckets_s()};
  SpanCounts spans = {};
};
std::string render_metrics(const ProxyMetrics& metrics);

}  // namespace baton::api
