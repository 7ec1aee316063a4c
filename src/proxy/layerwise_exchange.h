// Carries out one layer-wise flow: asks D, relays its stream to a receiver, and, when D's post comes, has P
// asked (PrefillRun). Status and headers wait for D's first byte. io thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "http/client.h"
#include "http/message.h"
#include "proxy/exchange.h"
#include "proxy/hub.h"
#include "proxy/prefill_run.h"
#include "router/layerwise_flow.h"

namespace baton::proxy {

class LayerwiseExchange final : public Exchange {
 public:
  // `from` is the client's request and gives headers; `id` goes upstream as X-Request-Id.
  LayerwiseExchange(Hub& hub, const http::Request& from, Receiver& receiver, router::ClientBody client,
                    std::string id);
  ~LayerwiseExchange() override;
  LayerwiseExchange(const LayerwiseExchange&) = delete;
  LayerwiseExchange& operator=(const LayerwiseExchange&) = delete;

  http::Awaitable<void> run() override;
  const router::LayerwiseFlow& flow() const override { return flow_; }
  Hub& hub() const { return hub_; }
  const http::Request& from() const { return from_; }

  // A post in D's name. `peer`: who sent it. With status 200 the reply is that of prefill_run(), once it is
  // over.
  router::PostVerdict on_post(const router::MetaserverPost& post, const net::Endpoint& peer);
  std::shared_ptr<PrefillRun> prefill_run() const { return prefill_run_; }

 private:
  friend class PrefillRun;
  router::PrefillStep on_prefill(Result<router::UpstreamAnswer> answer);
  router::PrefillStep on_prefill_pause_done();
  void on_prefill_end();

  http::Awaitable<void> carry_out();
  http::Awaitable<void> wait_for_down();
  http::ClientRequest upstream(const router::AskDecode& ask);
  http::Awaitable<router::LayerwiseStep> decode(router::AskDecode ask);
  http::Awaitable<router::LayerwiseStep> read_whole(http::ResponseStream stream);
  // Nothing when the receiver has its answer, else what comes next.
  http::Awaitable<std::optional<router::LayerwiseStep>> relay(http::ResponseStream stream);
  http::Awaitable<Result<void>> resume_held(std::string& out);
  http::Awaitable<void> await_prefill();
  void begin_prefill(router::PrefillStep step);
  void end_prefill();
  void expect_post();
  void tell_instances();
  // The failure as it is told: a wait that ended because a probe found the instance down says so.
  Error failure(Error error) const;

  Hub& hub_;
  const http::Request& from_;
  Receiver& receiver_;
  Watch watch_;  // of D, while it is asked
  router::LayerwiseFlow flow_;
  std::string expected_post_;  // its name in hub_.reservations
  std::shared_ptr<PrefillRun> prefill_run_;
  std::optional<http::ResponseStream> stream_;  // D's answer, once its head is here
  bool is_down_ = false;
  bool resets_cancellation_ = false;
};

}  // namespace baton::proxy
