// Reads the keys of JSON flags by a table, as flags.h does for flags. Internal to options/.
#pragma once

#include <boost/json/object.hpp>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "options/flags.h"

namespace baton::options {

struct Key {
  std::string_view name;
  Treatment treatment = Treatment::kImplemented;
  std::string_view help = {};
};

// Where the keys of one flag are noted.
struct Remarks {
  std::vector<std::string>& no_effect;
  std::vector<std::string>& warnings;
};

// Sorts an object's keys by the table: kNoEffect ones are noted, unknown ones are warned about with a
// did-you-mean, or refused when `strict`. `place` is the flag and the path within it.
Result<void> check_keys(const json::object& object, std::string_view place, std::span<const Key> keys,
                        bool strict, Remarks remarks);

// Nothing when absent or null.
Result<std::optional<int64_t>> key_integer(const json::object& object, std::string_view place,
                                           std::string_view key, int64_t least, int64_t most);
Result<std::optional<bool>> key_switch(const json::object& object, std::string_view place,
                                       std::string_view key);
Result<std::optional<std::string>> key_text(const json::object& object, std::string_view place,
                                            std::string_view key);
Result<const json::object*> key_object(const json::object& object, std::string_view place,
                                       std::string_view key);

}  // namespace baton::options
