// Sends spans to a collector (--otlp-traces-endpoint): OTLP over HTTP, in JSON. Owner: the io thread. Nobody
// waits for it: add() takes spans or drops them, a coroutine of its own sends batches, one at a time. A
// collector that is slow or away costs spans, which are counted, and nothing else.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "http/io_loop.h"
#include "net/address.h"
#include "traces/otlp.h"
#include "traces/span.h"

namespace baton::traces {

inline constexpr size_t kSpansQueuedMax = 4096;  // beyond it new ones are dropped
inline constexpr size_t kSpansPerBatchMax =
    128;  // rendering one batch holds up the io thread for well below 1 ms
inline constexpr size_t kCollectorAnswerBytesMax = 64UL << 10;
inline constexpr uint32_t kExportAttempts = 3;

struct ExporterOptions {
  net::Address to;
  std::string target;                                  // "/v1/traces"
  std::vector<Attribute> resource;                     // who speaks: service.name, ...
  Duration interval = std::chrono::milliseconds(500);  // how long a span waits for others
  Duration timeout = std::chrono::seconds(5);          // of one request
  Duration retry_delay = std::chrono::seconds(1);      // doubles with each attempt
};

// For a process that calls itself `service`: with its version and a random name of this life.
ExporterOptions exporter_options(net::Address to, std::string target, std::string service);

// How long a process that ends waits for its last spans to be taken.
inline constexpr Duration kLastSpansLimit = std::chrono::seconds(2);

struct ExporterCounters {
  uint64_t exported = 0;  // spans that the collector has taken
  uint64_t dropped = 0;   // queue full, refused, or not taken in kExportAttempts
};

class SpanExporter {
 public:
  SpanExporter(http::IoLoop& loop, ExporterOptions options);
  // On the io thread or when the loop does not run. What is queued is lost.
  ~SpanExporter();
  SpanExporter(const SpanExporter&) = delete;
  SpanExporter& operator=(const SpanExporter&) = delete;

  // The spans of one request: all of them or none.
  void add(std::vector<Span> spans);

  // Until what is queued is sent or dropped, at most `limit`; without pauses between batches.
  http::Awaitable<void> flush(Duration limit);

  const ExporterCounters& counters() const;
  size_t queued() const;

 private:
  struct State;
  static http::Awaitable<void> run(std::shared_ptr<State> state);
  static http::Awaitable<void> send(std::shared_ptr<State> state, std::vector<DatedSpan> batch);
  std::shared_ptr<State> state_;
};

}  // namespace baton::traces
