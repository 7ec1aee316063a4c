#include <utility>

#include "base/check.h"
#include "router/registry.h"

namespace baton::router {

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this == &other) return *this;
  release();
  registry_ = std::exchange(other.registry_, nullptr);
  instance_ = other.instance_;
  tokens_ = std::exchange(other.tokens_, 0);
  kv_ = std::exchange(other.kv_, 0);
  expected_cached_ = other.expected_cached_;
  own_prefill_ = std::exchange(other.own_prefill_, 0);
  is_trial_ = std::exchange(other.is_trial_, false);
  promise_ = std::exchange(other.promise_, std::nullopt);
  return *this;
}

void Reservation::release_tokens() {
  if (registry_ == nullptr) return;
  if (Instance* instance = registry_->get(instance_)) instance->active_tokens -= tokens_;
  tokens_ = 0;
}

void Reservation::release_promise() {
  if (registry_ == nullptr || !promise_) return;
  --registry_->promised_[static_cast<size_t>(*std::exchange(promise_, std::nullopt))];
}

void Reservation::release_prefill() {
  if (registry_ == nullptr || own_prefill_ == 0) return;
  if (Instance* instance = registry_->get(instance_)) instance->own_prefill -= own_prefill_;
  own_prefill_ = 0;
}

void Reservation::release() {
  if (registry_ == nullptr) return;
  release_promise();
  release_prefill();
  Registry* registry = std::exchange(registry_, nullptr);
  Instance* instance = registry->get(instance_);
  CHECK(instance != nullptr, "instance {} left with a request in flight", static_cast<uint32_t>(instance_));
  instance->active_tokens -= tokens_;
  instance->active_kv -= kv_;
  --instance->in_flight;
  if (instance->in_flight == 0)  // no drift of roundings
    instance->active_tokens = instance->active_kv = instance->own_prefill = 0;
  if (std::exchange(is_trial_, false)) instance->breaker.on_trial_left();
  registry->drop_if_drained(instance_);
  registry->queue_.on_room();
}

}  // namespace baton::router
