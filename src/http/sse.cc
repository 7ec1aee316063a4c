#include "http/sse.h"

#include <fmt/format.h>

#include <cstring>

namespace baton::http {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

size_t find_byte(std::string_view text, char byte, size_t from) {
  const void* const found = std::memchr(text.data() + from, byte, text.size() - from);
  return found == nullptr ? text.size() : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

}  // namespace

Result<void> SseParser::feed(std::string_view bytes) {
  if (rest().size() > kEventBytesMax) {
    return fail(Code::kCorrupt,
                fmt::format("event stream: an event of more than {} bytes, expected fewer", kEventBytesMax));
  }
  if (given_ > 0) {
    pending_.erase(0, given_);
    block_start_ -= given_;
    line_start_ -= given_;
    searched_ -= given_;
    given_ = 0;
  }
  pending_ += bytes;
  return {};
}

void SseParser::finish() { finished_ = true; }

std::string_view SseParser::rest() const { return std::string_view(pending_).substr(given_); }

std::optional<SseParser::Line> SseParser::line_at(size_t start, size_t from) const {
  const size_t line_feed = find_byte(pending_, '\n', from);
  const size_t end = find_byte(std::string_view(pending_).substr(0, line_feed), '\r', from);
  if (end == pending_.size()) return std::nullopt;
  if (end == line_feed) return Line{start, end, end + 1};
  if (end + 1 < pending_.size()) return Line{start, end, end + 1 == line_feed ? end + 2 : end + 1};
  // A CR is the last byte: its LF may still be on its way.
  if (!finished_) return std::nullopt;
  return Line{start, end, end + 1};
}

std::optional<SseEvent> SseParser::next() {
  if (at_start_) {
    const bool may_be_mark = !pending_.starts_with(kByteOrderMark) && kByteOrderMark.starts_with(pending_);
    if (may_be_mark && !finished_) return std::nullopt;
    if (pending_.starts_with(kByteOrderMark)) {
      block_start_ = line_start_ = searched_ = kByteOrderMark.size();
    }
    at_start_ = false;
  }
  while (true) {
    const std::optional<Line> line = line_at(line_start_, searched_);
    if (!line) {
      // A CR at the very end is looked at again.
      const bool ends_in_cr = pending_.size() > searched_ && pending_.back() == '\r';
      searched_ = ends_in_cr ? pending_.size() - 1 : pending_.size();
      return std::nullopt;
    }
    const bool blank = line->start == line->end;
    line_start_ = searched_ = line->next;
    if (!blank) continue;

    const SseEvent event = event_between(block_start_, line->next);
    given_ = block_start_ = line->next;
    return event;
  }
}

// Reads the lines of one block, WHATWG HTML 9.2.6. `raw` begins where the last event ended, which differs
// from `start` only for a BOM.
SseEvent SseParser::event_between(size_t start, size_t end) {
  SseEvent event;
  event.raw = std::string_view(pending_).substr(given_, end - given_);
  size_t data_lines = 0;
  for (size_t at = start; at < end;) {
    const Line line = *line_at(at, at);
    at = line.next;
    const std::string_view text = std::string_view(pending_).substr(line.start, line.end - line.start);
    const size_t colon = find_byte(text, ':', 0);
    const std::string_view name = text.substr(0, colon);
    std::string_view value = colon < text.size() ? text.substr(colon + 1) : std::string_view();
    if (value.starts_with(' ')) value.remove_prefix(1);
    if (name == "event") event.type = value;
    if (name == "id") event.id = value;
    if (name != "data") continue;
    ++data_lines;
    if (data_lines == 1) {
      event.data = value;
      continue;
    }
    if (data_lines == 2) joined_.assign(event.data);
    joined_ += '\n';
    joined_ += value;
  }
  if (data_lines > 1) event.data = joined_;
  event.has_data = data_lines > 0;
  return event;
}

void append_event(std::string& to, std::string_view data) {
  for (size_t start = 0;;) {
    const size_t end = find_byte(data, '\n', start);
    to += "data: ";
    to += data.substr(start, end - start);
    to += '\n';
    if (end == data.size()) break;
    start = end + 1;
  }
  to += '\n';
}

std::string render_event(std::string_view data) {
  std::string event;
  append_event(event, data);
  return event;
}

std::string render_event(std::string_view type, std::string_view data) {
  std::string event = fmt::format("event: {}\n", type);
  append_event(event, data);
  return event;
}

}  // namespace baton::http
