// Carries out one flow of the pull order: P is asked first, then D (AnswerExchange). io thread.
#pragma once

#include <string>
#include <utility>

#include "http/message.h"
#include "proxy/answer_exchange.h"
#include "router/pull_flow.h"

namespace baton::proxy {

class PullExchange final : public AnswerExchange {
 public:
  // As make_exchange.
  PullExchange(Hub& hub, const http::Request& from, Receiver& receiver, router::ClientBody client,
               std::string id);
  ~PullExchange() override { close(); }

  const router::FlowReport& flow() const override { return flow_; }

 private:
  router::AnswerFlow& answer_flow() override { return flow_; }
  http::Awaitable<router::Step> prefill(router::AskPrefill ask) override;
  http::Awaitable<void> await_prefill() override { co_return; }
  router::Step on_prefill_over() override { return router::Pause{}; }

  router::PullFlow flow_;
};

}  // namespace baton::proxy
