// What any instance answers for all of them, because all serve one model: which models there are, and text to
// token ids and back. P's are asked before D's, the next one where one has no answer. io thread.
#pragma once

#include "http/message.h"
#include "http/server.h"
#include "proxy/hub.h"

namespace baton::proxy {

// GET /v1/models: the first 200. 503 names who did not answer.
http::Awaitable<void> answer_models(Hub& hub, http::Request& request, http::ResponseWriter& writer);

// The request as it came, to an instance that is up; its answer is passed on with its status, whatever that
// is but 503 (it loads or ends). 503 where none is up; 502 names the last one that did not answer.
http::Awaitable<void> answer_by_any(Hub& hub, http::Request& request, http::ResponseWriter& writer);

}  // namespace baton::proxy
