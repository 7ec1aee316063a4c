// The rows of `baton top`: what the proxy and the instances say of one request, joined by its name. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "top/views.h"

namespace baton::top {

// One look at a cluster.
struct Asked {
  KnownInstance instance;
  // Nothing was asked of an instance that is no Baton instance: then an empty list.
  Result<std::vector<InstanceRequest>> requests;
};
struct Cluster {
  std::string proxy;  // its address
  ProxyView view;
  std::vector<Asked> instances;
};

// One request at one place: at each instance that holds it, else at the proxy.
struct Row {
  std::string id;
  std::string client_id;         // empty: none
  std::optional<double> age_ms;  // since the client's request came; nothing if this proxy does not know it
  std::string phase;
  std::string where;      // "proxy", "P host:port", "D host:port"
  std::string waits_for;  // empty: it is computed
  double since_ms = 0;
  std::optional<double> until_ms;
  std::optional<int64_t> prompt_tokens, computed_tokens, output_tokens;  // nothing at the proxy
};

// Oldest first, those that this proxy does not know at the end.
std::vector<Row> rows_of(const Cluster& cluster);
// Who did not answer, one line each, by name.
std::vector<std::string> errors_of(const Cluster& cluster);

// Lines of text without any escape sequence.
std::string render_table(const Cluster& cluster);
// One line of JSON: {"proxy", "requests", "instances", "errors"}.
std::string render_json(const Cluster& cluster);

}  // namespace baton::top
