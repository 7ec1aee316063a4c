// Recomputes the sample of --shadow, one at a time, after its clients have their answers, and compares. io
// thread.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "api/receipt.h"
#include "http/message.h"
#include "http/wake.h"
#include "proxy/hub.h"
#include "router/bodies.h"
#include "router/flow.h"
#include "router/shadow.h"

namespace baton::proxy {

inline constexpr size_t kShadowsWaitingMax = 16;                         // more are not checked, and counted
inline constexpr Duration kShadowPatience = std::chrono::seconds(10);    // for a load that permits it
inline constexpr Duration kShadowPause = std::chrono::milliseconds(50);  // between two looks at the load

// An answer to be checked.
struct ShadowJob {
  std::string request_id;
  router::Route route = router::Route::kCompletions;
  std::string body;  // of the recomputation
  http::Headers headers;
  api::Receipt claimed;
  std::vector<router::InstanceId> had_part;  // P and D
};

class Shadows {
 public:
  explicit Shadows(Hub& hub) : hub_(hub), news_(hub.loop) {}
  Shadows(const Shadows&) = delete;
  Shadows& operator=(const Shadows&) = delete;

  // Whether the answer to this request is to be checked, and so must have a receipt.
  bool takes(const router::ClientBody& client, std::string_view request_id) const;
  // `request` is the client's; its answer was `claimed` and is whole.
  void add(const http::Request& request, router::Route route, const router::FlowReport& flow,
           api::Receipt claimed);

  http::Awaitable<void> run();  // until the hub goes

 private:
  enum class Verdict { kChecked, kSkipped, kHubGoes };
  http::Awaitable<Verdict> check(ShadowJob& job);
  void compare(const ShadowJob& job, router::InstanceId place, const api::Receipt& again);
  void ask_for_records(const ShadowJob& job, router::InstanceId place);

  Hub& hub_;
  std::deque<ShadowJob> jobs_;
  http::Wake news_;
};

}  // namespace baton::proxy
