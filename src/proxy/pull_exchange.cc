#include "proxy/pull_exchange.h"

#include <string>

#include "proxy/upstream.h"

namespace baton::proxy {

PullExchange::PullExchange(Hub& hub, const http::Request& from, Receiver& receiver, router::ClientBody client,
                           std::string id)
    : AnswerExchange(hub, from, receiver),
      flow_(hub.registry, flow_limits(hub.options), std::move(client), std::move(id),
            hub.seeds() >> 1) {  // instances read a signed number
  flow_.set_wake([this] { watch_.room.notify(); });
}

http::Awaitable<router::Step> PullExchange::prefill(router::AskPrefill ask) {
  const Time begin = hub_.loop.now();
  http::ClientRequest request = upstream(ask.instance, std::move(ask.body), hub_.options.prefill_timeout);
  if (ask.data_parallel_rank)
    request.headers.add("X-data-parallel-rank", std::to_string(*ask.data_parallel_rank));
  auto answer = co_await hub_.client.request(std::move(request));
  hub_.metrics.prefill_time_s.observe(seconds(hub_.loop.now() - begin));
  if (receiver_.is_gone()) co_return router::Pause{};  // not P's failure
  if (!answer) co_return flow_.on_prefill(Failure(failure(answer.error())), hub_.loop.now());
  router::UpstreamAnswer upstream{answer->status, std::move(answer->body), retry_after(answer->headers)};
  co_return flow_.on_prefill(std::move(upstream), hub_.loop.now());
}

}  // namespace baton::proxy
