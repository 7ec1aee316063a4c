// Which handler answers which path of a proxy: the two completion routes, models, health, metrics, and the
// admin routes of the vllm-ascend proxy.
#pragma once

#include "http/server.h"
#include "proxy/hub.h"

namespace baton::proxy {

http::Handler make_handler(Hub& hub);

}  // namespace baton::proxy
