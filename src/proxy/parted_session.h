// A client's request as several flows at once (router/parts.h): each runs as a coroutine of its own, their
// events meet in one buffer, and one writer sends them to the client. The client hanging up, and the first
// part that fails, end all of them.
#pragma once

#include <string>

#include "http/server.h"
#include "proxy/answer.h"
#include "router/bodies.h"

namespace baton::proxy {

// Events of the parts that the client has not taken yet; above it the parts wait.
inline constexpr size_t kPartedBufferBytes = 256UL << 10;

http::Awaitable<void> relay_parts(Visit& visit, const router::ClientBody& client, std::string id,
                                  const http::Request& request, http::ResponseWriter& writer);

}  // namespace baton::proxy
