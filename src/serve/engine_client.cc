#include "serve/engine_client.h"

#include <utility>

#include "base/check.h"

namespace baton::serve {
namespace {

RequestId request_of(const engine::Answer& answer) {
  return std::visit([](const auto& event) { return event.request; }, answer);
}

bool ends_request(const engine::Answer& answer) {
  return std::holds_alternative<engine::FinishedEvent>(answer) ||
         std::holds_alternative<engine::FailedEvent>(answer) ||
         std::holds_alternative<engine::ReturnedEvent>(answer);
}

}  // namespace

void EngineClient::deliver(std::vector<engine::Answer> answers) {
  for (engine::Answer& answer : answers) {
    const auto found = open_.find(value(request_of(answer)));
    if (found == open_.end()) continue;
    Submission& owner = *found->second.owner;
    const uint32_t tag = found->second.tag;
    if (ends_request(answer)) {
      open_.erase(found);
      --owner.unfinished_;
    }
    if (owner.arrived_.size() >= kAnswersWaitingMax) {
      owner.overflowed_ = true;
    } else {
      owner.arrived_.push_back({tag, std::move(answer)});
    }
    owner.wake_.notify();
  }
}

size_t EngineClient::abort_external(std::string_view external_id, const std::string& reason) {
  size_t aborted = 0;
  for (const auto& [id, open] : open_) {
    if (open.external_id != external_id) continue;
    if (post_(engine::Abort{RequestId{id}, reason})) ++aborted;
  }
  return aborted;
}

Submission::Submission(EngineClient& client) : client_(client), wake_(client.loop_) {}

Submission::~Submission() { abort("the client is gone"); }

Result<void> Submission::add(engine::Request request, uint32_t tag) {
  const uint64_t id = client_.next_id_++;
  request.id = RequestId{id};
  std::string external_id = request.external_id;
  const std::optional<HandoverId> hold = request.hold;
  if (!client_.post_(engine::Submit{std::move(request)})) {
    return fail(Code::kExhausted, "the engine's inbox is full; try again later");
  }
  client_.open_.emplace(id, EngineClient::Open{this, tag, std::move(external_id)});
  requests_.push_back({RequestId{id}, tag, hold});
  ++unfinished_;
  return {};
}

http::Awaitable<Result<std::vector<Submission::Tagged>>> Submission::next() {
  while (arrived_.empty() && unfinished_ > 0 && !overflowed_) {
    const Result<void> woken = co_await wake_.wait();
    if (!woken) co_return Failure(woken.error());
  }
  if (overflowed_) {
    co_return fail(Code::kExhausted, "the client reads too slowly: more answers wait than the server keeps");
  }
  co_return std::exchange(arrived_, {});
}

void Submission::stop_choice(uint32_t tag, uint32_t choice) {
  for (const Added& added : requests_) {
    // A full inbox only means that some tokens are computed for nothing: the text has ended already.
    if (added.tag == tag) static_cast<void>(client_.post_(engine::StopChoice{added.id, choice}));
  }
}

void Submission::abort(const std::string& reason) {
  // The engine's inbox keeps room for these (EngineThread), so they cannot be lost while the engine lives.
  for (Added& added : requests_) {
    if (client_.open_.erase(value(added.id)) > 0) {
      --unfinished_;
      static_cast<void>(client_.post_(engine::Abort{added.id, reason}));
    }
    // It may have ended in the meantime and hold its KV for a peer.
    if (added.hold) static_cast<void>(client_.post_(engine::ReleaseHeld{*added.hold, reason}));
    added.hold.reset();
  }
}

void Submission::keep_held() {
  for (Added& added : requests_) added.hold.reset();
}

}  // namespace baton::serve
