// The fields that /v1/completions and /v1/chat/completions share. Internal to api/.
#pragma once

#include <span>
#include <string_view>

#include "api/request.h"

namespace baton::api {

// Fills everything of `request` but what depends on the kind: logprobs, max_tokens' default, echo's meaning.
Result<void> read_common(const json::object& body, const RequestLimits& limits, CommonRequest& request);

// Names of body fields that are neither shared nor in `own`.
std::vector<std::string> unknown_fields(const json::object& body, std::span<const std::string_view> own);

// What holds between fields once all are read.
Result<void> check_common(const json::object& body, const CommonRequest& request);

}  // namespace baton::api
