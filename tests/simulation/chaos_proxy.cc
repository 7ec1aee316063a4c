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
  flight.flow = std::make_unique<router::PullFlow>(*registry_, options_.limits, std::move(*read),
                                                   std::move(request_id), 7);
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
  if (flight.call != 0) {
    wire_.leave(flight.call, Wire::End::kProxy, now);
    by_call_.erase(flight.call);
  }
  received.is_over = true;
  receive_(flight.client, received);
  // Its end may make room: the flow must not be looked at while it goes.
  const auto flow = std::move(flight.flow);
  flights_.erase(id);
}

void Proxy::ask(Flight& flight, router::InstanceId instance, std::string body, bool is_prefill, Time now) {
  const auto at = std::ranges::find(ids_, instance);
  CHECK(at != ids_.end(), "an instance that is not known");
  flight.backend = static_cast<size_t>(at - ids_.begin());
  flight.is_prefill = is_prefill;
  flight.waits = Flight::Waits::kAnswer;
  flight.until = now + kAnswerMax;
  flight.call = wire_.open(index_, flight.backend, flight.flow->request_id(),
                           {.kind = Piece::Kind::kBegin, .bytes = std::move(body)}, now);
}

void Proxy::carry_out(uint64_t id, router::Step step, Time now) {
  Flight& flight = flights_.at(id);
  clean_up(flight, now);
  if (flight.call != 0 && !std::holds_alternative<router::Relay>(step)) {
    wire_.leave(flight.call, Wire::End::kProxy, now);
    by_call_.erase(std::exchange(flight.call, 0));
  }
  flight.until = kNever;
  flight.waits = Flight::Waits::kNothing;
  if (auto* const prefill = std::get_if<router::AskPrefill>(&step)) {
    ask(flight, prefill->instance, std::move(prefill->body), true, now);
    by_call_[flight.call] = id;
  } else if (auto* const decode = std::get_if<router::AskDecode>(&step)) {
    ask(flight, decode->instance, std::move(decode->body), false, now);
    by_call_[flight.call] = id;
  } else if (const auto* const pause = std::get_if<router::Pause>(&step)) {
    flight.waits = Flight::Waits::kPause;
    flight.until = now + pause->duration;
  } else if (const auto* const wait = std::get_if<router::Wait>(&step)) {
    flight.waits = Flight::Waits::kRoom;
    flight.until = now + wait->duration;
  } else if (std::holds_alternative<router::Relay>(step)) {
    flight.relays = true;
    flight.begun = false;
    flight.waits = Flight::Waits::kAnswer;
    flight.until = now + kAnswerMax;
  } else if (auto* const reply = std::get_if<router::Reply>(&step)) {
    end(id, {.status = reply->status, .bytes = std::move(reply->body)}, now);
  } else {
    CHECK(false, "step {} between Baton instances", step.index());
  }
}

void Proxy::take(const Call& call, Piece piece, Time now) {
  const auto at = by_call_.find(call.id);
  if (at != by_call_.end()) piece_of_answer(at->second, std::move(piece), now);
}

void Proxy::piece_of_answer(uint64_t id, Piece piece, Time now) {
  Flight& flight = flights_.at(id);
  flight.until = now + kAnswerMax;
  if (piece.kind == Piece::Kind::kBroken) return broke(id, {Code::kUnavailable, piece.bytes}, now);
  if (flight.is_prefill)
    return carry_out(
        id, flight.flow->on_prefill(router::UpstreamAnswer{piece.status, std::move(piece.bytes)}, now), now);
  switch (piece.kind) {
    case Piece::Kind::kHead:
      if (piece.kv_unused) flight.flow->on_kv_unused();
      CHECK(flight.flow->relays(piece.status), "a stream for a client that asked for none");
      return carry_out(id, flight.flow->on_decode_head(), now);
    case Piece::Kind::kEvent:
      return event_of_stream(flight, piece.bytes);
    case Piece::Kind::kEnd:
      return stream_ended(id, {}, now);
    case Piece::Kind::kWhole:
      if (piece.kv_unused) flight.flow->on_kv_unused();
      return carry_out(
          id, flight.flow->on_decode_whole(router::UpstreamAnswer{piece.status, std::move(piece.bytes)}, now),
          now);
    default:
      CHECK(false, "piece {}", static_cast<int>(piece.kind));
  }
}

void Proxy::event_of_stream(Flight& flight, const std::string& data) {
  if (!flight.begun && data == "[DONE]") return;  // an end before any beginning is no answer
  flight.begun = true;
  flight.flow->on_event("data: " + data + "\n\n", data, flight.out);
}

void Proxy::stream_ended(uint64_t id, const Result<void>& end_of_stream, Time now) {
  Flight& flight = flights_.at(id);
  flight.relays = false;
  if (!flight.begun) return carry_out(id, flight.flow->on_decode_empty(end_of_stream, now), now);
  flight.flow->on_stream_end(end_of_stream, now, flight.out);
  end(id, {.status = 200, .bytes = std::move(flight.out)}, now);
}

void Proxy::broke(uint64_t id, const Error& error, Time now) {
  Flight& flight = flights_.at(id);
  if (flight.is_prefill) return carry_out(id, flight.flow->on_prefill(Failure(error), now), now);
  if (flight.relays) return stream_ended(id, Failure(error), now);
  carry_out(id, flight.flow->on_decode_whole(Failure(error), now), now);
}

void Proxy::on_time(Time now) {
  std::vector<uint64_t> due;
  for (const auto& [id, flight] : flights_) {
    if (flight.until <= now) due.push_back(id);
  }
  for (const uint64_t id : due) {
    Flight& flight = flights_.at(id);
    switch (flight.waits) {
      case Flight::Waits::kAnswer:
        broke(id, {Code::kTimeout, "no answer in time"}, now);
        break;
      case Flight::Waits::kPause:
        carry_out(id, flight.flow->on_pause_done(now), now);
        break;
      case Flight::Waits::kRoom:
        carry_out(id, flight.flow->on_wait_over(), now);
        break;
      case Flight::Waits::kNothing:
        CHECK(false, "a flight waits for nothing");
    }
  }
  while (!woken_.empty()) {
    const uint64_t id = *woken_.begin();
    woken_.erase(woken_.begin());
    const auto at = flights_.find(id);
    if (at != flights_.end() && at->second.waits == Flight::Waits::kRoom)
      carry_out(id, at->second.flow->on_room(now), now);
  }
}

Time Proxy::next_time() const {
  Time next = woken_.empty() ? kNever : Time{};
  for (const auto& [id, flight] : flights_) next = std::min(next, flight.until);
  return next;
}

// Who waits for an instance that has gone down waits no longer.
void Proxy::on_probe(size_t backend, const std::optional<api::InstanceIdentity>& identity, Time now) {
  if (identity) return registry_->on_probe_ok(ids_[backend], identity, now);
  registry_->on_probe_failed(ids_[backend], "no answer", now);
  std::vector<uint64_t> waiting;
  for (const auto& [id, flight] : flights_) {
    if (flight.waits == Flight::Waits::kAnswer && flight.backend == backend) waiting.push_back(id);
  }
  for (const uint64_t id : waiting) broke(id, {Code::kUnavailable, "it went down"}, now);
}

bool Proxy::is_up(size_t backend) const {
  return registry_->find(ids_[backend])->health == router::Health::kUp;
}

std::string Proxy::find_leak() const {
  if (!flights_.empty()) return fmt::format("proxy {}: {} requests have not ended", index_, flights_.size());
  if (!registry_->queue().empty()) return fmt::format("proxy {}: places in the queue are left", index_);
  for (const auto& instance : registry_->instances()) {
    if (instance->in_flight != 0 || instance->active_tokens != 0 || instance->active_kv != 0)
      return fmt::format("proxy {}: a reservation of {} is left", index_, instance->address());
  }
  return {};
}

}  // namespace baton::simulation::chaos
