// Reads fields of a JSON object with their type and range, the way pydantic's lax mode does for vLLM: null is
// "not given", "5" and 5.0 are the integer 5, "true", 1 and 0 are switches. Internal to api/.
#pragma once

#include <boost/json/object.hpp>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/json.h"
#include "base/ids.h"
#include "base/result.h"

namespace baton::api {

// kInvalid, "key: value, expected expectation", with param = key.
Failure refuse_field(std::string_view key, const json::value& value, std::string_view expectation);

// The value of a field; null for "absent or null".
const json::value* find_field(const json::object& object, std::string_view key);

std::optional<int64_t> as_integer(const json::value& value);
std::optional<double> as_number(const json::value& value);
std::optional<bool> as_switch(const json::value& value);

// Bounds are inclusive unless `open_below`. `place` is what errors call the field ("stop[2]"); empty: the
// key.
Result<std::optional<int64_t>> read_integer(const json::object& object, std::string_view key, int64_t least,
                                            int64_t most);
Result<std::optional<double>> read_number(const json::object& object, std::string_view key, double least,
                                          double most, bool open_below = false);
Result<std::optional<bool>> read_switch(const json::object& object, std::string_view key);
Result<std::optional<std::string>> read_text(const json::object& object, std::string_view key,
                                             size_t bytes_max);

// A list of token ids in [0, vocab_size). `name` is the field in errors, "prompt[3]".
Result<std::vector<TokenId>> read_token_ids(const json::value& value, std::string_view name, size_t count_max,
                                            int32_t vocab_size);

// Whether a field that is not honoured asks for something: not null, false, zero or empty.
bool asks_for_something(const json::value& value);

}  // namespace baton::api
