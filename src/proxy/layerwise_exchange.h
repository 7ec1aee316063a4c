// Carries out one layer-wise flow: D is asked (AnswerExchange), and when its post comes, P (PrefillRun). io
// thread.
#pragma once

#include <memory>
#include <string>

#include "http/message.h"
#include "proxy/answer_exchange.h"
#include "proxy/hub.h"
#include "proxy/prefill_run.h"
#include "router/layerwise_flow.h"

namespace baton::proxy {

class LayerwiseExchange final : public AnswerExchange {
 public:
  // As make_exchange.
  LayerwiseExchange(Hub& hub, const http::Request& from, Receiver& receiver, router::ClientBody client,
                    std::string id);
  ~LayerwiseExchange() override;

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

  router::AnswerFlow& answer_flow() override { return flow_; }
  http::Awaitable<router::Step> prefill(router::AskPrefill /*ask*/) override { co_return router::Pause{}; }
  http::Awaitable<void> await_prefill() override;
  router::Step on_prefill_over() override { return flow_.on_prefill_over(hub_.loop.now()); }
  void on_decode() override { expect_post(); }
  void on_pause() override;
  bool gives_up_decode() const override { return flow_.gives_up_decode(); }
  void begin_prefill(router::PrefillStep step);
  void end_prefill();
  void expect_post();

  router::LayerwiseFlow flow_;
  std::string expected_post_;  // its name in hub_.reservations
  std::shared_ptr<PrefillRun> prefill_run_;
};

}  // namespace baton::proxy
