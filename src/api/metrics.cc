#include "api/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numeric>

namespace baton::api {
namespace {

constexpr auto kFirstToken =
    std::to_array<double>({0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                           1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560});
constexpr auto kInterToken = std::to_array<double>(
    {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80});
constexpr auto kLatency = std::to_array<double>(
    {0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680});
constexpr auto kPrefillToken =
    std::to_array<double>({0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1});
constexpr auto kChoices = std::to_array<double>({1, 2, 5, 10, 20});
constexpr auto kTokens = std::to_array<double>(
    {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6});

void append_number(std::string& out, double value) {
  if (std::isnan(value)) {
    out += "NaN";
  } else if (std::isinf(value)) {
    out += value > 0 ? "+Inf" : "-Inf";
  } else {
    char digits[32];
    out.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
  }
}

void append_label(std::string& out, std::string_view name, std::string_view value) {
  out += out.back() == '{' ? "" : ",";
  out += name;
  out += "=\"";
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? std::string_view("\\n") : std::string_view(&c, 1);
  }
  out += '"';
}

using Type = Exposition::Type;

Labels with(Labels labels, std::string name, std::string value) {
  labels.emplace_back(std::move(name), std::move(value));
  return labels;
}

struct Single {
  std::string_view name;
  Type type;
  std::string_view help;
  double value;
};

void append_singles(Exposition& text, const Labels& labels, std::span<const Single> singles) {
  for (const Single& single : singles) {
    text.family(single.name, single.type, single.help);
    text.sample(labels, single.value);
  }
}

struct Distribution {
  std::string_view name;
  std::string_view help;
  const Histogram& histogram;
};

void append_distributions(Exposition& text, const Labels& labels,
                          std::span<const Distribution> distributions) {
  for (const Distribution& distribution : distributions) {
    text.family(distribution.name, Type::kHistogram, distribution.help);
    text.histogram(labels, distribution.histogram);
  }
}

void append_by(Exposition& text, const Labels& labels, std::string_view label,
               const std::map<std::string, uint64_t, std::less<>>& counts) {
  for (const auto& [value, count] : counts) {
    text.sample(with(labels, std::string(label), value), static_cast<double>(count));
  }
}

void append_spans(Exposition& text, const Labels& labels, const SpanCounts& spans) {
  text.family("baton:otlp_spans_total", Type::kCounter, "Spans for --otlp-traces-endpoint, by outcome.");
  text.sample(with(labels, "outcome", "exported"), static_cast<double>(spans.exported));
  text.sample(with(labels, "outcome", "dropped"), static_cast<double>(spans.dropped));
}

double number(uint64_t count) { return static_cast<double>(count); }
double number(int64_t count) { return static_cast<double>(count); }

void append_vllm(Exposition& text, const Labels& labels, const ServeMetrics& m) {
  const Single singles[] = {
      {"vllm:num_requests_running", Type::kGauge, "Requests in execution.", number(m.requests_running)},
      {"vllm:num_requests_waiting", Type::kGauge, "Requests waiting to be processed.",
       number(m.requests_waiting)},
      {"vllm:kv_cache_usage_perc", Type::kGauge, "KV-cache usage, 1 is all.", m.kv_cache_usage},
      {"vllm:gpu_cache_usage_perc", Type::kGauge, "vllm:kv_cache_usage_perc under its older name.",
       m.kv_cache_usage},
      {"vllm:num_preemptions_total", Type::kCounter, "Requests preempted.", number(m.preemptions)},
      {"vllm:prompt_tokens_total", Type::kCounter, "Prompt tokens processed.", number(m.prompt_tokens)},
      {"vllm:generation_tokens_total", Type::kCounter, "Tokens generated.", number(m.generation_tokens)},
      {"vllm:prefix_cache_queries_total", Type::kCounter, "Tokens looked up in the prefix cache.",
       number(m.prefix_cache_queries)},
      {"vllm:prefix_cache_hits_total", Type::kCounter, "Tokens found in the prefix cache.",
       number(m.prefix_cache_hits)},
      {"vllm:gpu_prefix_cache_queries_total", Type::kCounter,
       "vllm:prefix_cache_queries_total under its older name.", number(m.prefix_cache_queries)},
      {"vllm:gpu_prefix_cache_hits_total", Type::kCounter,
       "vllm:prefix_cache_hits_total under its older name.", number(m.prefix_cache_hits)},
  };
  append_singles(text, labels, singles);
  text.family("vllm:request_success_total", Type::kCounter, "Requests finished, by reason.");
  append_by(text, labels, "finished_reason", m.finished);
  // What vLLM tells of its cache as labels of a gauge that is always 1.
  text.family("vllm:cache_config_info", Type::kGauge, "The KV cache.");
  Labels cache = with(labels, "block_size", std::to_string(m.block_tokens));
  cache.emplace_back("num_gpu_blocks", std::to_string(m.kv_blocks_total));
  cache.emplace_back("enable_prefix_caching", m.prefix_caching ? "True" : "False");
  text.sample(cache, 1);
  const Distribution distributions[] = {
      {"vllm:time_to_first_token_seconds", "Arrival to first token.", m.time_to_first_token_s},
      {"vllm:inter_token_latency_seconds", "Between two tokens of an answer.", m.inter_token_latency_s},
      {"vllm:time_per_output_token_seconds", "vllm:inter_token_latency_seconds under its older name.",
       m.inter_token_latency_s},
      {"vllm:request_time_per_output_token_seconds", "Per request, the mean between two of its tokens.",
       m.time_per_output_token_s},
      {"vllm:time_per_prefill_token_request_seconds", "Per request, the time in prefill by prompt tokens.",
       m.time_per_prefill_token_s},
      {"vllm:e2e_request_latency_seconds", "Arrival to last token.", m.e2e_latency_s},
      {"vllm:request_queue_time_seconds", "Time waiting.", m.queue_time_s},
      {"vllm:request_prefill_time_seconds", "Time in prefill.", m.prefill_time_s},
      {"vllm:request_decode_time_seconds", "Time in decode.", m.decode_time_s},
      {"vllm:request_inference_time_seconds", "Time running.", m.inference_time_s},
      {"vllm:iteration_tokens_total", "Tokens per engine step.", m.iteration_tokens},
      {"vllm:request_prompt_tokens", "Prompt tokens per request.", m.request_prompt_tokens},
      {"vllm:request_generation_tokens", "Generated tokens per request.", m.request_generation_tokens},
      {"vllm:request_max_num_generation_tokens", "Generated tokens of each request's longest choice.",
       m.request_max_generation_tokens},
      {"vllm:request_params_max_tokens", "max_tokens of requests.", m.request_params_max_tokens},
      {"vllm:request_params_n", "n of requests.", m.request_params_n},
  };
  append_distributions(text, labels, distributions);
}

void append_own(Exposition& text, const Labels& labels, const ServeMetrics& m) {
  const Single singles[] = {
      {"baton:kv_blocks", Type::kGauge, "KV blocks of this instance.", number(m.kv_blocks_total)},
      {"baton:kv_blocks_free", Type::kGauge, "KV blocks that nobody holds.", number(m.kv_blocks_free)},
      {"baton:kv_blocks_held", Type::kGauge, "KV blocks under a lease, waiting for a decode instance.",
       number(m.kv_blocks_held)},
      {"baton:kv_blocks_landing", Type::kGauge, "KV blocks that a peer is filling.",
       number(m.kv_blocks_landing)},
      {"baton:handover_bytes_total", Type::kCounter, "KV bytes moved between instances.",
       number(m.handover_bytes)},
      {"baton:requests_refused_total", Type::kCounter, "Requests refused because the queue was full.",
       number(m.requests_refused)},
      {"baton:requests_returned_total", Type::kCounter,
       "Requests given back to the proxy for want of KV blocks.", number(m.returned)},
      {"baton:requests_resumed_total", Type::kCounter, "Answers of other instances that went on here.",
       number(m.resumed)},
      {"baton:clients_gone_total", Type::kCounter, "Clients that hung up before their answer was whole.",
       number(m.clients_gone)},
  };
  append_singles(text, labels, singles);
  text.family("baton:handovers_total", Type::kCounter, "Hand-overs, by outcome.");
  append_by(text, labels, "outcome", m.handovers);
  const Distribution distributions[] = {
      {"baton:handover_seconds", "From the Landing to Done.", m.handover_time_s},
      {"baton:handover_exposed_seconds", "Of a hand-over, what nothing else hides.", m.handover_exposed_s},
      {"baton:handover_hidden_seconds", "Of a layer-wise hand-over, what the prefill hides.",
       m.handover_hidden_s},
  };
  append_distributions(text, labels, distributions);
  text.family("baton:request_phase_seconds", Type::kHistogram,
              "What requests spent in each phase; the phases of one add up to its e2e latency.");
  for (size_t i = 0; i < m.phase_s.size(); ++i) {
    const auto phase = static_cast<Phase>(i);
    text.histogram(with(labels, "phase", std::string(phase_name(phase))), m.phase_s[i]);
  }
  append_spans(text, labels, m.spans);
}

}  // namespace

Histogram::Histogram(std::span<const double> bounds, std::span<const uint64_t> counts, double sum)
    : bounds_(bounds),
      counts_(counts.begin(), counts.end()),
      count_(std::accumulate(counts.begin(), counts.end(), uint64_t{0})),
      sum_(sum) {}

void Histogram::observe(double value, uint64_t times) {
  const auto edge = std::ranges::lower_bound(bounds_, value);
  counts_[static_cast<size_t>(edge - bounds_.begin())] += times;
  count_ += times;
  sum_ += value * static_cast<double>(times);
}

std::span<const double> first_token_buckets_s() { return kFirstToken; }
std::span<const double> inter_token_buckets_s() { return kInterToken; }
std::span<const double> request_latency_buckets_s() { return kLatency; }
std::span<const double> prefill_token_buckets_s() { return kPrefillToken; }
std::span<const double> token_count_buckets() { return kTokens; }
std::span<const double> choice_count_buckets() { return kChoices; }

void Exposition::family(std::string_view name, Type type, std::string_view help) {
  constexpr std::array<std::string_view, 3> kNames = {"counter", "gauge", "histogram"};
  name_ = name;
  out_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, kNames[static_cast<size_t>(type)]);
}

void Exposition::line(std::string_view suffix, const Labels& labels, std::string_view le, double value) {
  out_ += name_;
  out_ += suffix;
  if (!labels.empty() || !le.empty()) {
    out_ += '{';
    for (const auto& [name, text] : labels) append_label(out_, name, text);
    if (!le.empty()) append_label(out_, "le", le);
    out_ += '}';
  }
  out_ += ' ';
  append_number(out_, value);
  out_ += '\n';
}

void Exposition::sample(const Labels& labels, double value) { line({}, labels, {}, value); }

void Exposition::histogram(const Labels& labels, const Histogram& histogram) {
  uint64_t below = 0;
  for (size_t i = 0; i < histogram.bounds().size(); ++i) {
    below += histogram.counts()[i];
    std::string edge;
    append_number(edge, histogram.bounds()[i]);
    if (edge.find_first_of(".e") == std::string::npos) edge += ".0";  // as prometheus_client writes them
    line("_bucket", labels, edge, static_cast<double>(below));
  }
  line("_bucket", labels, "+Inf", static_cast<double>(histogram.count()));
  line("_sum", labels, {}, histogram.sum());
  line("_count", labels, {}, static_cast<double>(histogram.count()));
}

std::string render_metrics(const ServeMetrics& metrics) {
  const Labels labels = {{"model_name", metrics.model_name}, {"engine", std::to_string(metrics.engine)}};
  Exposition text;
  append_vllm(text, labels, metrics);
  append_own(text, labels, metrics);
  return text.take();
}

std::string render_metrics(const ProxyMetrics& metrics) {
  Exposition text;
  const Single singles[] = {
      {"baton:proxy_requests_in_flight", Type::kGauge, "Requests being served.",
       number(metrics.requests_in_flight)},
      {"baton:proxy_requests_waiting", Type::kGauge, "Requests without an instance yet.",
       number(metrics.requests_waiting)},
      {"baton:proxy_retries_total", Type::kCounter, "Attempts beyond the first.", number(metrics.retries)},
      {"baton:parity_checked_total", Type::kCounter, "Answers computed once more on one instance (--shadow).",
       number(metrics.parity_checked)},
      {"baton:parity_mismatch_total", Type::kCounter,
       "Of these, other bits than the client got. Must stay 0.", number(metrics.parity_mismatches)},
      {"baton:parity_skipped_total", Type::kCounter,
       "Of the sample, not computed again: too much load, or no answer.", number(metrics.parity_skipped)},
      {"baton:proxy_resumptions_total", Type::kCounter, "Answers that went on at another decode instance.",
       number(metrics.resumptions)},
  };
  append_singles(text, {}, singles);
  text.family("baton:proxy_requests_total", Type::kCounter, "Requests finished, by outcome.");
  append_by(text, {}, "outcome", metrics.outcomes);
  text.family("baton:proxy_prefills_total", Type::kCounter,
              "Prompts by the side that was to compute them, and why there.");
  for (const auto& [where, count] : metrics.prefills)
    text.sample({{"on", where.first}, {"reason", where.second}}, number(count));

  using Instance = ProxyMetrics::Instance;
  const auto per_instance = [&](std::string_view name, Type type, std::string_view help, auto value) {
    text.family(name, type, help);
    for (const Instance& instance : metrics.instances) {
      text.sample({{"instance_address", instance.address}, {"role", instance.role}}, value(instance));
    }
  };
  per_instance("baton:proxy_instance_up", Type::kGauge, "1 when the instance takes requests.",
               [](const Instance& i) { return i.up ? 1.0 : 0.0; });
  per_instance("baton:proxy_instance_in_flight", Type::kGauge, "Requests reserved on the instance.",
               [](const Instance& i) { return number(i.in_flight); });
  per_instance("baton:proxy_instance_load", Type::kGauge, "Sum of the scores reserved on the instance.",
               [](const Instance& i) { return i.load; });
  per_instance("baton:proxy_instance_requests_total", Type::kCounter, "Requests sent to the instance.",
               [](const Instance& i) { return number(i.requests); });
  per_instance("baton:proxy_instance_failures_total", Type::kCounter, "Requests that failed on the instance.",
               [](const Instance& i) { return number(i.failures); });

  const Distribution distributions[] = {
      {"baton:proxy_time_to_first_byte_seconds", "Arrival to the first byte of the answer.",
       metrics.time_to_first_byte_s},
      {"baton:proxy_prefill_seconds", "The prefill instance's whole answer.", metrics.prefill_time_s},
      {"baton:proxy_e2e_seconds", "Arrival to the last byte of the answer.", metrics.e2e_latency_s},
  };
  append_distributions(text, {}, distributions);
  append_spans(text, {}, metrics.spans);
  return text.take();
}

}  // namespace baton::api
