// What the exchanges of both orders do alike: ask the instances that the flow names, relay D's stream to the
// receiver, go on at another D where one is lost, tell instances what the flow says they must know. Status
// and headers wait for D's first byte. io thread.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "http/client.h"
#include "http/message.h"
#include "http/sse.h"
#include "proxy/exchange.h"
#include "proxy/hub.h"
#include "router/answer_flow.h"

namespace baton::proxy {

class AnswerExchange : public Exchange {
 public:
  AnswerExchange(const AnswerExchange&) = delete;
  AnswerExchange& operator=(const AnswerExchange&) = delete;

  http::Awaitable<void> run() override;

 protected:
  // `from` is the client's request and gives headers.
  AnswerExchange(Hub& hub, const http::Request& from, Receiver& receiver);
  // For the destructor of the order's exchange, while its flow is there: what still runs is told to end.
  void close();

  virtual router::AnswerFlow& answer_flow() = 0;
  // Pull order: P's part.
  virtual http::Awaitable<router::Step> prefill(router::AskPrefill ask) = 0;
  // Layer-wise order: until P's part of the answer is here, or is not waited for any longer ...
  virtual http::Awaitable<void> await_prefill() = 0;
  virtual router::Step on_prefill_over() = 0;
  // ... and what is to be done before D is asked, and before a pause ...
  virtual void on_decode() {}
  virtual void on_pause() {}
  // ... and whether D need not be waited for.
  virtual bool gives_up_decode() const { return false; }

  // The request to an instance, which is watched from here on: it ends with kCancelled when a probe finds the
  // instance down.
  http::ClientRequest upstream(router::InstanceId id, std::string body, Duration head_timeout);
  // As it is told: a wait that ended because a probe found the instance down says so.
  Error failure(Error error) const;
  void tell_instances();

  Hub& hub_;
  const http::Request& from_;
  Receiver& receiver_;
  Watch watch_;  // of the instance that is asked

 private:
  http::Awaitable<router::Step> next(router::Step step);
  http::Awaitable<router::Step> decode(router::AskDecode ask);
  http::Awaitable<router::Step> read_whole(http::ResponseStream stream);
  http::Awaitable<router::Step> relay();
  Result<void> take_events(http::SseParser& parser, std::string& out);
  http::Awaitable<Result<void>> await_held(std::string& out);
  bool send(std::string& out);
  http::Awaitable<void> wait_until_given_up();
  bool is_unwanted() const { return is_unwanted_ || receiver_.is_gone(); }

  std::optional<http::ResponseStream> stream_;  // D's answer, once its head is here
  bool is_unwanted_ = false;                    // the receiver takes no more
};

}  // namespace baton::proxy
