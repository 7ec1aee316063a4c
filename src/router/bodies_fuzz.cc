// Bodies that clients and instances send a proxy. What goes on to P, to D and back to the client is JSON
// where what came was (the proxy looks at members, not into them), and no client's kv_transfer_params get
// through. Three bits of the first byte choose the path; then, each behind a zero byte, the client's body,
// P's answer, D's answer, and an event of D's stream.
#include "router/bodies.h"

#include <boost/json/parse.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/check.h"

namespace {
using namespace baton;
namespace json = boost::json;

std::string_view take(std::string_view& rest) {
  const std::string_view part = rest.substr(0, rest.find('\0'));
  rest.remove_prefix(std::min(rest.size(), part.size() + 1));
  return part;
}

bool is_json(std::string_view text) { return api::parse_json(text).has_value(); }

// What was made of something that `was_json`.
std::optional<json::value> made(std::string_view text, bool was_json) {
  json::parse_options deep;
  deep.max_depth = 512;  // what had the greatest depth that a client may send is nested once more
  boost::system::error_code error;
  json::value value = json::parse(text, error, {}, deep);
  if (!was_json) return std::nullopt;
  CHECK(!error, "{}: {}", error.message(), text);
  return value;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const bool to_baton = (data[0] & 1) != 0;
  const bool has_p = (data[0] & 2) != 0;
  const router::Route route = (data[0] & 4) != 0 ? router::Route::kChat : router::Route::kCompletions;
  std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string_view body = take(rest);
  const std::string_view p_text = take(rest);
  const std::string_view d_text = take(rest);
  const std::string_view event = take(rest);

  const auto client = router::read_client_body(route, body);
  if (!client) return 0;
  const bool client_json = is_json(body);
  const bool p_json = is_json(p_text);
  if (const auto to_p = made(router::prefill_body(*client, to_baton, 7), client_json)) {
    CHECK(to_p->at("kv_transfer_params").at("do_remote_decode").as_bool());
  }
  if (const auto to_d = made(router::decode_body(*client, "", to_baton, 7), client_json)) {
    CHECK(!to_d->as_object().contains("kv_transfer_params"));
  }

  const auto p = router::read_prefill_answer(std::string(p_text));
  const router::PrefillAnswer* answer = has_p && p ? &*p : nullptr;
  if (p) {
    made(router::decode_body(*client, p->kv_transfer_params, to_baton, 7), client_json && p_json);
    for (const std::string& one : router::as_events(*client, *p)) made(one, p_json);
  }
  const bool from_p = answer == nullptr || p_json;
  if (const auto whole = router::whole_answer(*client, answer, std::string(d_text))) {
    made(*whole, from_p && is_json(d_text));
  }
  router::EventMerger merger(*client, answer);
  for (int times = 0; times < 2; ++times) {
    if (const auto merged = merger.merge(event); merged && !merged->empty())
      made(*merged, from_p && is_json(event));
  }
  return 0;
}
