// The file that --config names: YAML, a map from flag names without dashes to values (vLLM's format).
// Internal to options/.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::options {

struct ConfigEntry {
  std::string key;                  // "max-model-len"
  std::vector<std::string> values;  // a scalar, the entries of a list, or one JSON text of a map
  bool is_switch = false;           // a YAML true or false: values[0] is "true" or "false"
};

inline constexpr size_t kConfigNodesMax = 1UL << 16;  // after aliases are followed
inline constexpr int kConfigDepthMax = 16;

// In the file's order. kInvalid or kIo names the file.
Result<std::vector<ConfigEntry>> read_config_file(const std::string& path);

// The same of a text; `name` is the file in errors.
Result<std::vector<ConfigEntry>> parse_config(std::string_view text, std::string_view name);

}  // namespace baton::options
