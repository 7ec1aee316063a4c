#include "router/bodies.h"

#include <fmt/format.h>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>
#include <vector>

#include "api/fields.h"
#include "api/limits.h"
#include "api/resume.h"

namespace baton::router {
namespace {

namespace json = api::json;

bool is_null(std::string_view raw) { return raw.empty() || raw == "null"; }

// As lax as the instances are, and in their words (api/fields.h).
Result<bool> read_bool(const api::ObjectBytes& members, std::string_view key) {
  const std::string_view raw = members.find(key).value_or("");
  if (is_null(raw) || raw == "false") return false;
  if (raw == "true") return true;
  TRY(const json::value value, api::parse_json(raw));
  const auto on = api::as_switch(value);
  if (!on) return api::refuse_field(key, value, "true or false");
  return *on;
}

Result<bool> read_include_usage(const api::ObjectBytes& members) {
  const std::string_view options = members.find("stream_options").value_or("");
  if (is_null(options)) return false;
  TRY(const json::value value, api::parse_json(options));
  if (!value.is_object()) return api::refuse_field("stream_options", value, "an object");
  TRY(const auto include_usage, api::read_switch(value.get_object(), "include_usage"));
  return include_usage.value_or(false);
}

std::optional<int32_t> parse_count(std::string_view raw) {
  int32_t value = 0;
  const auto [end, error] = std::from_chars(raw.data(), raw.data() + raw.size(), value);
  if (error != std::errc() || end != raw.data() + raw.size()) return std::nullopt;
  return value;
}

std::optional<int32_t> read_count(const api::ObjectBytes& members, std::string_view key) {
  return parse_count(members.find(key).value_or(""));
}

// The prompts of a list of several texts or of several lists of ids; a list of ids is one prompt. What is
// neither is for the instances to refuse.
std::vector<std::string_view> several_prompts(std::string_view raw) {
  constexpr std::string_view kIds = "[]0123456789-, \t\r\n";
  const size_t first = raw.find_first_not_of(" \t\r\n", 1);
  if (!raw.starts_with('[') || first == std::string_view::npos) return {};
  if (raw[first] != '"' && raw[first] != '[') return {};
  auto prompts = api::array_elements(raw);
  const bool fits = std::ranges::all_of(prompts, [&](std::string_view prompt) {
    return prompt.starts_with(raw[first]) &&
           (raw[first] == '"' || prompt.find_first_not_of(kIds) == prompt.npos);
  });
  return fits && prompts.size() > 1 ? std::move(prompts) : std::vector<std::string_view>();
}

json::object* member_object(json::object& object, std::string_view key) {
  json::value* found = object.if_contains(key);
  return found == nullptr ? nullptr : found->if_object();
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

constexpr std::array<std::string_view, 4> kLogprobLists = {"text_offset", "token_logprobs", "tokens",
                                                           "top_logprobs"};

template <typename Texts>
std::string array_of(const Texts& texts) {
  return fmt::format("[{}]", fmt::join(texts, ","));
}

int64_t integer(std::string_view raw) {
  int64_t value = 0;
  std::from_chars(raw.data(), raw.data() + raw.size(), value);
  return value;
}

// Whether `choices` of an answer or an event are some, each of them an object.
bool has_choices(const api::ObjectBytes& answer) {
  const auto choices = api::array_elements(answer.find("choices").value_or(""));
  return !choices.empty() && std::ranges::all_of(choices, [](std::string_view choice) {
    return api::ObjectBytes::parse(choice, kAnswerBytesMax).has_value();
  });
}

// P's answer's first choice.
std::optional<api::ObjectBytes> first_choice(const api::ObjectBytes& answer) {
  const auto choices = api::array_elements(answer.find("choices").value_or(""));
  if (choices.empty()) return std::nullopt;
  auto choice = api::ObjectBytes::parse(choices.front(), kAnswerBytesMax);
  if (!choice) return std::nullopt;
  return std::move(*choice);
}

// The prompt's part of the completions logprobs that P computed for echo.
PromptLogprobs prompt_part(const PrefillAnswer& p) {
  PromptLogprobs out;
  const auto answer = api::ObjectBytes::parse(p.body, kAnswerBytesMax);
  if (!answer) return out;
  const auto choice = first_choice(*answer);
  if (!choice) return out;
  const auto logprobs = api::ObjectBytes::parse(choice->find("logprobs").value_or(""), kAnswerBytesMax);
  if (!logprobs) return out;
  for (size_t i = 0; i < kLogprobLists.size(); ++i) {
    const auto list = api::array_elements(logprobs->find(kLogprobLists[i]).value_or(""));
    const size_t kept = std::min(list.size(), static_cast<size_t>(std::max<int64_t>(p.prompt_tokens, 0)));
    out.lists[i].assign(list.begin(), list.begin() + static_cast<ptrdiff_t>(kept));
    // P's first token stands where the answer begins.
    if (i == 0 && kept < list.size()) out.end_offset = integer(list[kept]);
  }
  return out;
}

// The client's offsets count from the beginning of the prompt, and so do a Baton D's; one that counts from
// where its own part begins starts at 0.
std::vector<std::string> from_prompt(const std::vector<std::string_view>& offsets, int64_t begin) {
  const bool counts_own_part = !offsets.empty() && integer(offsets.front()) == 0;
  std::vector<std::string> out;
  for (const std::string_view offset : offsets)
    out.push_back(std::to_string(integer(offset) + (counts_own_part ? begin : 0)));
  return out;
}

// P speaks for the prompt, also when D computed it too and has it in front: a list that begins with a prompt
// begins with a null.
bool put_prompt_first(api::ObjectBytes& choice, const PromptLogprobs& prompt) {
  const size_t prompt_tokens = prompt.lists[1].size();
  if (prompt_tokens == 0) return false;
  auto logprobs = api::ObjectBytes::parse(choice.find("logprobs").value_or(""), kAnswerBytesMax);
  if (!logprobs) logprobs = api::ObjectBytes();
  const auto known = api::array_elements(logprobs->find("token_logprobs").value_or(""));
  const bool has_prompt = known.size() >= prompt_tokens && known.front() == "null";
  for (size_t i = 0; i < kLogprobLists.size(); ++i) {
    auto own = api::array_elements(logprobs->find(kLogprobLists[i]).value_or(""));
    if (has_prompt)
      own.erase(own.begin(), own.begin() + static_cast<ptrdiff_t>(std::min(prompt_tokens, own.size())));
    std::vector<std::string> joined = prompt.lists[i];
    if (i == 0 && prompt.end_offset >= 0) {
      const auto moved = from_prompt(own, prompt.end_offset);
      joined.insert(joined.end(), moved.begin(), moved.end());
    } else {
      joined.insert(joined.end(), own.begin(), own.end());
    }
    logprobs->set(kLogprobLists[i], array_of(joined));
  }
  choice.set("logprobs", logprobs->str());
  return true;
}

void set_cached_tokens(api::ObjectBytes& answer, int64_t cached) {
  auto usage = api::parse_json_object(answer.find("usage").value_or(""));
  if (!usage) return;
  json::object holder{{"usage", *usage}};
  set_cached_tokens(holder, cached);
  answer.set("usage", json::serialize(holder.at("usage")));
}

// As read_count, but as lax as the instances are: "2" and 2.0 are two.
std::optional<int32_t> read_lax_count(const api::ObjectBytes& members, std::string_view key) {
  std::string_view raw = members.find(key).value_or("");
  if (raw.size() > 2 && raw.starts_with('"')) raw = raw.substr(1, raw.size() - 2);
  if (raw.ends_with(".0")) raw.remove_suffix(2);
  return parse_count(raw);
}

// Whether the client's bounds of the answer's length are bounds. Those that are not are left to P, which
// refuses them by their own names before it computes anything.
bool have_sense(const api::ObjectBytes& members) {
  const auto is_bound = [&members](std::string_view key) {
    if (is_null(members.find(key).value_or(""))) return true;
    const auto count = read_lax_count(members, key);
    return count && *count >= 0 && *count <= api::kTokensMax;
  };
  if (!is_bound("max_tokens") || !is_bound("max_completion_tokens") || !is_bound("min_tokens")) return false;
  auto most = read_lax_count(members, "max_completion_tokens");
  if (!most) most = read_lax_count(members, "max_tokens");
  return !most || read_lax_count(members, "min_tokens").value_or(0) <= *most;
}

// Whether the answer must be a tool call: "required", or a tool by name.
bool must_call_tool(const api::ObjectBytes& members) {
  const std::string_view choice = members.find("tool_choice").value_or("");
  return !is_null(choice) && choice != R"("none")" && choice != R"("auto")";
}

// An object that is a member of another; nothing if it is none.
std::optional<api::ObjectBytes> read_member(const api::ObjectBytes& object, std::string_view key) {
  const std::string_view raw = object.find(key).value_or("");
  if (!raw.starts_with('{')) return std::nullopt;
  auto member = api::ObjectBytes::parse(raw, kAnswerBytesMax);
  if (!member) return std::nullopt;
  return std::move(*member);
}

// 0 for what is no integer of 64 bits.
int64_t read_integer(const api::ObjectBytes& object, std::string_view key) {
  const std::string_view raw = object.find(key).value_or("");
  int64_t value = 0;
  const auto [end, error] = std::from_chars(raw.data(), raw.data() + raw.size(), value);
  return error == std::errc() && end == raw.data() + raw.size() ? value : 0;
}

std::optional<PromptUsage> prompt_usage(const api::ObjectBytes& answer) {
  const auto usage = read_member(answer, "usage");
  if (!usage) return std::nullopt;
  PromptUsage out{.prompt_tokens = read_integer(*usage, "prompt_tokens")};
  const auto details = read_member(*usage, "prompt_tokens_details");
  if (details && details->find("cached_tokens")) out.cached_tokens = read_integer(*details, "cached_tokens");
  return out;
}

// P's name of the hand-over; empty if there is none.
std::string remote_request_id(const api::ObjectBytes& answer) {
  const auto params = read_member(answer, "kv_transfer_params");
  const std::string_view raw = params ? params->find("remote_request_id").value_or("") : "";
  if (!raw.starts_with('"')) return {};
  if (raw.find('\\') == std::string_view::npos) return std::string(raw.substr(1, raw.size() - 2));
  const auto name = api::parse_json(raw);
  return name ? std::string(name->get_string()) : std::string();
}

Result<void> check_prompts(const ClientBody& client) {
  const size_t prompts = client.prompts.size();
  if (prompts > api::kPromptsMax) {
    return fail(Code::kInvalid,
                fmt::format("prompt: {} prompts, expected at most {}", prompts, api::kPromptsMax), "prompt");
  }
  if (prompts * static_cast<size_t>(client.choices) > api::kChoicesMax) {
    return fail(Code::kInvalid,
                fmt::format("n: {} for each of {} prompts is {} answers, expected at most {}", client.choices,
                            prompts, prompts * static_cast<size_t>(client.choices), api::kChoicesMax),
                "n");
  }
  return {};
}

}  // namespace

std::string changed(const api::ObjectBytes& members, const Changes& changes) {
  const auto is_changed = [&changes](const auto& member) {
    return std::ranges::any_of(changes, [&](const auto& change) { return change.first == member.key; });
  };
  size_t bytes = 2;
  for (const auto& member : members.members()) bytes += member.key.size() + member.value.size() + 4;
  for (const auto& [key, value] : changes) bytes += key.size() + value.value_or("").size() + 4;
  std::string out;
  out.reserve(bytes);
  out = "{";
  const auto append = [&out](std::string_view key, std::string_view value) {
    if (out.size() > 1) out += ',';
    api::append_json_string(out, key);
    out += ':';
    out += value;
  };
  for (const auto& member : members.members()) {
    if (!is_changed(member)) append(member.key, member.value);
  }
  for (const auto& [key, value] : changes) {
    if (value) append(key, *value);
  }
  out += '}';
  return out;
}

Result<ClientBody> read_client_body(Route route, std::string_view body) {
  ClientBody client;
  client.route = route;
  client.bytes = body.size();
  TRY(client.members, api::ObjectBytes::parse(body));
  client.members.remove(api::kResumeField);  // what an answer has said is not the client's to tell
  TRY(client.stream, read_bool(client.members, "stream"));
  TRY(client.include_usage, read_include_usage(client.members));
  client.max_tokens = read_lax_count(client.members, "max_completion_tokens");
  if (!client.max_tokens) client.max_tokens = read_lax_count(client.members, "max_tokens");
  client.must_call_tool = must_call_tool(client.members);
  client.has_seed = !is_null(client.members.find("seed").value_or(""));
  const std::string_view prompt_logprobs = client.members.find("prompt_logprobs").value_or("");
  client.wants_prompt_logprobs = !is_null(prompt_logprobs);
  if (client.stream && client.wants_prompt_logprobs) {
    // Neither P, whose answer is no stream, nor D, which is not asked for them, would see that it is wrong.
    return fail(
        Code::kInvalid,
        fmt::format("prompt_logprobs: {}, expected none when stream is true", prompt_logprobs.substr(0, 64)),
        "prompt_logprobs");
  }
  client.choices = std::clamp(read_lax_count(client.members, "n").value_or(1), 1, api::kChoicesPerPromptMax);
  const auto beams = read_bool(client.members, "use_beam_search");  // what is neither is for instances
  client.choices_are_separable =
      client.choices > 1 && beams && !*beams && is_null(client.members.find("best_of").value_or(""));
  if (route == Route::kCompletions) {
    client.prompts = several_prompts(client.members.find("prompt").value_or(""));
    TRY_DO(check_prompts(client));
    TRY(const bool echo, read_bool(client.members, "echo"));
    client.merges_echo = echo && !is_null(client.members.find("logprobs").value_or(""));
    client.wants_prompt_logprobs = client.wants_prompt_logprobs || client.merges_echo;
  }
  return client;
}

std::optional<api::ClientLimits> client_limits(const ClientBody& client) {
  if (!have_sense(client.members)) return std::nullopt;
  api::ClientLimits limits;
  limits.max_tokens = read_lax_count(client.members, "max_completion_tokens");
  if (!limits.max_tokens) limits.max_tokens = read_lax_count(client.members, "max_tokens");
  limits.min_tokens = read_lax_count(client.members, "min_tokens").value_or(0);
  return limits;
}

std::string prefill_body(const ClientBody& client, bool to_baton, uint64_t seed) {
  std::optional<api::ClientLimits> limits;
  if (to_baton) limits = client_limits(client);
  return prefill_body_with(client, api::render_prefill_params(limits), to_baton, seed);
}

std::string prefill_body_with(const ClientBody& client, std::optional<std::string> kv_transfer_params,
                              bool to_baton, uint64_t seed) {
  Changes changes;
  if (to_baton) {
    if (!client.has_seed) changes.emplace_back("seed", std::to_string(seed));
    changes.emplace_back("request_id",
                         std::nullopt);  // it would count before the header: names of clients meet
  }
  changes.emplace_back("kv_transfer_params", std::move(kv_transfer_params));
  changes.emplace_back("stream", "false");
  if (have_sense(client.members)) {
    changes.emplace_back("max_tokens", "1");
    changes.emplace_back("min_tokens", "1");
    if (client.members.find("max_completion_tokens")) changes.emplace_back("max_completion_tokens", "1");
  }
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
  if (to_baton) changes.emplace_back("request_id", std::nullopt);
  return changed(client.members, changes);
}

std::optional<PromptUsage> read_prompt_usage(std::string_view answer) {
  const auto members = api::ObjectBytes::parse(answer, kAnswerBytesMax);
  return members ? prompt_usage(*members) : std::nullopt;
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
  answer.timings = members->find("timings").value_or("");
  if (const auto usage = prompt_usage(*members)) {
    answer.prompt_tokens = usage->prompt_tokens;
    answer.cached_tokens = usage->cached_tokens.value_or(0);
    answer.says_cached_tokens = usage->cached_tokens.has_value();
  }
  answer.remote_request_id = remote_request_id(*members);
  return answer;
}

Result<std::string> whole_answer(const ClientBody& client, const PrefillAnswer* p, std::string d_body) {
  // Everything but the usage keeps its bytes: numbers never go through a float.
  auto answer = api::ObjectBytes::parse(d_body, kAnswerBytesMax);
  if (!answer) {
    return fail(Code::kUnavailable,
                fmt::format("its answer of {} bytes is not a JSON object, expected one that has `choices`",
                            d_body.size()));
  }
  if (!has_choices(*answer))
    return fail(Code::kUnavailable,
                fmt::format("its answer of {} bytes has no `choices`, expected a list of at least one object",
                            d_body.size()));
  if (p == nullptr) return d_body;
  set_cached_tokens(*answer, p->cached_tokens);
  answer->remove("kv_transfer_params");
  if (!client.wants_prompt_logprobs) return answer->str();
  const auto p_answer = api::ObjectBytes::parse(p->body, kAnswerBytesMax);
  const auto p_choice = p_answer ? first_choice(*p_answer) : std::nullopt;
  const auto asked = [](const api::ObjectBytes& from) {
    const std::string_view raw = from.find("prompt_logprobs").value_or("");
    return is_null(raw) ? std::string() : std::string(raw);
  };
  const std::string of_choice = p_choice ? asked(*p_choice) : "";
  const std::string of_answer = p_answer ? asked(*p_answer) : "";
  const PromptLogprobs prompt = client.merges_echo ? prompt_part(*p) : PromptLogprobs();
  std::vector<std::string> choices;
  for (const std::string_view raw : api::array_elements(answer->find("choices").value_or(""))) {
    auto choice = api::ObjectBytes::parse(raw, kAnswerBytesMax);
    if (!choice) return d_body;
    if (client.merges_echo) put_prompt_first(*choice, prompt);
    if (!of_choice.empty()) choice->set("prompt_logprobs", of_choice);
    choices.push_back(choice->str());
  }
  if (!choices.empty()) answer->set("choices", array_of(choices));
  if (!of_answer.empty()) answer->set("prompt_logprobs", of_answer);
  return answer->str();
}

EventKind kind_of(std::string_view data) {
  const auto event = api::ObjectBytes::parse(data, kAnswerBytesMax);
  if (!event) return EventKind::kNone;
  if (has_choices(*event)) return EventKind::kChoices;
  const std::string_view choices = event->find("choices").value_or("");
  return choices.starts_with('[') && api::array_elements(choices).empty() ? EventKind::kRest
                                                                          : EventKind::kNone;
}

bool has_prompt_part(const ClientBody& client, std::string_view answer) {
  const auto members = api::ObjectBytes::parse(answer, kAnswerBytesMax);
  if (!members) return false;
  const auto choice = first_choice(*members);
  if (!choice) return false;
  const bool asks_alone = !is_null(client.members.find("prompt_logprobs").value_or(""));
  const bool has_alone = !is_null(choice->find("prompt_logprobs").value_or("")) ||
                         !is_null(members->find("prompt_logprobs").value_or(""));
  if (asks_alone && !client.stream && !has_alone) return false;  // streams have none
  if (!client.merges_echo) return true;
  const auto logprobs = api::ObjectBytes::parse(choice->find("logprobs").value_or(""), kAnswerBytesMax);
  if (!logprobs) return false;
  const auto known = api::array_elements(logprobs->find("token_logprobs").value_or(""));
  return !known.empty() && known.front() == "null";
}

EventMerger::EventMerger(const ClientBody& client, const PrefillAnswer* p)
    : merges_logprobs_(client.merges_echo && p != nullptr), part_(client.part) {
  if (p == nullptr) return;
  set_cached_tokens(p->cached_tokens);
  if (merges_logprobs_) prompt_logprobs_ = prompt_part(*p);
}

std::optional<std::string> EventMerger::merge(std::string_view data) {
  const bool has_usage = cached_tokens_ && api::mentions(data, R"("cached_tokens")");
  if (!has_usage && !merges_logprobs_ && !part_) return std::nullopt;
  auto event = api::ObjectBytes::parse(data, kAnswerBytesMax);
  if (!event) return std::nullopt;
  if (has_usage) baton::router::set_cached_tokens(*event, *cached_tokens_);
  const auto raw_choices = api::array_elements(event->find("choices").value_or(""));
  const bool is_last =
      !is_null(event->find("usage").value_or("")) || !is_null(event->find("receipt").value_or(""));
  if (part_ && raw_choices.empty() && is_last) {
    renumber(*part_, *event);
    usage_event_ = event->str();
    return std::string();
  }
  bool merged = false;
  std::vector<std::string> choices;
  if (merges_logprobs_) {
    for (const std::string_view raw : raw_choices) {
      auto choice = api::ObjectBytes::parse(raw, kAnswerBytesMax);
      if (!choice) return std::nullopt;
      merged = merge_prompt(*choice) || merged;
      choices.push_back(choice->str());
    }
  }
  if (merged) event->set("choices", array_of(choices));
  if (part_) renumber(*part_, *event);
  if (!merged && !has_usage && !part_) return std::nullopt;
  return event->str();
}

bool EventMerger::merge_prompt(api::ObjectBytes& choice) {
  const auto index = static_cast<size_t>(std::max(read_count(choice, "index").value_or(0), 0));
  if (index >= api::kChoicesMax) return false;
  if (begun_.size() <= index) begun_.resize(index + 1, false);
  if (begun_[index]) return false;
  begun_[index] = true;
  return put_prompt_first(choice, prompt_logprobs_);
}

void renumber(const PartOf& part, api::ObjectBytes& answer) {
  const std::string_view id = answer.find("id").value_or("");
  if (part.head->id.empty() && !id.empty()) {
    // The part's own name is that of the whole and a suffix.
    const size_t at = id.find(part.id);
    const size_t end = at == std::string_view::npos ? id.size() : at + part.id.size();
    part.head->id = std::string(id.substr(0, end)) + (end < id.size() ? "\"" : "");
    part.head->created = answer.find("created").value_or("");
  }
  if (!id.empty()) answer.set("id", part.head->id);
  if (answer.find("created") && !part.head->created.empty()) answer.set("created", part.head->created);
  std::vector<std::string> choices;
  for (const std::string_view raw : api::array_elements(answer.find("choices").value_or(""))) {
    auto choice = api::ObjectBytes::parse(raw, kAnswerBytesMax);
    if (!choice) return;
    const int32_t index = read_count(*choice, "index").value_or(0);
    choice->set("index", std::to_string(index + part.first_choice));
    choices.push_back(choice->str());
  }
  if (answer.find("choices")) answer.set("choices", array_of(choices));
}

std::vector<std::string> as_events(const ClientBody& client, const PrefillAnswer& p) {
  std::vector<std::string> out;
  auto answer = api::ObjectBytes::parse(p.body, kAnswerBytesMax);
  if (!answer) return out;
  const std::string usage(answer->find("usage").value_or("null"));
  const std::string whole_choices(answer->find("choices").value_or("[]"));
  const std::string timings(answer->find("timings").value_or(""));
  const std::string receipt(answer->find("receipt").value_or(""));
  answer->remove("timings");
  answer->remove("receipt");
  answer->remove("usage");
  answer->remove("kv_transfer_params");
  answer->remove("prompt_logprobs");
  const bool chat = client.route == Route::kChat;
  if (chat) answer->set("object", R"("chat.completion.chunk")");
  const auto event = [&](std::string choices) {
    answer->set("choices", std::move(choices));
    out.push_back(answer->str());
  };
  std::vector<std::string> chunks;
  for (const std::string_view raw : api::array_elements(whole_choices)) {
    auto choice = api::ObjectBytes::parse(raw, kAnswerBytesMax);
    if (!choice) return {};
    if (chat) {
      const auto message = api::ObjectBytes::parse(choice->find("message").value_or(""), kAnswerBytesMax);
      const std::string content(message ? message->find("content").value_or("\"\"") : "\"\"");
      choice->remove("message");
      choice->set("delta", R"({"content":)" + content + "}");
      event(
          fmt::format(R"([{{"index":{},"delta":{{"role":"assistant","content":""}},"finish_reason":null}}])",
                      choice->find("index").value_or("0")));
    }
    choice->remove("prompt_logprobs");  // streams have none
    chunks.push_back(choice->str());
  }
  for (const std::string& chunk : chunks) event("[" + chunk + "]");
  if (client.include_usage) answer->set("usage", usage);
  if (!timings.empty()) answer->set("timings", timings);
  if (!receipt.empty()) answer->set("receipt", receipt);
  if (client.include_usage || !timings.empty() || !receipt.empty()) event("[]");
  return out;
}

}  // namespace baton::router
