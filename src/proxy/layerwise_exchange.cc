#include "proxy/layerwise_exchange.h"

#include <utility>

#include "net/interfaces.h"
#include "proxy/upstream.h"

namespace baton::proxy {
namespace {

// Whether `peer` may be instance `d`, as far as addresses tell: a name may stand for any of them, and what
// runs on this machine has all of its addresses.
bool may_be(const net::Endpoint& peer, const router::Instance& d) {
  const auto known = net::literal_endpoint(d.host, 0);
  if (!known) return true;
  const std::string host = net::to_address(peer).host;
  if (host == net::to_address(*known).host) return true;
  return net::is_local_host(host) && net::is_local_host(d.host);
}

}  // namespace

LayerwiseExchange::LayerwiseExchange(Hub& hub, const http::Request& from, Receiver& receiver,
                                     router::ClientBody client, std::string id)
    : AnswerExchange(hub, from, receiver),
      flow_(hub.registry, flow_limits(hub.options), std::move(client), std::move(id),
            hub.seeds() >> 1,  // instances read a signed number
            [&hub](const router::Instance& d) { return hub.metaserver_url(d); }) {
  flow_.set_wake([this] { watch_.room.notify(); });
}

LayerwiseExchange::~LayerwiseExchange() {
  flow_.on_client_gone();  // nothing, if it is over
  end_prefill();
  expect_post();
  close();
}

// The post of this round alone finds this exchange.
void LayerwiseExchange::expect_post() {
  const std::string id = flow_.post_id();
  if (id == expected_post_) return;
  if (!expected_post_.empty()) hub_.reservations.erase(expected_post_);
  if (!id.empty()) hub_.reservations.emplace(id, this);
  expected_post_ = id;
}

router::PostVerdict LayerwiseExchange::on_post(const router::MetaserverPost& post,
                                               const net::Endpoint& peer) {
  const router::Instance* d = hub_.registry.find(flow_.decode_instance().value_or(router::InstanceId{}));
  router::PostVerdict verdict = flow_.on_post(post, d != nullptr && may_be(peer, *d), hub_.loop.now());
  if (verdict.begins) begin_prefill(std::move(*verdict.begins));
  return verdict;
}

void LayerwiseExchange::begin_prefill(router::PrefillStep step) {
  end_prefill();
  prefill_run_ = PrefillRun::begin(*this, std::move(step));
}

void LayerwiseExchange::end_prefill() {
  if (prefill_run_) prefill_run_->end();
  prefill_run_.reset();
}

router::PrefillStep LayerwiseExchange::on_prefill(Result<router::UpstreamAnswer> answer) {
  router::PrefillStep step = flow_.on_prefill(std::move(answer), hub_.loop.now());
  tell_instances();
  return step;
}

router::PrefillStep LayerwiseExchange::on_prefill_pause_done() {
  return flow_.on_prefill_pause_done(hub_.loop.now());
}

void LayerwiseExchange::on_prefill_end() {
  if (flow_.gives_up_decode()) watch_.give_up();
}

http::Awaitable<void> LayerwiseExchange::await_prefill() {
  if (auto step = flow_.prefill_for_prompt(hub_.loop.now())) begin_prefill(std::move(*step));
  if (!prefill_run_) co_return;
  const std::shared_ptr<PrefillRun> run = prefill_run_;
  const std::optional<Duration> limit = flow_.prefill_wait();
  const auto woken = co_await PrefillRun::wait(run, limit);
  if (receiver_.is_gone() || woken || woken.error().code != Code::kTimeout) co_return;
  flow_.on_prefill_late();
  end_prefill();
}

// D is asked again from the beginning: P's work for it is not wanted. Where it goes on, P's part still is.
void LayerwiseExchange::on_pause() {
  if (!flow_.has_begun()) end_prefill();
}

}  // namespace baton::proxy
