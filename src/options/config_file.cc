#include "options/config_file.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <boost/json/serialize.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "options/spelling.h"

namespace baton::options {
namespace {

bool is_plain(const YAML::Node& node) { return node.Tag() == "?" || node.Tag().empty(); }

// A scalar as JSON: plain true, false, null and numbers mean themselves, everything quoted is text.
json::value scalar_value(const YAML::Node& node) {
  const std::string& text = node.Scalar();
  if (!is_plain(node)) return json::string(text);
  if (text == "True") return true;
  if (text == "False") return false;
  return read_value(text);
}

Result<json::value> to_json(const YAML::Node& node, std::string_view place, int depth, size_t& nodes_left) {
  if (depth > kConfigDepthMax || nodes_left == 0) {
    return fail(Code::kInvalid, fmt::format("{}: expected at most {} levels and {} values", place,
                                            kConfigDepthMax, kConfigNodesMax));
  }
  --nodes_left;
  if (node.IsScalar()) return scalar_value(node);
  if (node.IsSequence()) {
    json::array list;
    for (const YAML::Node& entry : node) {
      TRY(json::value value, to_json(entry, place, depth + 1, nodes_left));
      list.push_back(std::move(value));
    }
    return list;
  }
  if (!node.IsMap()) return json::value(nullptr);
  json::object object;
  for (const auto& entry : node) {
    if (!entry.first.IsScalar())
      return fail(Code::kInvalid, fmt::format("{}: expected names as keys", place));
    TRY(json::value value, to_json(entry.second, place, depth + 1, nodes_left));
    object[entry.first.Scalar()] = std::move(value);
  }
  return object;
}

std::string as_word(const json::value& value) {
  if (value.is_string()) return std::string(value.get_string());
  return json::serialize(value);
}

Result<ConfigEntry> read_entry(const std::string& key, const YAML::Node& node, std::string_view name,
                               size_t& nodes_left) {
  const std::string place = fmt::format("{}: {}", name, key);
  ConfigEntry entry{key, {}, false};
  TRY(const json::value value, to_json(node, place, 0, nodes_left));
  if (value.is_array()) {
    for (const json::value& word : value.get_array()) entry.values.push_back(as_word(word));
    return entry;
  }
  entry.is_switch = value.is_bool();
  // Numbers keep the text they were written in: 1024 digits or 40k are the flag's to read.
  entry.values.push_back(node.IsScalar() && !value.is_bool() ? node.Scalar() : as_word(value));
  return entry;
}

Result<std::vector<ConfigEntry>> read_root(const YAML::Node& root, std::string_view name) {
  std::vector<ConfigEntry> entries;
  if (!root.IsDefined() || root.IsNull()) return entries;
  if (!root.IsMap())
    return fail(Code::kInvalid, fmt::format("{}: expected a map from flags to values", name));
  size_t nodes_left = kConfigNodesMax;
  for (const auto& entry : root) {
    if (!entry.first.IsScalar())
      return fail(Code::kInvalid, fmt::format("{}: expected flag names as keys", name));
    if (entry.second.IsNull()) continue;
    TRY(ConfigEntry read, read_entry(entry.first.Scalar(), entry.second, name, nodes_left));
    entries.push_back(std::move(read));
  }
  return entries;
}

}  // namespace

Result<std::vector<ConfigEntry>> parse_config(std::string_view text, std::string_view name) {
  if (text.size() > kConfigBytesMax) {
    return fail(Code::kInvalid,
                fmt::format("{}: {} bytes, expected at most {}", name, text.size(), kConfigBytesMax));
  }
  try {
    return read_root(YAML::Load(std::string(text)), name);
  } catch (const YAML::Exception& error) {
    return fail(Code::kInvalid, fmt::format("{}: not YAML: {}", name, error.what()));
  }
}

Result<std::vector<ConfigEntry>> read_config_file(const std::string& path) {
  if (!path.ends_with(".yaml") && !path.ends_with(".yml")) {
    return fail(Code::kInvalid,
                fmt::format("--config: {}, expected a file named *.yaml or *.yml", excerpt(path)));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return fail(Code::kIo, fmt::format("--config: cannot open {}: {}", excerpt(path), std::strerror(errno)));
  }
  std::string text(kConfigBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return parse_config(text, path);
}

}  // namespace baton::options
