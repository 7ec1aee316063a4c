// One completion or chat request from its body to its last byte: parse, tokenise, submit, turn tokens into
// text, answer whole or as SSE. Runs as a coroutine of the io thread; however it ends, the client hanging up
// included, its Submission goes out of scope and the engine's requests are aborted.
//
// Errors before the first byte have their true status; after it, a typed SSE error event follows. A stream's
// head waits for the engine's first answer, so that a refused request is never a 200.
#pragma once

#include "http/io_loop.h"
#include "http/message.h"
#include "http/server.h"
#include "serve/desk.h"

namespace baton::serve {

http::Awaitable<void> answer_completion(Desk& desk, http::Request& request, http::ResponseWriter& writer);
http::Awaitable<void> answer_chat(Desk& desk, http::Request& request, http::ResponseWriter& writer);

}  // namespace baton::serve
