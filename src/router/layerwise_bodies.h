// What goes upstream in the layer-wise order, as bytes: the client's body with the metaserver for D, the
// client's body with D's post for P. Members that are not touched keep the bytes they were written in.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/result.h"
#include "router/bodies.h"

namespace baton::router {

inline constexpr size_t kMetaserverPostBytesMax = 4UL << 20;

// D's post to the metaserver, read as far as the proxy must.
struct MetaserverPost {
  std::string request_id;
  std::string text;                        // the object as it was posted
  std::optional<Incarnation> incarnation;  // of the D that says so; nothing: it is no Baton instance
};
// kInvalid: not an object, no request_id, or a landing that cannot be read. Posts of every version of
// vllm-ascend's connector are taken.
Result<MetaserverPost> read_metaserver_post(std::string_view body);

// The request to D. A Baton D computes the prompt itself if no P comes, so it keeps prompt_logprobs, which
// others cannot answer for KV that they did not compute.
std::string reserve_body(const ClientBody& client, std::string_view metaserver, bool to_baton, uint64_t seed);

// The request to P: prefill_body with what D posted, byte for byte. A Baton instance finds the client's true
// limits inside "baton".
std::string landing_body(const ClientBody& client, std::string_view post, bool to_baton, uint64_t seed);

// The request to P where D needs no KV but the client wants to know about the prompt: no hand-over.
std::string prompt_body(const ClientBody& client, bool to_baton, uint64_t seed);

}  // namespace baton::router
