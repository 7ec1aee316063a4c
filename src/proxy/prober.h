// Asks every instance who it is, again and again: GET /v1/models each --health-interval. An instance that
// does not answer within kProbeTimeout is down until it answers again; whoever waits for it is woken. One
// whose request failed is asked at once.
#pragma once

#include "http/io_loop.h"
#include "proxy/hub.h"

namespace baton::proxy {

inline constexpr Duration kProbeTimeout = std::chrono::seconds(2);
// A down instance is asked this often, so that it is back soon after its start.
inline constexpr Duration kDownProbeInterval = std::chrono::milliseconds(200);

// Starts one probing coroutine for an instance; it ends when the instance is gone from the registry.
void start_probing(Hub& hub, router::InstanceId instance);

}  // namespace baton::proxy
