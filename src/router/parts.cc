#include "router/parts.h"

#include <fmt/format.h>

#include <boost/json/serialize.hpp>

#include <algorithm>
#include <charconv>
#include <map>
#include <utility>

#include "api/limits.h"
#include "api/response.h"
#include "base/check.h"

namespace baton::router {
namespace {

namespace json = api::json;

constexpr std::string_view kEventStream = "text/event-stream";

// Adds the numbers of `part` to those of `sum`, by name, at every level.
void add_numbers(const json::object& part, json::object& sum) {
  for (const auto& [key, value] : part) {
    if (value.is_object()) {
      json::value& inner = sum[key];
      if (!inner.is_object()) inner.emplace_object();
      add_numbers(value.get_object(), inner.get_object());
    } else if (value.is_int64()) {
      const json::value* known = sum.if_contains(key);
      sum[key] = value.get_int64() + (known != nullptr && known->is_int64() ? known->get_int64() : 0);
    } else if (!sum.contains(key)) {
      sum[key] = value;
    }
  }
}

// A seed that each choice of a split request has for itself, as vLLM makes them.
std::optional<std::string> seed_of_choice(std::string_view seed, int32_t choice) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(seed.data(), seed.data() + seed.size(), value);
  if (error != std::errc() || end != seed.data() + seed.size()) return std::nullopt;
  return std::to_string(value > INT64_MAX - choice ? value : value + choice);
}

}  // namespace

PartedAnswer::PartedAnswer(const ClientBody& client, std::string request_id)
    : client_(client), request_id_(std::move(request_id)) {
  parts_.resize(std::max<size_t>(client.prompts.size(), 1));
  for (size_t i = 0; i < parts_.size(); ++i) parts_[i].prompt = static_cast<uint32_t>(i);
}

std::optional<size_t> PartedAnswer::begin_next() {
  if (failed_ || begun_ == parts_.size() || begun_ - ended_ >= kPartsAtOnce) return std::nullopt;
  return begun_++;
}

std::string PartedAnswer::request_id(size_t part) const { return fmt::format("{}-{}", request_id_, part); }

PartOf PartedAnswer::place(size_t part) const {
  const Part& own = parts_[part];
  return {.first_choice = static_cast<int32_t>(own.prompt) * client_.choices + own.choice.value_or(0),
          .id = request_id_,
          .head = head_};
}

std::string PartedAnswer::body(size_t part) const {
  const Part& own = parts_[part];
  Changes changes;
  changes.emplace_back("timings", std::nullopt);  // several timelines at once are none
  if (!client_.prompts.empty()) changes.emplace_back("prompt", std::string(client_.prompts[own.prompt]));
  if (own.choice) {
    changes.emplace_back("n", "1");
    if (auto seed = seed_of_choice(client_.members.find("seed").value_or(""), *own.choice))
      changes.emplace_back("seed", std::move(*seed));
  }
  return changed(client_.members, changes);
}

void PartedAnswer::end(size_t part) {
  CHECK(!parts_[part].has_ended, "part {} ended twice", part);
  parts_[part].has_ended = true;
  ++ended_;
}

void PartedAnswer::split(size_t part) {
  end(part);
  for (int32_t i = 0; i < client_.choices; ++i)
    parts_.push_back({.prompt = parts_[part].prompt, .choice = i, .answer = {}, .receipt = {}});
}

void PartedAnswer::add_usage(const Part& part, std::string_view usage) {
  auto parsed = api::parse_json_object(usage);
  if (!parsed) return;
  if (!counts_prompt(part)) {
    parsed->erase("prompt_tokens");
    parsed->erase("prompt_tokens_details");
    if (const json::value* completion = parsed->if_contains("completion_tokens"))
      (*parsed)["total_tokens"] = *completion;
  }
  add_numbers(*parsed, usage_);
}

void PartedAnswer::on_stream_end(size_t part, std::string_view usage_event) {
  end(part);
  if (usage_event.empty()) return;
  if (usage_event_.empty()) usage_event_ = usage_event;
  const auto event = api::ObjectBytes::parse(usage_event);
  if (!event) return;
  add_usage(parts_[part], event->find("usage").value_or(""));
  parts_[part].receipt = event->find("receipt").value_or("");
}

// That of the first part, with the prompts of all.
std::string PartedAnswer::receipt() const {
  std::optional<api::ObjectBytes> whole;
  std::string prompts;
  for (const Part& part : parts_) {
    auto own = api::ObjectBytes::parse(part.receipt, kAnswerBytesMax);
    if (!own) continue;
    for (const std::string_view prompt : api::array_elements(own->find("prompts").value_or(""))) {
      prompts += prompts.empty() ? "[" : ",";
      prompts += prompt;
    }
    if (!whole) whole = std::move(*own);
  }
  if (!whole) return {};
  whole->set("prompts", prompts + "]");
  return whole->str();
}

void PartedAnswer::on_broken(size_t part) {
  end(part);
  failed_ = true;
}

void PartedAnswer::on_reply(size_t part, Reply reply, std::string_view usage_event, std::string& out) {
  if (reply.status == 200 && reply.content_type.starts_with(kEventStream)) {
    out += reply.body;
    return on_stream_end(part, usage_event);
  }
  end(part);
  if (reply.status == 200) {
    answer_bytes_ += reply.body.size();
    if (answer_bytes_ <= kAnswerBytesMax) {
      parts_[part].answer = std::move(reply.body);
      return;
    }
    const Error error{Code::kExhausted,
                      fmt::format("the answers to {} prompts are longer than {} bytes in all", parts_.size(),
                                  kAnswerBytesMax)};
    reply = {.status = api::http_status(error.code), .body = api::render_error(error)};
  }
  failed_ = true;
  if (!failure_) failure_ = std::move(reply);
}

void PartedAnswer::append_end(std::string& out) {
  if (failure_) {
    // One line: JSON has line breaks only between its tokens.
    std::string error = failure_->body;
    std::erase_if(error, [](char c) { return c == '\n' || c == '\r'; });
    out += "data: " + error + "\n\n";
  }
  if (!failed_ && !usage_event_.empty()) {
    auto event = api::ObjectBytes::parse(usage_event_);
    CHECK(event.has_value(), "a usage event that was read cannot be read again");
    if (event->find("usage")) event->set("usage", json::serialize(usage_));
    if (event->find("receipt")) event->set("receipt", receipt());
    out += "data: " + event->str() + "\n\n";
  }
  if (!failed_) api::append_done(out);  // nothing follows an error
}

Result<std::string> PartedAnswer::join() {
  std::multimap<int32_t, std::string> choices;  // parts that were split end behind others
  std::optional<api::ObjectBytes> whole;
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (parts_[i].answer.empty()) continue;  // it was split
    TRY(auto answer, api::ObjectBytes::parse(parts_[i].answer, kAnswerBytesMax));
    renumber(place(i), answer);
    for (const std::string_view raw : api::array_elements(answer.find("choices").value_or("")))
      choices.emplace(place(i).first_choice, raw);
    add_usage(parts_[i], answer.find("usage").value_or(""));
    parts_[i].receipt = answer.find("receipt").value_or("");
    if (!whole) whole = std::move(answer);
  }
  CHECK(whole.has_value(), "an answer of no parts");
  std::string list = "[";
  for (const auto& [first, raw] : choices) {
    if (list.size() > 1) list += ',';
    list += raw;
  }
  whole->set("choices", list + "]");
  if (whole->find("usage")) whole->set("usage", json::serialize(usage_));
  if (whole->find("receipt")) whole->set("receipt", receipt());
  return whole->str();
}

Reply PartedAnswer::reply() {
  CHECK(is_over());
  if (failure_) return *failure_;
  auto joined = join();
  if (joined) return {.body = std::move(*joined)};
  return {.status = api::http_status(joined.error().code), .body = api::render_error(joined.error())};
}

}  // namespace baton::router
