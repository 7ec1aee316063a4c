#include "traces/exporter.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <iterator>
#include <optional>
#include <utility>

#include "base/log.h"
#include "http/client.h"
#include "http/wake.h"
#include "traces/otlp.h"

namespace baton::traces {
namespace {

// What the protocol lets a client send again.
bool may_try_again(int status) { return status == 429 || status == 502 || status == 503 || status == 504; }

}  // namespace

struct SpanExporter::State {
  State(http::IoLoop& io, ExporterOptions exporter_options)
      : loop(io),
        options(std::move(exporter_options)),
        client(std::in_place, io,
               http::ClientOptions{.head_timeout = options.timeout,
                                   .idle_timeout = options.timeout,
                                   .body_bytes_max = kCollectorAnswerBytesMax}),
        news(std::in_place, io),
        sent(std::in_place, io) {}

  http::IoLoop& loop;
  ExporterOptions options;
  // These three until the exporter ends.
  std::optional<http::Client> client;
  std::optional<http::Wake> news;  // a first span, a full batch, flush
  std::optional<http::Wake> sent;  // for flush: a batch is done
  std::deque<DatedSpan> queue;
  ExporterCounters counters;
  bool in_flight = false;
  bool flushing = false;
  bool failing = false;
  bool ended = false;

  // Once per change, not per batch.
  void note_outcome(const std::string& failure) {
    if (!failure.empty() && !failing) {
      log_warning("traces", fmt::format("{}{}: {}; spans are dropped, requests go on",
                                        net::to_string(options.to), options.target, failure));
    }
    if (failure.empty() && failing) {
      log_info("traces", fmt::format("{} takes spans again", net::to_string(options.to)));
    }
    failing = !failure.empty();
  }
};

ExporterOptions exporter_options(net::Address to, std::string target, std::string service) {
  return {.to = std::move(to),
          .target = std::move(target),
          .resource = {{"service.name", std::move(service)},
                       {"service.version", std::string(BATON_VERSION)},
                       {"service.instance.id", random_id<Incarnation>().hex()}}};
}

SpanExporter::SpanExporter(http::IoLoop& loop, ExporterOptions options)
    : state_(std::make_shared<State>(loop, std::move(options))) {
  loop.spawn("traces", run(state_));
}

SpanExporter::~SpanExporter() {
  state_->ended = true;
  state_->news.reset();
  state_->sent.reset();
  state_->client.reset();
}

void SpanExporter::add(std::vector<Span> spans) {
  State& state = *state_;
  if (state.queue.size() + spans.size() > kSpansQueuedMax) {
    state.counters.dropped += spans.size();
    return;
  }
  const bool was_empty = state.queue.empty();
  const WallClock clock = WallClock::read();
  for (Span& span : spans) state.queue.push_back({std::move(span), clock});
  if (was_empty || state.queue.size() >= kSpansPerBatchMax) state.news->notify();
}

http::Awaitable<void> SpanExporter::flush(Duration limit) {
  const std::shared_ptr<State> state = state_;
  const Time until = state->loop.now() + limit;
  state->flushing = true;
  while (!state->queue.empty() || state->in_flight) {
    state->news->notify();
    const Duration left = until - state->loop.now();
    if (left <= Duration{0}) break;
    const auto woken = co_await state->sent->wait_for(left);
    if (!woken) break;
  }
  state->flushing = false;
}

const ExporterCounters& SpanExporter::counters() const { return state_->counters; }
size_t SpanExporter::queued() const { return state_->queue.size(); }

http::Awaitable<void> SpanExporter::run(std::shared_ptr<State> state) {
  while (!state->ended) {
    if (state->queue.empty()) {
      const auto woken = co_await state->news->wait();
      if (!woken) co_return;
      continue;
    }
    const Time until = state->loop.now() + state->options.interval;
    while (state->queue.size() < kSpansPerBatchMax && !state->flushing && !state->ended) {
      const Duration left = until - state->loop.now();
      if (left <= Duration{0}) break;
      const auto woken = co_await state->news->wait_for(left);
      if (!woken && woken.error().code == Code::kCancelled) co_return;
    }
    if (state->ended) co_return;
    const auto count = static_cast<ptrdiff_t>(std::min(state->queue.size(), kSpansPerBatchMax));
    const auto end = state->queue.begin() + count;
    std::vector<DatedSpan> batch(std::make_move_iterator(state->queue.begin()), std::make_move_iterator(end));
    state->queue.erase(state->queue.begin(), end);
    state->in_flight = true;
    co_await send(state, std::move(batch));
    if (state->ended) co_return;
    state->in_flight = false;
    state->sent->notify();
  }
}

http::Awaitable<void> SpanExporter::send(std::shared_ptr<State> state, std::vector<DatedSpan> batch) {
  const ExporterOptions& options = state->options;
  const std::string body = render_spans(batch, options.resource);
  Duration delay = options.retry_delay;
  std::string failure;
  for (uint32_t attempt = 1; attempt <= kExportAttempts; ++attempt) {
    http::ClientRequest request{.to = options.to,
                                .method = "POST",
                                .target = options.target,
                                .headers = {},
                                .body = body,
                                .head_timeout = options.timeout,
                                .idle_timeout = options.timeout};
    request.headers.add("Content-Type", "application/json");
    const auto answer = co_await state->client->request(std::move(request));
    if (state->ended) co_return;
    if (answer && answer->status >= 200 && answer->status < 300) {
      const uint64_t rejected = std::min<uint64_t>(rejected_spans(answer->body), batch.size());
      state->counters.exported += batch.size() - rejected;
      state->counters.dropped += rejected;
      state->note_outcome({});
      co_return;
    }
    failure = answer ? fmt::format("answers {}", answer->status) : answer.error().message;
    state->note_outcome(failure);
    const bool is_final = answer && !may_try_again(answer->status);
    if (is_final || attempt == kExportAttempts || state->flushing) break;
    const auto slept = co_await state->loop.sleep(delay);
    if (!slept || state->ended) co_return;
    delay *= 2;
  }
  state->counters.dropped += batch.size();
}

}  // namespace baton::traces
