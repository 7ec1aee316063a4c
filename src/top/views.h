// What a proxy and its instances say of their requests (GET /debug/requests), read as far as `baton top`
// shows it. The bytes are foreign: bounded, every member may be missing or of another type, and texts lose
// what a terminal would obey.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::top {

inline constexpr size_t kViewBytesMax = 16UL << 20;  // of one /debug/requests
inline constexpr size_t kViewRowsMax = 65'536;       // requests or instances of one view
inline constexpr size_t kTextBytesMax = 512;         // of one text; the rest is cut off

struct ProxyRequest {
  std::string id;         // its name at the instances
  std::string client_id;  // the client's own; empty: none
  double age_ms = 0;
  std::string phase;
  std::string waits_for;
  double since_ms = 0;
  std::optional<double> until_ms = {};
};

struct KnownInstance {
  std::string address;  // host:port
  std::string role;     // prefill, decode
  std::string health;
  std::string reason = {};  // why it is not up
  bool is_baton = false;    // others have no /debug/requests
};

struct ProxyView {
  std::vector<ProxyRequest> requests;
  std::vector<KnownInstance> instances;
};

struct InstanceRequest {
  std::string id;
  std::string state;
  std::string waits_for;  // empty while it is computed
  double since_ms = 0;
  std::optional<double> until_ms = {};
  int64_t prompt_tokens = 0;
  int64_t computed_tokens = 0;
  int64_t output_tokens = 0;
};

// kCorrupt: no JSON object with a list `requests` (and, of a proxy, `instances`), or more than the bounds
// above.
Result<ProxyView> parse_proxy_view(std::string_view text);
Result<std::vector<InstanceRequest>> parse_instance_view(std::string_view text);

// `text` without control characters (C0, DEL, C1) and what is not UTF-8, at most kTextBytesMax bytes.
std::string shown_text(std::string_view text);

}  // namespace baton::top
