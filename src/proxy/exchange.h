// One request's way through the instances, and where its answer goes. io thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "api/identity.h"
#include "http/io_loop.h"
#include "http/message.h"
#include "proxy/hub.h"
#include "router/bodies.h"
#include "router/flow.h"

namespace baton::proxy {

// Where a flow's answer goes: to the client itself, or to what joins it with others.
class Receiver {
 public:
  virtual ~Receiver() = default;
  // Nobody wants the answer any more; nothing below is called afterwards.
  virtual bool is_gone() const = 0;
  // Events of D's stream, each whole, taken at once. False when nobody wants more.
  virtual bool take(std::string_view events) = 0;
  // Whether more may be taken; else wait_for_room() returns when it may, or nobody wants more.
  virtual bool has_room() const = 0;
  virtual http::Awaitable<void> wait_for_room() = 0;
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

// The exchange of either order. `from` is the client's request and gives headers; `client` its body, or that
// of one part of it; `id` goes upstream as X-Request-Id.
std::unique_ptr<Exchange> make_exchange(Hub& hub, api::HandoverOrder order, const http::Request& from,
                                        Receiver& receiver, router::ClientBody client, std::string id);

}  // namespace baton::proxy
