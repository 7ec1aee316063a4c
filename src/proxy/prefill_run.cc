#include "proxy/prefill_run.h"

#include <string>
#include <utility>

#include "proxy/layerwise_exchange.h"
#include "proxy/upstream.h"

namespace baton::proxy {

PrefillRun::PrefillRun(LayerwiseExchange& owner) : hub_(owner.hub()), owner_(&owner), watch_(hub_.loop) {
  hub_.watches.insert(&watch_);
}

std::shared_ptr<PrefillRun> PrefillRun::begin(LayerwiseExchange& owner, router::PrefillStep step) {
  auto self = std::make_shared<PrefillRun>(owner);
  owner.hub().loop.spawn("prefill", run(self, std::move(step)));
  return self;
}

void PrefillRun::end() {
  owner_ = nullptr;
  if (!over_) finish({false, "the request has gone another way"});
  watch_.give_up();
}

void PrefillRun::finish(router::PrefillOver over) {
  over_ = std::move(over);
  hub_.watches.erase(&watch_);
  for (const auto& waiter : waiters_) {
    if (const auto wake = waiter.lock()) wake->notify();
  }
  waiters_.clear();
}

http::Awaitable<Result<void>> PrefillRun::wait(std::shared_ptr<PrefillRun> run,
                                               std::optional<Duration> limit) {
  if (run->is_over()) co_return Result<void>{};
  const auto wake = std::make_shared<http::Wake>(run->hub_.loop);
  run->waiters_.push_back(wake);
  if (!limit) {
    const auto woken = co_await wake->wait();
    co_return woken;
  }
  const auto woken = co_await wake->wait_for(*limit);
  co_return woken;
}

// Nothing when the owner has gone meanwhile.
http::Awaitable<std::optional<router::PrefillStep>> PrefillRun::ask(router::AskPrefill ask) {
  const Time begin = hub_.loop.now();
  watch_.begin(ask.instance);
  const router::Instance* instance = hub_.registry.find(ask.instance);
  http::ClientRequest request{
      .to = hub_.address_of(*instance),
      .method = "POST",
      .target = std::string(router::route_path(owner_->flow().client().route)),
      .headers = hub_.upstream_headers(&owner_->from(), owner_->flow().prefill_request_id()),
      .body = std::move(ask.body),
      .head_timeout = hub_.options.prefill_timeout,
      .idle_timeout = hub_.options.idle_timeout,
      .interrupt = watch_.asked};
  auto response = co_await hub_.client.request(std::move(request));
  if (owner_ == nullptr) co_return std::nullopt;
  hub_.metrics.prefill_time_s.observe(seconds(hub_.loop.now() - begin));
  Result<router::UpstreamAnswer> answer;
  if (response) {
    answer =
        router::UpstreamAnswer{response->status, std::move(response->body), retry_after(response->headers)};
  } else if (watch_.is_given_up) {
    instance = hub_.registry.find(ask.instance);
    answer =
        fail(Code::kUnavailable, "it went down: " + (instance == nullptr ? "removed" : instance->reason));
  } else {
    hub_.probe_now(ask.instance);
    answer = Failure(response.error());
  }
  co_return owner_->on_prefill(std::move(answer));
}

http::Awaitable<void> PrefillRun::run(std::shared_ptr<PrefillRun> self, router::PrefillStep step) {
  while (self->owner_ != nullptr) {
    if (auto* ask = std::get_if<router::AskPrefill>(&step)) {
      router::AskPrefill request = std::move(*ask);
      auto next = co_await self->ask(std::move(request));
      if (!next) co_return;
      step = std::move(*next);
    } else if (const auto* pause = std::get_if<router::Pause>(&step)) {
      const auto slept = co_await self->hub_.loop.sleep(pause->duration);
      if (!slept || self->owner_ == nullptr) co_return;
      step = self->owner_->on_prefill_pause_done();
    } else {
      self->finish(std::move(std::get<router::PrefillOver>(step)));
      self->owner_->on_prefill_end();
      co_return;
    }
  }
}

}  // namespace baton::proxy
