#include "router/shadow.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace baton::router {
namespace {

constexpr std::string_view kKey = "\"receipt\":";

bool is_asked(std::string_view raw) { return !raw.empty() && raw != "null" && raw != "false" && raw != "0"; }

std::string number(float value) {
  std::string out;
  api::append_json_number(out, static_cast<double>(value));
  return out;
}

bool has_part(const std::vector<InstanceId>& had_part, InstanceId id) {
  return std::ranges::find(had_part, id) != had_part.end();
}

}  // namespace

bool is_sampled(std::string_view request_id, double share) {
  if (share >= 1) return true;
  const uint64_t hash = XXH3_64bits(request_id.data(), request_id.size());
  return static_cast<double>(hash >> 11U) < share * std::ldexp(1.0, 53);
}

bool can_be_shadowed(const ClientBody& client, const Registry& registry) {
  if (!client.prompts.empty() || client.bytes > kShadowBodyBytesMax) return false;
  return std::ranges::all_of(registry.instances(), [](const auto& instance) {
    return instance->health != Health::kUp || instance->identity.has_value();
  });
}

std::optional<InstanceId> shadow_place(const Registry& registry, const api::Receipt& claimed,
                                       const std::vector<InstanceId>& had_part) {
  if (registry.queue().size() > 0) return std::nullopt;
  const Instance* best = nullptr;
  const auto rank = [&](const Instance& one) { return std::pair(has_part(had_part, one.id), one.in_flight); };
  for (const auto& instance : registry.instances()) {
    const bool fits = instance->health == Health::kUp && !instance->is_draining && instance->identity &&
                      instance->identity->fingerprint == claimed.fingerprint &&
                      instance->identity->kv_dtype == claimed.dtype && instance->in_flight < kShadowBesideMax;
    if (fits && (best == nullptr || rank(*instance) < rank(*best))) best = instance.get();
  }
  return best == nullptr ? std::nullopt : std::optional(best->id);
}

std::string shadow_body(const ClientBody& client, const api::Receipt& claimed, std::string_view salt) {
  const api::ReceiptPrompt& prompt = claimed.prompts.front();
  const api::ReceiptSampling& sampling = prompt.sampling;
  std::string quoted;
  api::append_json_string(quoted, salt);
  Changes changes;
  for (const std::string_view key : {"stream_options", "kv_transfer_params", "request_id", "timings",
                                     "prompt_logprobs", "max_completion_tokens", "return_token_ids"})
    changes.emplace_back(key, std::nullopt);
  changes.emplace_back("stream", "false");
  changes.emplace_back("receipt", "true");
  changes.emplace_back("cache_salt", std::move(quoted));
  changes.emplace_back("seed", std::to_string(prompt.seed));
  changes.emplace_back("max_tokens", std::to_string(sampling.max_tokens));
  changes.emplace_back("temperature", number(sampling.temperature));
  changes.emplace_back("top_p", number(sampling.top_p));
  changes.emplace_back("top_k", std::to_string(sampling.top_k));
  changes.emplace_back("min_p", number(sampling.min_p));
  changes.emplace_back("repetition_penalty", number(sampling.repetition_penalty));
  return changed(client.members, changes);
}

std::optional<std::string> ReceiptTap::whole(std::string_view body) {
  if (body.find(kKey) == std::string_view::npos) return std::nullopt;
  auto members = api::ObjectBytes::parse(body, kAnswerBytesMax);
  if (!members) return std::nullopt;
  const std::string_view raw = members->find("receipt").value_or("");
  if (!is_asked(raw)) return std::nullopt;
  if (auto parsed = api::parse_receipt(raw); parsed && !parsed->prompts.empty())
    receipt_ = *std::move(parsed);
  if (keeps_) return std::nullopt;
  members->remove("receipt");
  return members->str();
}

std::optional<std::string> ReceiptTap::events(std::string_view events) {
  constexpr std::string_view kData = "data: ";
  constexpr std::string_view kEnd = "\n\n";
  if (events.find(kKey) == std::string_view::npos) return std::nullopt;
  std::string out;
  bool is_changed = false;
  while (!events.empty()) {
    const size_t end = events.find(kEnd);
    if (end == std::string_view::npos) break;
    const std::string_view event = events.substr(0, end + kEnd.size());
    events.remove_prefix(event.size());
    auto stripped =
        event.starts_with(kData) ? whole(event.substr(kData.size(), end - kData.size())) : std::nullopt;
    if (!stripped) {
      out += event;
      continue;
    }
    is_changed = true;
    // Without its receipt an event may be left with nothing to say.
    const auto left = api::ObjectBytes::parse(*stripped, kAnswerBytesMax);
    const bool says_more = left && (left->find("usage") || left->find("timings") ||
                                    !api::array_elements(left->find("choices").value_or("")).empty());
    if (says_more) out += std::string(kData) + *stripped + std::string(kEnd);
  }
  if (!is_changed) return std::nullopt;
  out += events;
  return out;
}

}  // namespace baton::router
