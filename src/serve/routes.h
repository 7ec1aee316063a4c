// Which handler answers which path, who may ask, and the small endpoints: models, tokens, health, metrics,
// admin.
#pragma once

#include "http/server.h"
#include "serve/desk.h"

namespace baton::serve {

// The handler of the instance's server. `desk` outlives it.
http::Handler make_handler(Desk& desk);

}  // namespace baton::serve
