// The metaserver of the layer-wise order, to which decode instances post what they have reserved.
#pragma once

#include "http/server.h"
#include "proxy/hub.h"

namespace baton::proxy {

// POST /v1/metaserver: 200 {"status":"ok"} once the prefill that the post began has ended, else {"detail":
// why}: 400 not a post, 404 nobody waits for it, 403 it comes from somebody else, 413 too long, 502 no
// prefill.
http::Awaitable<void> answer_metaserver(Hub& hub, http::Request& request, http::ResponseWriter& writer);

}  // namespace baton::proxy
