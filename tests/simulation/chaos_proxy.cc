#include "tests/simulation/chaos_proxy.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace baton::simulation::chaos {
namespace {

constexpr Duration kAnswerMax = std::chrono::seconds(4);  // until the head, and between two events

}  // namespace

void Proxy::start(Time now) {
  registry_.emplace(options_.registry);
  ids_.clear();
  for (const Backend& backend : backends_)
    ids_.push_back(registry_->add(backend.side, "sim", backend.port, now));
}

void Proxy::kill(Time now) {
  const auto flights = std::exchange(flights_, {});
  for (const auto& [id, flight] : flights)
    receive_(flight.client, {.status = 502, .bytes = {}, .is_over = true});
  by_call_.clear();
  woken_.clear();
  wire_.leave_all(index_, Wire::End::kProxy, now);
}

void Proxy::request(size_t client, const std::string& body, std::string request_id, Time now) {
  const uint64_t id = next_++;
  Flight& flight = flights_[id];
  flight.client = client;
  flight.body = body;
  auto read = router::read_client_body(router::Route::kCompletions, flight.body);
  CHECK(read.has_value(), "{}", read.error().message);
  if (options_.order == api::HandoverOrder::kPull) {
    auto pull = std::make_unique<router::PullFlow>(*registry_, options_.limits, std::move(*read),
                                                   std::move(request_id), 7);
    flight.pull = pull.get();
    flight.flow = std::move(pull);
  } else {
    auto layerwise = std::make_unique<router::LayerwiseFlow>(
        *registry_, options_.limits, std::move(*read), std::move(request_id), 7,
        [](const router::Instance&) { return "http://sim/v1/metaserver"; });
    flight.layerwise = layerwise.get();
    flight.flow = std::move(layerwise);
  }
  flight.flow->set_wake([this, id] { woken_.insert(id); });
  carry_out(id, flight.flow->start(now), now);
}

void Proxy::client_left(size_t client, Time now) {
  const auto at =
      std::ranges::find_if(flights_, [&](const auto& entry) { return entry.second.client == client; });
  if (at == flights_.end()) return;
  at->second.flow->on_client_gone();
  end(at->first, {.status = 499, .bytes = {}, .is_over = true}, now);
}

void Proxy::close(uint64_t& call, Time now) {
  if (call == 0) return;
  wire_.leave(call, Wire::End::kProxy, now);
  by_call_.erase(std::exchange(call, 0));
}

void Proxy::clean_up(Flight& flight, Time now) {
  for (const router::Cleanup& cleanup : flight.flow->take_cleanups()) {
    const auto backend = std::ranges::find(backends_, cleanup.port, &Backend::port) - backends_.begin();
    for (const std::string& id : cleanup.ids) {
      const uint64_t call = wire_.open(index_, static_cast<size_t>(backend), {},
                                       {.kind = Piece::Kind::kAbort, .bytes = id}, now);
      wire_.leave(call, Wire::End::kProxy, now);
    }
  }
}

void Proxy::end(uint64_t id, Received received, Time now) {
  Flight& flight = flights_.at(id);
  clean_up(flight, now);
  const auto& placed = flight.flow->times().placement;
  alone += placed && placed->on == api::kAtDecode ? 1 : 0;
  close(flight.call, now);
  close(flight.p_call, now);
  received.is_over = true;
  resumed += flight.flow->resumptions();
  receive_(flight.client, received);
  // Its end may make room and wake others: it is no longer among them then.
  const auto node = flights_.extract(id);
}

size_t Proxy::backend_of(router::InstanceId instance) const {
  const auto at = std::ranges::find(ids_, instance);
  CHECK(at != ids_.end(), "an instance that is not known");
  return static_cast<size_t>(at - ids_.begin());
}

uint64_t Proxy::ask(uint64_t id, router::InstanceId instance, Piece request, Time now) {
  const uint64_t call =
      wire_.open(index_, backend_of(instance), flights_.at(id).flow->request_id(), std::move(request), now);
  by_call_[call] = id;
  return call;
}

void Proxy::carry_out(uint64_t id, router::Step step, Time now) {
  Flight& flight = flights_.at(id);
  clean_up(flight, now);
  const bool keeps_call =
      std::holds_alternative<router::Relay>(step) || std::holds_alternative<router::AwaitPrefill>(step);
  if (!keeps_call) close(flight.call, now);
  flight.until = kNever;
  flight.waits = Waits::kNothing;
  auto* const prefill = std::get_if<router::AskPrefill>(&step);
  auto* const decode = std::get_if<router::AskDecode>(&step);
  if (prefill != nullptr || decode != nullptr) {
    const router::InstanceId instance = prefill != nullptr ? prefill->instance : decode->instance;
    flight.is_prefill = prefill != nullptr;
    flight.relays = false;
    flight.later.clear();
    flight.backend = backend_of(instance);
    flight.call = ask(id, instance,
                      {.kind = Piece::Kind::kBegin,
                       .bytes = std::move(prefill != nullptr ? prefill->body : decode->body),
                       .notes = decode != nullptr && decode->notes},
                      now);
    flight.waits = Waits::kAnswer;
    flight.until = now + kAnswerMax;
  } else if (const auto* const pause = std::get_if<router::Pause>(&step)) {
    flight.relays = false;
    if (!flight.flow->has_begun()) {
      close(flight.p_call, now);
      flight.p_waits = Waits::kNothing;
      flight.p_until = kNever;
    }
    flight.waits = Waits::kPause;
    flight.until = now + pause->duration;
  } else if (const auto* const wait = std::get_if<router::Wait>(&step)) {
    flight.waits = Waits::kRoom;
    flight.until = now + wait->duration;
  } else if (std::holds_alternative<router::Relay>(step)) {
    flight.relays = true;
    flight.waits = Waits::kAnswer;
    flight.until = now + kAnswerMax;
  } else if (std::holds_alternative<router::AwaitPrefill>(step)) {
    await_prefill(id, now);
  } else if (auto* const reply = std::get_if<router::Reply>(&step)) {
    end(id, {.status = reply->status, .bytes = std::move(reply->body)}, now);
  } else if (const auto* const last = std::get_if<router::End>(&step)) {
    end(id, {.status = 200, .bytes = flight.out + last->events}, now);
  } else {
    CHECK(false, "step {} between Baton instances", step.index());
  }
}

// ---- D, and P in the pull order ----

void Proxy::take(const Call& call, Piece piece, Time now) {
  const auto at = by_call_.find(call.id);
  if (at == by_call_.end()) return;
  const uint64_t id = at->second;
  Flight& flight = flights_.at(id);
  if (call.id == flight.p_call) {
    if (piece.kind == Piece::Kind::kBroken) return prefilled(id, fail(Code::kUnavailable, piece.bytes), now);
    return prefilled(id, router::UpstreamAnswer{piece.status, std::move(piece.bytes)}, now);
  }
  if (piece.kind == Piece::Kind::kPost) return post(id, piece.bytes, now);
  if (flight.waits == Waits::kPrefill) return flight.later.push_back(std::move(piece));
  piece_of_answer(id, std::move(piece), now);
}

void Proxy::piece_of_answer(uint64_t id, Piece piece, Time now) {
  Flight& flight = flights_.at(id);
  flight.until = now + kAnswerMax;
  if (piece.kind == Piece::Kind::kBroken) return broke(id, {Code::kUnavailable, piece.bytes}, now);
  router::UpstreamAnswer answer{piece.status, std::move(piece.bytes)};
  if (flight.is_prefill) return carry_out(id, flight.pull->on_prefill(std::move(answer), now), now);
  if (piece.kv_unused) flight.flow->on_kv_unused();
  switch (piece.kind) {
    case Piece::Kind::kHead:
      return carry_out(id, flight.flow->on_decode_head(), now);
    case Piece::Kind::kEvent:
      return event_of_stream(id, piece.note, answer.body, now);
    case Piece::Kind::kEnd:
      return stream_ended(id, {}, now);
    case Piece::Kind::kWhole:
      return carry_out(id, flight.flow->on_decode_whole(std::move(answer), now), now);
    default:
      CHECK(false, "piece {}", static_cast<int>(piece.kind));
  }
}

void Proxy::event_of_stream(uint64_t id, const std::string& note, const std::string& data, Time now) {
  Flight& flight = flights_.at(id);
  const std::string raw = note + (data.empty() ? "\n" : "data: " + data + "\n\n");
  flight.flow->on_event(raw, data, flight.out);
  if (flight.flow->waits()) await_prefill(id, now);
}

void Proxy::stream_ended(uint64_t id, const Result<void>& end_of_stream, Time now) {
  Flight& flight = flights_.at(id);
  flight.relays = false;
  carry_out(id, flight.flow->on_stream_end(end_of_stream, now), now);
}

void Proxy::broke(uint64_t id, const Error& error, Time now) {
  Flight& flight = flights_.at(id);
  if (flight.relays) return stream_ended(id, Failure(error), now);
  carry_out(id,
            flight.is_prefill ? flight.pull->on_prefill(Failure(error), now)
                              : flight.flow->on_decode_whole(Failure(error), now),
            now);
}

// ---- P in the layer-wise order ----

void Proxy::post(uint64_t id, const std::string& body, Time now) {
  Flight& flight = flights_.at(id);
  const auto read = router::read_metaserver_post(body);
  CHECK(read.has_value(), "{}", read.error().message);
  router::PostVerdict verdict = flight.layerwise->on_post(*read, true, now);
  if (verdict.status != 200) {
    wire_.send(flight.call, Wire::End::kInstance, {.kind = Piece::Kind::kPostOver, .bytes = verdict.detail},
               now);
  }
  if (verdict.begins) carry_out_prefill(id, std::move(*verdict.begins), now);
}

void Proxy::carry_out_prefill(uint64_t id, router::PrefillStep step, Time now) {
  Flight& flight = flights_.at(id);
  clean_up(flight, now);
  close(flight.p_call, now);
  flight.p_waits = Waits::kNothing;
  flight.p_until = kNever;
  if (auto* const prefill = std::get_if<router::AskPrefill>(&step)) {
    flight.p_backend = backend_of(prefill->instance);
    flight.p_call =
        ask(id, prefill->instance, {.kind = Piece::Kind::kBegin, .bytes = std::move(prefill->body)}, now);
    flight.p_waits = Waits::kAnswer;
    flight.p_until = now + kAnswerMax;
  } else if (const auto* const pause = std::get_if<router::Pause>(&step)) {
    flight.p_waits = Waits::kPause;
    flight.p_until = now + pause->duration;
  } else {
    const auto& over = std::get<router::PrefillOver>(step);
    if (!over.ok)
      wire_.send(flight.call, Wire::End::kInstance, {.kind = Piece::Kind::kPostOver, .bytes = over.detail},
                 now);
    if (flight.waits == Waits::kPrefill) prefill_is_over(id, now);
  }
}

void Proxy::prefilled(uint64_t id, Result<router::UpstreamAnswer> answer, Time now) {
  carry_out_prefill(id, flights_.at(id).layerwise->on_prefill(std::move(answer), now), now);
}

// D's whole answer, or an event of its stream, needs P's part.
void Proxy::await_prefill(uint64_t id, Time now) {
  Flight& flight = flights_.at(id);
  flight.waits = Waits::kPrefill;
  const auto limit = flight.layerwise->prefill_wait();
  flight.until = limit ? now + *limit : kNever;
  if (auto step = flight.layerwise->prefill_for_prompt(now))
    return carry_out_prefill(id, std::move(*step), now);
  if (flight.p_waits == Waits::kNothing) prefill_is_over(id, now);
}

void Proxy::prefill_is_over(uint64_t id, Time now) {
  Flight& flight = flights_.at(id);
  flight.waits = Waits::kAnswer;
  flight.until = now + kAnswerMax;
  if (!flight.relays) return carry_out(id, flight.layerwise->on_prefill_over(now), now);
  if (const auto passed_on = flight.layerwise->resume(flight.out); !passed_on)
    return stream_ended(id, Failure(passed_on.error()), now);
  CHECK(!flight.layerwise->waits(), "an event waits for a P that has ended");
  auto later = std::exchange(flight.later, {});
  for (Piece& piece : later) {
    const auto at = flights_.find(id);
    if (at == flights_.end()) return;
    if (at->second.waits == Waits::kPrefill) {
      at->second.later.push_back(std::move(piece));
    } else {
      piece_of_answer(id, std::move(piece), now);
    }
  }
}

// ---- time ----

void Proxy::out_of_time(uint64_t id, Time now) {
  Flight& flight = flights_.at(id);
  switch (flight.waits) {
    case Waits::kAnswer:
      return broke(id, {Code::kTimeout, "no answer in time"}, now);
    case Waits::kPause:
      return carry_out(id, flight.flow->on_pause_done(now), now);
    case Waits::kRoom:
      return carry_out(id, flight.flow->on_wait_over(), now);
    case Waits::kPrefill:
      flight.layerwise->on_prefill_late();
      clean_up(flight, now);
      close(flight.p_call, now);
      flight.p_waits = Waits::kNothing;
      flight.p_until = kNever;
      return prefill_is_over(id, now);
    case Waits::kNothing:
      CHECK(false, "a flight waits for nothing");
  }
}

void Proxy::on_time(Time now) {
  std::vector<uint64_t> due;
  for (const auto& [id, flight] : flights_) {
    if (flight.until <= now || flight.p_until <= now) due.push_back(id);
  }
  for (const uint64_t id : due) {
    Flight& flight = flights_.at(id);
    if (flight.until <= now) {
      out_of_time(id, now);
    } else if (flight.p_waits == Waits::kPause) {
      carry_out_prefill(id, flight.layerwise->on_prefill_pause_done(now), now);
    } else {
      prefilled(id, fail(Code::kTimeout, "no answer in time"), now);
    }
  }
  while (!woken_.empty()) {
    const uint64_t id = *woken_.begin();
    woken_.erase(woken_.begin());
    const auto at = flights_.find(id);
    if (at != flights_.end() && at->second.waits == Waits::kRoom)
      carry_out(id, at->second.flow->on_room(now), now);
  }
}

Time Proxy::next_time() const {
  Time next = woken_.empty() ? kNever : Time{};
  for (const auto& [id, flight] : flights_) next = std::min({next, flight.until, flight.p_until});
  return next;
}

// Who waits for an instance that has gone down waits no longer.
void Proxy::on_probe(size_t backend, const std::optional<api::InstanceIdentity>& identity, Time now) {
  if (identity) return registry_->on_probe_ok(ids_[backend], identity, now);
  registry_->on_probe_failed(ids_[backend], "no answer", now);
  std::vector<uint64_t> waiting;
  for (const auto& [id, flight] : flights_) {
    const bool is_asked = flight.waits == Waits::kAnswer && flight.backend == backend;
    const bool is_prefilling = flight.p_waits == Waits::kAnswer && flight.p_backend == backend;
    if (is_asked || is_prefilling) waiting.push_back(id);
  }
  for (const uint64_t id : waiting) {
    const Flight& flight = flights_.at(id);
    const Error error{Code::kUnavailable, "it went down"};
    if (flight.waits == Waits::kAnswer && flight.backend == backend) {
      broke(id, error, now);
    } else {
      prefilled(id, Failure(error), now);
    }
  }
}

bool Proxy::is_up(size_t backend) const {
  return registry_->find(ids_[backend])->health == router::Health::kUp;
}

std::string Proxy::find_leak() const {
  if (!flights_.empty()) return fmt::format("proxy {}: {} requests have not ended", index_, flights_.size());
  if (!registry_->queue().empty()) return fmt::format("proxy {}: places in the queue are left", index_);
  for (const auto& instance : registry_->instances()) {
    if (instance->in_flight != 0 || instance->active_tokens != 0 || instance->active_kv != 0 ||
        instance->own_prefill != 0)
      return fmt::format("proxy {}: a reservation of {} is left", index_, instance->address());
  }
  return {};
}

}  // namespace baton::simulation::chaos
