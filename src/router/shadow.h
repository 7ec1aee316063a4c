// --shadow: a sample of requests is computed once more, whole, on one instance, after its client has its
// answer; the two receipts (api/receipt.h) must be equal. What is decided about it, sans-I/O; proxy/shadow.h
// does it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/receipt.h"
#include "base/result.h"
#include "router/bodies.h"
#include "router/registry.h"

namespace baton::router {

inline constexpr uint32_t kShadowBesideMax = 4;  // requests that an instance may have beside a shadow
inline constexpr size_t kShadowBodyBytesMax = 1UL << 20;  // of the client; longer ones are not sampled
inline constexpr size_t kShadowPromptTokensMax =
    32 * 1024;  // beyond it the recomputation is not worth its time

// Whether the request of this name is one of the sample: a function of the name and the share [0, 1] alone,
// and a larger share has all of a smaller one's.
bool is_sampled(std::string_view request_id, double share);

// Whether this request can be recomputed at all: one prompt, and every instance that is up can give a
// receipt.
bool can_be_shadowed(const ClientBody& client, const Registry& registry);

// Who computes it: the least busy instance that is up, whose model is the receipt's, one that had no part in
// the answer if there is one. Nothing while the load does not permit: requests wait at the proxy, or all such
// instances have kShadowBesideMax requests or more.
std::optional<InstanceId> shadow_place(const Registry& registry, const api::Receipt& claimed,
                                       const std::vector<InstanceId>& had_part);

// The body of the recomputation: the client's with the seed and the limits that the receipt names, no stream
// and no part of a hand-over. `salt` keeps it from every prefix that an instance has cached: those are what
// is to be checked.
std::string shadow_body(const ClientBody& client, const api::Receipt& claimed, std::string_view salt);

// Of the sample, while its answer goes to the client: the receipt is read, and left out for a client that did
// not ask for one.
class ReceiptTap {
 public:
  explicit ReceiptTap(bool keeps) : keeps_(keeps) {}

  // `events`: whole SSE events. Nothing: they go as they are.
  std::optional<std::string> events(std::string_view events);
  // A whole answer; nothing: it goes as it is.
  std::optional<std::string> whole(std::string_view body);

  const std::optional<api::Receipt>& receipt() const { return receipt_; }

 private:
  bool keeps_;
  std::optional<api::Receipt> receipt_;
};

}  // namespace baton::router
