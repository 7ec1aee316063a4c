// What an operator sees of an engine: the metrics it counts, the requests it holds and what each waits for.
#pragma once

#include <string>

#include "api/metrics.h"
#include "base/clock.h"
#include "serve/engine_thread.h"
#include "serve/recent.h"

namespace baton::serve {

// The engine's gauges and counters into the exposition's; what the door counts itself stays.
void fill_metrics(const EngineReport& report, api::ServeMetrics& metrics);

// GET /debug/requests: {"requests": [...], "recent": [...]}. Times are milliseconds before or after now.
std::string render_debug_requests(const EngineReport& report, const RecentRequests& recent, Time now);

}  // namespace baton::serve
