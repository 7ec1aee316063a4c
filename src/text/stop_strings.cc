#include "text/stop_strings.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "text/utf8.h"

namespace baton::text {

namespace {

std::vector<uint16_t> borders_of(std::string_view stop) {
  std::vector<uint16_t> border(stop.size() + 1, 0);
  for (size_t end = 2, length = 0; end <= stop.size(); ++end) {
    while (length > 0 && stop[length] != stop[end - 1]) length = border[length];
    if (stop[length] == stop[end - 1]) ++length;
    border[end] = static_cast<uint16_t>(length);
  }
  return border;
}

}  // namespace

Result<StopStrings> StopStrings::create(std::vector<std::string> stops, bool include_stop_str_in_output) {
  if (stops.size() > kStopStringsMax) {
    return fail(Code::kInvalid,
                fmt::format("stop: {} strings, expected at most {}", stops.size(), kStopStringsMax), "stop");
  }
  std::vector<Search> searches;
  for (size_t i = 0; i < stops.size(); ++i) {
    if (stops[i].empty())
      return fail(Code::kInvalid, fmt::format("stop[{}]: expected a non-empty string", i), "stop");
    if (stops[i].size() > kStopStringBytesMax) {
      return fail(
          Code::kInvalid,
          fmt::format("stop[{}]: {} bytes, expected at most {}", i, stops[i].size(), kStopStringBytesMax),
          "stop");
    }
    if (!is_valid_utf8(stops[i]))
      return fail(Code::kInvalid, fmt::format("stop[{}]: expected UTF-8", i), "stop");
    std::vector<uint16_t> border = borders_of(stops[i]);
    searches.push_back({std::move(stops[i]), std::move(border)});
  }
  return StopStrings(std::move(searches), include_stop_str_in_output);
}

bool StopStrings::Search::advance(char byte) {
  if (matched == stop.size()) matched = border[matched];
  while (matched > 0 && stop[matched] != byte) matched = border[matched];
  if (stop[matched] == byte) ++matched;
  return matched == stop.size();
}

std::string StopStrings::feed(std::string_view text, bool may_stop) {
  if (stopped()) return {};
  for (const char byte : text) {
    held_ += byte;
    size_t complete = kNone;
    for (size_t i = 0; i < searches_.size(); ++i) {
      if (!searches_[i].advance(byte) || !may_stop) continue;
      if (complete == kNone || searches_[i].stop.size() > searches_[complete].stop.size()) complete = i;
    }
    if (complete != kNone) return end_at(complete);
  }
  size_t keep = utf8_unfinished_bytes(held_);
  for (const Search& search : searches_) {
    const bool whole = search.matched == search.stop.size();  // completed where it did not count
    keep = std::max<size_t>(keep, whole ? search.border[search.matched] : search.matched);
  }
  return release(keep);
}

// The answer ends: gives out what stands before (or with) stop string `stop`, which `held_` ends with.
std::string StopStrings::end_at(size_t stop) {
  stopped_by_ = stop;
  std::string out = release(include_ ? 0 : searches_[stop].stop.size());
  held_.clear();
  return out;
}

// Gives out all but the last `keep` bytes of what is held.
std::string StopStrings::release(size_t keep) {
  CHECK(keep <= held_.size(), "keep {} of {} bytes", keep, held_.size());
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string StopStrings::flush() { return release(0); }

const std::string& StopStrings::stop_string() const {
  CHECK(stopped());
  return searches_[stopped_by_].stop;
}

}  // namespace baton::text
