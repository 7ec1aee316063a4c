// One client's completion request: as one hand-over whose stream goes straight to the client, or, for lists
// of prompts and for choices that need a hand-over each, as several at once whose answers become one. A
// client that hangs up ends everything upstream.
#pragma once

#include "http/server.h"
#include "proxy/hub.h"
#include "router/bodies.h"

namespace baton::proxy {

http::Awaitable<void> relay(Hub& hub, router::Route route, http::Request& request,
                            http::ResponseWriter& writer);

}  // namespace baton::proxy
