// What exchanges of either order do upstream in the same way.
#pragma once

#include <string>
#include <vector>

#include "http/message.h"
#include "proxy/hub.h"
#include "router/bodies.h"
#include "router/flow.h"

namespace baton::proxy {

router::FlowLimits flow_limits(const options::ProxyOptions& options);

// An instance's Retry-After where it is fit to be passed on; else empty.
std::string retry_after(const http::Headers& headers);

// Tells instances that their part of the work is not wanted. Detached: the client's request may be over
// before.
void start_cleanups(Hub& hub, std::vector<router::Cleanup> cleanups, const std::string& request_id,
                    router::Route route);

}  // namespace baton::proxy
