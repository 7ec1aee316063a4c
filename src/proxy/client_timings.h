// Puts the whole timeline (router/timings.h) in the place of the one that an instance gives of itself, in
// what goes to the client.
#pragma once

#include <string>
#include <string_view>

#include "base/clock.h"
#include "router/bodies.h"
#include "router/timings.h"

namespace baton::proxy {

// Whether the client asks for timings, or for a receipt, as an instance reads it.
bool asks_timings(const router::ClientBody& client);
bool asks_receipt(const router::ClientBody& client);

// `events`: whole SSE events. Empty if none of them has timings: then they go as they are.
std::string events_with_timings(std::string_view events, Time arrived, const router::FlowTimes& times,
                                Time now);

}  // namespace baton::proxy
