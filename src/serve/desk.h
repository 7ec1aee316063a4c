// What the handlers of one serving instance share. Owned by the io thread; the pointers are empty while the
// model loads, and handlers answer 503 then.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <string>

#include "api/metrics.h"
#include "http/client.h"
#include "http/io_loop.h"
#include "options/serve_options.h"
#include "serve/engine_client.h"
#include "serve/recent.h"
#include "serve/served_model.h"
#include "traces/exporter.h"

namespace baton::serve {

class EngineThread;

struct Desk {
  http::IoLoop* loop = nullptr;
  const options::ServeOptions* options = nullptr;

  const ServedModel* model = nullptr;
  EngineThread* engine_thread = nullptr;
  EngineClient* engine = nullptr;
  std::string loading = "the model is being loaded";  // what /health says until then
  bool draining = false;

  http::Client* client = nullptr;  // D, layer-wise order: for metaservers

  std::string advertised_host;  // where peers find the side channel of whoever listens
  uint16_t side_channel_port = 0;

  traces::SpanExporter* spans = nullptr;  // empty without --otlp-traces-endpoint
  api::ServeMetrics metrics;
  RecentRequests recent;
  std::mt19937_64 seeds;  // for requests that bring no seed; begins with --seed

  bool ready() const { return model != nullptr && !draining; }
};

}  // namespace baton::serve
