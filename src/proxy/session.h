// One client's request through the pull order: carries out what router::PullFlow says and relays D's stream.
// Status and headers wait for D's first byte; a client that hangs up ends everything upstream.
#pragma once

#include "http/server.h"
#include "proxy/hub.h"
#include "router/bodies.h"

namespace baton::proxy {

http::Awaitable<void> relay(Hub& hub, router::Route route, http::Request& request,
                            http::ResponseWriter& writer);

}  // namespace baton::proxy
