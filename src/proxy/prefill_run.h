// P's thread of a layer-wise exchange: asks one P after the other, as the flow says, until its part is over;
// the metaserver's replies and the end of D's answer wait for that. Owned by the exchange that began it and
// by whoever waits for it; io thread.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "http/io_loop.h"
#include "http/wake.h"
#include "proxy/hub.h"
#include "router/layerwise_flow.h"

namespace baton::proxy {

class LayerwiseExchange;

class PrefillRun {
 public:
  // Runs until it is over or end() is called. `owner` outlives the latter.
  static std::shared_ptr<PrefillRun> begin(LayerwiseExchange& owner, router::PrefillStep step);
  explicit PrefillRun(LayerwiseExchange& owner);
  PrefillRun(const PrefillRun&) = delete;
  PrefillRun& operator=(const PrefillRun&) = delete;

  // Its work is not wanted any more: what runs at P is closed.
  void end();
  bool is_over() const { return over_.has_value(); }
  // What the metaserver replies; once it is over.
  const router::PrefillOver& over() const { return *over_; }

  // Until it is over, or kTimeout after `limit` (none: as long as it takes). kCancelled as Wake::wait.
  static http::Awaitable<Result<void>> wait(std::shared_ptr<PrefillRun> run, std::optional<Duration> limit);

 private:
  static http::Awaitable<void> run(std::shared_ptr<PrefillRun> self, router::PrefillStep step);
  http::Awaitable<std::optional<router::PrefillStep>> ask(router::AskPrefill ask);
  void finish(router::PrefillOver over);

  Hub& hub_;
  LayerwiseExchange* owner_;
  Watch watch_;  // of the P that is asked; given up by end() too
  std::optional<router::PrefillOver> over_;
  std::vector<std::weak_ptr<http::Wake>> waiters_;
};

}  // namespace baton::proxy
