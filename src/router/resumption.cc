#include "router/resumption.h"

#include <algorithm>
#include <utility>

namespace baton::router {
namespace {

bool asks_timings(const ClientBody& client) {
  const std::string_view raw = client.members.find("timings").value_or("");
  return !raw.empty() && raw != "null" && raw != "false" && raw != "0";
}

// The line at the beginning of `text`, and where the next one begins.
std::pair<std::string_view, size_t> first_line(std::string_view text) {
  const size_t end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return {line, std::min(end + 1, text.size())};
}

bool is_blank(std::string_view text) { return text.find_first_not_of("\r\n") == std::string_view::npos; }

}  // namespace

HeardEvent without_notes(std::string_view raw, std::string& kept) {
  HeardEvent event{.raw = raw, .note = {}};
  if (raw.starts_with(api::kResumeNotePrefix)) {
    const auto [line, next] = first_line(raw);
    event = {.raw = raw.substr(next), .note = line};
  }
  if (event.raw.find("\n: baton ") != std::string_view::npos ||
      event.raw.starts_with(api::kResumeNotePrefix)) {
    // Further ones, or behind other lines: no D writes them so.
    kept.clear();
    for (std::string_view left = event.raw; !left.empty();) {
      const auto [line, next] = first_line(left);
      if (!line.starts_with(api::kResumeNotePrefix)) kept += left.substr(0, next);
      left.remove_prefix(next);
    }
    event.raw = kept;
  }
  if (is_blank(event.raw)) event.raw = {};
  return event;
}

void Resumption::add(std::string_view note) {
  if (!is_possible_) return;
  const auto parsed = api::parse_resume_note(note);
  is_possible_ = parsed && api::add_note(said_, *parsed);
}

bool Resumption::lacks_only_done(const ClientBody& client) const {
  if (!is_possible_ || !said_ || said_->choices.size() != static_cast<size_t>(client.choices)) return false;
  if (!std::ranges::all_of(said_->choices, &api::ResumedChoice::finished)) return false;
  return said_->usage_sent || !(client.include_usage || asks_timings(client));
}

std::string Resumption::body(const ClientBody& client, uint64_t seed) const {
  std::string body = decode_body(client, {}, true, seed);
  if (!said_) return body;
  body.pop_back();
  if (body.size() > 1) body += ',';
  api::append_json_string(body, api::kResumeField);
  body += ':';
  body += api::render_resumption(*said_);
  body += '}';
  return body;
}

}  // namespace baton::router
