// Carries out one flow: asks the instances that it names, relays D's stream to a receiver, tells P and D what
// the flow says they must know. Status and headers wait for D's first byte. io thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "http/client.h"
#include "http/message.h"
#include "proxy/hub.h"
#include "router/bodies.h"
#include "router/pull_flow.h"

namespace baton::proxy {

// Where a flow's answer goes: to the client itself, or to what joins it with others.
class Receiver {
 public:
  virtual ~Receiver() = default;
  // Nobody wants the answer any more; nothing below is called afterwards.
  virtual bool is_gone() const = 0;
  // Events of D's stream, each whole. Returns when there is room for more; an error when nobody wants more.
  virtual http::Awaitable<Result<void>> take(std::string_view events) = 0;
  // D's stream, of which something was taken, is over. `events`: what is left of it.
  virtual void end(std::string_view events) = 0;
  // The answer, of which nothing was taken.
  virtual void reply(router::Reply reply) = 0;
  // There is no answer: the request has to be split (router::Split).
  virtual void split() = 0;
};

// One flow while it is carried out.
class Exchange {
 public:
  virtual ~Exchange() = default;  // whatever still runs upstream is ended
  // Until the receiver has its answer or is gone.
  virtual http::Awaitable<void> run() = 0;
  virtual const router::FlowReport& flow() const = 0;
};

class PullExchange final : public Exchange {
 public:
  // `from` is the client's request and gives headers; `client` its body, or that of one part of it; `id` goes
  // upstream as X-Request-Id.
  PullExchange(Hub& hub, const http::Request& from, Receiver& receiver, router::ClientBody client,
               std::string id);
  ~PullExchange() override;
  PullExchange(const PullExchange&) = delete;
  PullExchange& operator=(const PullExchange&) = delete;

  http::Awaitable<void> run() override;
  const router::FlowReport& flow() const override { return flow_; }

 private:
  http::Awaitable<void> carry_out();
  http::Awaitable<void> wait_for_down();
  void tell_instances();
  http::ClientRequest upstream(router::InstanceId id, std::string body, Duration head_timeout);
  http::Awaitable<router::Step> prefill(router::AskPrefill ask);
  http::Awaitable<router::Step> decode(router::AskDecode ask);
  http::Awaitable<router::Step> read_whole(http::ResponseStream stream);
  // Nothing when the receiver has its answer, else what comes next.
  http::Awaitable<std::optional<router::Step>> relay(http::ResponseStream stream);
  // The failure as it is told: a wait that ended because a probe found the instance down says so.
  Error failure(Error error) const;

  Hub& hub_;
  const http::Request& from_;
  Receiver& receiver_;
  std::shared_ptr<Watch> watch_;
  router::PullFlow flow_;
  std::optional<http::ResponseStream> stream_;  // D's answer, once its head is here
  bool is_down_ = false;
  bool resets_cancellation_ = false;
};

// The exchange of either order; the arguments as above.
std::unique_ptr<Exchange> make_exchange(Hub& hub, api::HandoverOrder order, const http::Request& from,
                                        Receiver& receiver, router::ClientBody client, std::string id);

}  // namespace baton::proxy
