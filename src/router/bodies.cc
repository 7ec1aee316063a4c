#include "router/bodies.h"

#include <fmt/format.h>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>
#include <vector>

#include "api/kv_transfer_params.h"
#include "api/limits.h"

namespace baton::router {
namespace {

namespace json = api::json;

constexpr size_t kAnswerBytesMax = 64UL << 20;  // an instance's whole answer

bool is_null(std::string_view raw) { return raw.empty() || raw == "null"; }

Result<bool> read_bool(const api::ObjectBytes& members, std::string_view key) {
  const std::string_view raw = members.find(key).value_or("");
  if (is_null(raw) || raw == "false") return false;
  if (raw == "true") return true;
  return fail(Code::kInvalid, fmt::format("{}: {}, expected true or false", key, raw.substr(0, 64)),
              std::string(key));
}

std::optional<int32_t> read_count(const api::ObjectBytes& members, std::string_view key) {
  const std::string_view raw = members.find(key).value_or("");
  int32_t value = 0;
  const auto [end, error] = std::from_chars(raw.data(), raw.data() + raw.size(), value);
  if (error != std::errc() || end != raw.data() + raw.size()) return std::nullopt;
  return value;
}

// A list of strings or of lists of ids with more than one entry; a list of ids is one prompt.
bool is_several_prompts(std::string_view raw) {
  if (raw.empty() || raw.front() != '[') return false;
  const auto parsed = api::parse_json(raw);
  if (!parsed || !parsed->is_array()) return false;
  const json::array& entries = parsed->get_array();
  return entries.size() > 1 && !entries.front().is_number();
}

json::object* member_object(json::object& object, std::string_view key) {
  json::value* found = object.if_contains(key);
  return found == nullptr ? nullptr : found->if_object();
}
json::array* member_array(json::object& object, std::string_view key) {
  json::value* found = object.if_contains(key);
  return found == nullptr ? nullptr : found->if_array();
}

int64_t member_integer(const json::object& object, std::string_view key) {
  const json::value* found = object.if_contains(key);
  if (found == nullptr) return 0;
  if (found->is_int64()) return found->get_int64();
  return found->is_uint64() ? static_cast<int64_t>(found->get_uint64()) : 0;
}

void set_cached_tokens(json::object& answer, int64_t cached) {
  json::object* usage = member_object(answer, "usage");
  if (usage == nullptr) return;
  json::object* details = member_object(*usage, "prompt_tokens_details");
  if (details == nullptr) {
    if (cached == 0) return;
    (*usage)["prompt_tokens_details"] = json::object{{"cached_tokens", cached}};
  } else {
    (*details)["cached_tokens"] = cached;
  }
}

// The client's object with some members set to other JSON text, or left out (nothing).
using Changes = std::vector<std::pair<std::string_view, std::optional<std::string>>>;

std::string changed(const api::ObjectBytes& members, const Changes& changes) {
  std::string out = "{";
  const auto append = [&out](std::string_view key, std::string_view value) {
    if (out.size() > 1) out += ',';
    api::append_json_string(out, key);
    out += ':';
    out += value;
  };
  for (const auto& member : members.members()) {
    const auto is_changed = [&](const auto& change) { return change.first == member.key; };
    if (std::ranges::none_of(changes, is_changed)) append(member.key, member.value);
  }
  for (const auto& [key, value] : changes) {
    if (value) append(key, *value);
  }
  out += '}';
  return out;
}

constexpr std::array<std::string_view, 4> kLogprobLists = {"tokens", "token_logprobs", "top_logprobs",
                                                           "text_offset"};

// The prompt's part of the completions logprobs that P computed for echo.
json::object prompt_part(const PrefillAnswer& p) {
  auto parsed = api::parse_json_object(p.body);
  if (!parsed) return {};
  json::array* choices = member_array(*parsed, "choices");
  if (choices == nullptr || choices->empty() || !choices->front().is_object()) return {};
  json::object* logprobs = member_object(choices->front().get_object(), "logprobs");
  if (logprobs == nullptr) return {};
  for (const std::string_view key : kLogprobLists) {
    json::array* list = member_array(*logprobs, key);
    if (list != nullptr && list->size() > static_cast<size_t>(p.prompt_tokens)) {
      list->resize(static_cast<size_t>(p.prompt_tokens));
    }
  }
  return std::move(*logprobs);
}

void put_prompt_first(json::object& choice, const json::object& prompt) {
  json::object* logprobs = member_object(choice, "logprobs");
  if (logprobs == nullptr) {
    choice["logprobs"] = prompt;
    return;
  }
  for (const std::string_view key : kLogprobLists) {
    const json::value* front = prompt.if_contains(key);
    json::array* list = member_array(*logprobs, key);
    if (front != nullptr && front->is_array() && list != nullptr) {
      list->insert(list->begin(), front->get_array().begin(), front->get_array().end());
    }
  }
}

}  // namespace

Result<ClientBody> read_client_body(Route route, std::string_view body) {
  ClientBody client;
  client.route = route;
  client.bytes = body.size();
  TRY(client.members, api::ObjectBytes::parse(body));
  TRY(client.stream, read_bool(client.members, "stream"));
  const std::string_view options = client.members.find("stream_options").value_or("");
  if (!is_null(options)) {
    TRY(const auto parsed, api::ObjectBytes::parse(options));
    TRY(client.include_usage, read_bool(parsed, "include_usage"));
  }
  client.has_seed = !is_null(client.members.find("seed").value_or(""));
  client.wants_prompt_logprobs = !is_null(client.members.find("prompt_logprobs").value_or(""));
  if (route == Route::kCompletions) {
    client.is_prompt_list = is_several_prompts(client.members.find("prompt").value_or(""));
    TRY(const bool echo, read_bool(client.members, "echo"));
    client.merges_echo = echo && !is_null(client.members.find("logprobs").value_or(""));
    client.wants_prompt_logprobs = client.wants_prompt_logprobs || client.merges_echo;
  }
  return client;
}

std::string prefill_body(const ClientBody& client, bool to_baton, uint64_t seed) {
  std::optional<api::ClientLimits> limits;
  Changes changes;
  if (to_baton) {
    limits.emplace();
    limits->max_tokens = read_count(client.members, "max_completion_tokens");
    if (!limits->max_tokens) limits->max_tokens = read_count(client.members, "max_tokens");
    limits->min_tokens = read_count(client.members, "min_tokens").value_or(0);
    if (!client.has_seed) changes.emplace_back("seed", std::to_string(seed));
  }
  changes.emplace_back("kv_transfer_params", api::render_prefill_params(limits));
  changes.emplace_back("stream", "false");
  changes.emplace_back("max_tokens", "1");
  changes.emplace_back("min_tokens", "1");
  if (client.members.find("max_completion_tokens")) changes.emplace_back("max_completion_tokens", "1");
  changes.emplace_back("stream_options", std::nullopt);
  return changed(client.members, changes);
}

std::string decode_body(const ClientBody& client, std::string_view kv_transfer_params, bool to_baton,
                        uint64_t seed) {
  Changes changes;
  changes.emplace_back("kv_transfer_params", kv_transfer_params.empty()
                                                 ? std::nullopt
                                                 : std::optional(std::string(kv_transfer_params)));
  if (!kv_transfer_params.empty()) changes.emplace_back("prompt_logprobs", std::nullopt);
  if (to_baton && !client.has_seed) changes.emplace_back("seed", std::to_string(seed));
  return changed(client.members, changes);
}

Result<PrefillAnswer> read_prefill_answer(std::string body) {
  PrefillAnswer answer;
  answer.body = std::move(body);
  auto members = api::ObjectBytes::parse(answer.body, kAnswerBytesMax);
  if (!members) return fail(Code::kCorrupt, "its answer is not a JSON object");
  if (!members->find("choices")) return fail(Code::kCorrupt, "its answer has no `choices`");
  const std::string_view params = members->find("kv_transfer_params").value_or("");
  if (!is_null(params) && params != "{}" && params != "[]" && params != "false")
    answer.kv_transfer_params = params;
  if (const auto usage = api::parse_json_object(members->find("usage").value_or(""))) {
    answer.prompt_tokens = member_integer(*usage, "prompt_tokens");
    const json::value* details = usage->if_contains("prompt_tokens_details");
    if (details != nullptr && details->is_object()) {
      answer.cached_tokens = member_integer(details->get_object(), "cached_tokens");
    }
  }
  if (const auto parsed = api::parse_json(answer.kv_transfer_params); parsed && parsed->is_object()) {
    const json::value* id = parsed->get_object().if_contains("remote_request_id");
    if (id != nullptr && id->is_string()) answer.remote_request_id = std::string(id->get_string());
  }
  return answer;
}

std::string merge_whole(const ClientBody& client, const PrefillAnswer& p, std::string d_body) {
  if (!client.wants_prompt_logprobs) {
    // Everything but the usage keeps its bytes: numbers never go through a float.
    auto members = api::ObjectBytes::parse(d_body, kAnswerBytesMax);
    auto usage = members ? api::parse_json_object(members->find("usage").value_or("")) : json::object();
    if (!members || !usage) return d_body;
    json::object holder{{"usage", *usage}};
    set_cached_tokens(holder, p.cached_tokens);
    members->set("usage", json::serialize(holder.at("usage")));
    members->remove("kv_transfer_params");
    return members->str();
  }
  auto answer = api::parse_json_object(d_body, kAnswerBytesMax);
  if (!answer) return d_body;
  set_cached_tokens(*answer, p.cached_tokens);
  if (client.wants_prompt_logprobs) {
    const json::object prompt = prompt_part(p);
    auto p_answer = api::parse_json_object(p.body, kAnswerBytesMax);
    json::array* p_choices = p_answer ? member_array(*p_answer, "choices") : nullptr;
    json::array* choices = member_array(*answer, "choices");
    for (size_t i = 0; choices != nullptr && i < choices->size(); ++i) {
      json::object* choice = (*choices)[i].if_object();
      if (choice == nullptr) continue;
      if (client.route == Route::kCompletions && !prompt.empty() && client.merges_echo)
        put_prompt_first(*choice, prompt);
      if (p_choices == nullptr || p_choices->empty() || !p_choices->front().is_object()) continue;
      const json::value* positions = p_choices->front().get_object().if_contains("prompt_logprobs");
      if (positions != nullptr && !positions->is_null()) (*choice)["prompt_logprobs"] = *positions;
    }
    const json::value* positions = p_answer ? p_answer->if_contains("prompt_logprobs") : nullptr;
    if (positions != nullptr && !positions->is_null()) (*answer)["prompt_logprobs"] = *positions;
  }
  answer->erase("kv_transfer_params");
  return json::serialize(*answer);
}

EventMerger::EventMerger(const ClientBody& client, const PrefillAnswer& p)
    : merges_logprobs_(client.merges_echo && client.route == Route::kCompletions),
      cached_tokens_(p.cached_tokens) {
  if (merges_logprobs_) prompt_logprobs_ = prompt_part(p);
}

std::optional<std::string> EventMerger::merge(std::string_view data) {
  const bool has_usage = data.find("\"cached_tokens\"") != std::string_view::npos;
  if (!has_usage && !merges_logprobs_) return std::nullopt;
  auto event = api::parse_json_object(data);
  if (!event) return std::nullopt;
  bool changes = has_usage;
  if (has_usage) set_cached_tokens(*event, cached_tokens_);
  json::array* choices = merges_logprobs_ ? member_array(*event, "choices") : nullptr;
  for (size_t i = 0; choices != nullptr && i < choices->size(); ++i) {
    json::object* choice = (*choices)[i].if_object();
    if (choice == nullptr) continue;
    const auto index = static_cast<size_t>(member_integer(*choice, "index"));
    if (index >= api::kChoicesMax) continue;
    if (begun_.size() <= index) begun_.resize(index + 1, false);
    if (begun_[index]) continue;
    begun_[index] = true;
    put_prompt_first(*choice, prompt_logprobs_);
    changes = true;
  }
  if (!changes) return std::nullopt;
  return json::serialize(*event);
}

std::string as_stream(const ClientBody& client, const PrefillAnswer& p) {
  auto answer = api::parse_json_object(p.body, kAnswerBytesMax);
  if (!answer) return "data: [DONE]\n\n";
  std::string out;
  const auto event = [&out](const json::object& data) { out += "data: " + json::serialize(data) + "\n\n"; };
  const json::value usage = answer->contains("usage") ? answer->at("usage") : json::value();
  answer->erase("usage");
  answer->erase("kv_transfer_params");
  json::value choices = answer->contains("choices") ? answer->at("choices") : json::value(json::array());
  if (client.route == Route::kChat) {
    (*answer)["object"] = "chat.completion.chunk";
    for (json::value& choice : choices.as_array()) {
      json::object& fields = choice.as_object();
      const json::value message =
          fields.contains("message") ? fields.at("message") : json::value(json::object());
      fields.erase("message");
      json::object role = *answer;
      role["choices"] = {{{"index", fields["index"]},
                          {"delta", {{"role", "assistant"}, {"content", ""}}},
                          {"finish_reason", nullptr}}};
      event(role);
      fields["delta"] = {{"content", message.is_object() && message.get_object().contains("content")
                                         ? message.get_object().at("content")
                                         : json::value("")}};
    }
  }
  for (const json::value& choice : choices.as_array()) {
    json::object chunk = *answer;
    chunk["choices"] = json::array{choice};
    event(chunk);
  }
  if (client.include_usage) {
    json::object last = *answer;
    last["choices"] = json::array();
    last["usage"] = usage;
    event(last);
  }
  return out + "data: [DONE]\n\n";
}

}  // namespace baton::router
