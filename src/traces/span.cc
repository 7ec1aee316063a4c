#include "traces/span.h"

namespace baton::traces {

void append_parts(const Span& parent, const std::vector<std::pair<std::string, Duration>>& parts, Time first,
                  std::vector<Span>& spans) {
  Time at = first;
  for (const auto& [name, took] : parts) {
    Span& span = spans.emplace_back();
    span.place = begin_span(parent.place);
    span.parent = parent.place.span;
    span.name = name;
    span.begin = at;
    span.end = at = at + took;
  }
}

void append_phases(const Span& parent, const Timeline& timeline, std::vector<Span>& spans) {
  if (!timeline.has_begun()) return;
  std::vector<std::pair<std::string, Duration>> parts;
  for (const auto& [phase, took] : timeline.parts()) parts.emplace_back(phase_name(phase), took);
  append_parts(parent, parts, timeline.begin(), spans);
}

}  // namespace baton::traces
