// How names are compared and values spelled on command lines. Internal to options/.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "options/flags.h"

namespace baton::options {

// "--max_num.seqs_x" -> "--max-num.seqs_x": `_` becomes `-` up to the first dot or equals sign.
std::string normalised_name(std::string_view name);

// "a, b, c" of "a|b|c".
std::string listed(std::string_view values);

// Calls `visit` for each piece of `text` between separators.
void split(std::string_view text, char separator, const std::function<void(std::string_view)>& visit);

// A JSON document as it stands on a command line; "abc" without quotes is the text abc.
json::value read_value(std::string_view text);

// A JSON object; kInvalid: "FLAG: not a JSON object at byte 7: ...".
Result<json::object> read_object(std::string_view flag, std::string_view text);

// At most 64 bytes of a value, for messages.
std::string excerpt(std::string_view text);
std::string excerpt(const json::value& value);

// A number, also when it is written as a string (pydantic's lax mode): the tutorial's "kv_port": "30000".
std::optional<int64_t> lax_integer(const json::value& value);
std::optional<bool> lax_switch(const json::value& value);

}  // namespace baton::options
