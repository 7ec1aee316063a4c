// What an instance's answer means for a flow and its client.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "router/flow.h"
#include "router/registry.h"

namespace baton::router {

inline constexpr std::string_view kRetryAfter = "1";  // seconds, where no instance says better

// Statuses that may pass by themselves: 408, 429 and 500 to 599, unless the body says that the request is
// wrong.
bool may_try_again(const UpstreamAnswer& answer);

void append_event(std::string_view data, std::string& out);

// Whether the data of an event is an error: vLLM's {"error":{...}} and its older {"object":"error",...}.
bool is_error_event(std::string_view data);

// The error event that ends a stream which nobody goes on with: `phase` and `instance` (host:port) of what
// was lost, and whether the same request may be answered if it is sent again. Nothing follows it.
void append_lost(std::string& out, const Error& error, std::string_view phase, std::string_view instance,
                 bool may_retry);

// An instance's refusal as the client gets it: its status, and its body if that is JSON, else wrapped in
// OpenAI's shape.
Reply reply_of(const UpstreamAnswer& answer);

// The error as the client gets it; with Retry-After where it may pass by itself.
Reply reply_of(const Error& error);

// Before the next attempt, after so many: retry_delay, doubled each time up to retry_delay_max.
Duration pause_after(const FlowLimits& limits, int32_t attempts);

// The error with the role and the address of the instance in front.
Error named(const Registry& registry, InstanceId instance, const Error& error);

// What a status says of an instance's health: a refusal is an answer, 502, 503 and 504 are what no request
// can be to blame for. Of 200 the body has to say it.
void note_status(Registry& registry, InstanceId instance, int status, Time now);

// D computes the prompt itself, and `answer` is its whole answer or an event of it: it has begun, and a usage
// in it makes guesses better. True once there was a usage: there is nothing more to learn.
bool note_own_prefill(Registry& registry, Reservation& d, Demand& demand, std::string_view answer);

bool is_baton(const Registry& registry, InstanceId instance);

// What ends `request` at an instance; nothing for one that is no Baton instance: only those know
// /abort_request.
std::optional<Cleanup> abort_of(const Registry& registry, InstanceId instance, std::string request);

}  // namespace baton::router
