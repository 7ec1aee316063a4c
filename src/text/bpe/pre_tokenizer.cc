#include "text/bpe/pre_tokenizer.h"

#include <algorithm>

namespace baton::text::bpe {

namespace {

struct Segment {
  Range range;
  bool match;
};

// Matches and the gaps between them, in order, covering [0, size).
std::vector<Segment> segments_of(const std::vector<Range>& matches, uint32_t size, bool invert) {
  std::vector<Segment> segments;
  uint32_t previous = 0;
  for (const Range match : matches) {
    if (previous != match.begin) segments.push_back({{previous, match.begin}, invert});
    segments.push_back({match, !invert});
    previous = match.end;
  }
  if (previous != size) segments.push_back({{previous, size}, invert});
  return segments;
}

// Joins each match that follows no match to the piece before it.
std::vector<Segment> merged_with_previous(const std::vector<Segment>& segments) {
  std::vector<Segment> merged;
  bool previous_match = false;
  for (const Segment& segment : segments) {
    if (segment.match && !previous_match && !merged.empty()) {
      merged.back().range.end = segment.range.end;
    } else {
      merged.push_back(segment);
    }
    previous_match = segment.match;
  }
  return merged;
}

// The mirror image, read from the right.
std::vector<Segment> merged_with_next(const std::vector<Segment>& segments) {
  std::vector<Segment> merged;
  bool previous_match = false;
  for (auto segment = segments.rbegin(); segment != segments.rend(); ++segment) {
    if (segment->match && !previous_match && !merged.empty()) {
      merged.back().range.begin = segment->range.begin;
    } else {
      merged.push_back(*segment);
    }
    previous_match = segment->match;
  }
  std::ranges::reverse(merged);
  return merged;
}

std::vector<Segment> contiguous(const std::vector<Segment>& segments) {
  std::vector<Segment> merged;
  for (const Segment& segment : segments) {
    if (!merged.empty() && merged.back().match == segment.match) {
      merged.back().range.end = segment.range.end;
    } else {
      merged.push_back(segment);
    }
  }
  return merged;
}

std::vector<Segment> apply(SplitBehavior behavior, std::vector<Segment> segments) {
  switch (behavior) {
    case SplitBehavior::kIsolated:
      return segments;
    case SplitBehavior::kRemoved:
      std::erase_if(segments, [](const Segment& s) { return s.match; });
      return segments;
    case SplitBehavior::kMergedWithPrevious:
      return merged_with_previous(segments);
    case SplitBehavior::kMergedWithNext:
      return merged_with_next(segments);
    case SplitBehavior::kContiguous:
      return contiguous(segments);
  }
  return segments;
}

}  // namespace

Result<void> SplitStep::split(std::string_view text, Range whole, std::vector<Range>& matches,
                              std::vector<Range>& pieces) const {
  matches.clear();
  const std::string_view piece = text.substr(whole.begin, whole.end - whole.begin);
  TRY_DO(regex.find_all(piece, matches));
  const auto append = [&](Range range) {
    if (range.begin < range.end) pieces.push_back({whole.begin + range.begin, whole.begin + range.end});
  };
  if (behavior == SplitBehavior::kIsolated) {  // every known tokenizer: no second list
    uint32_t previous = 0;
    for (const Range match : matches) {
      append({previous, match.begin});
      append(match);
      previous = match.end;
    }
    append({previous, static_cast<uint32_t>(piece.size())});
    return {};
  }
  for (const Segment& s :
       apply(behavior, segments_of(matches, static_cast<uint32_t>(piece.size()), invert))) {
    append(s.range);
  }
  return {};
}

}  // namespace baton::text::bpe
