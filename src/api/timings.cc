#include "api/timings.h"

#include <fmt/format.h>

#include <algorithm>

#include "api/fields.h"
#include "api/json.h"

namespace baton::api {
namespace {

// A part is about 60 bytes; names and blanks aside.
constexpr size_t kTimingsBytesMax = kTimingPartsMax * 256;

Result<std::string> read_timing_name(const json::object& part, std::string_view key) {
  TRY(auto name, read_text(part, key, kTimingNameBytesMax));
  const auto fits = [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; };
  if (!name || name->empty() || !std::ranges::all_of(*name, fits)) {
    return refuse_field(key, name ? json::value(json::string(*name)) : json::value(), "a name of [a-z_]");
  }
  return std::move(*name);
}

void append_placement(const Placement& placement, std::string& out) {
  out += fmt::format(R"(,"prefill_on":"{}","prefill_reason":"{}")", placement.on, placement.reason);
  if (const auto& estimate = placement.estimate) {
    out += fmt::format(
        R"(,"prefill_estimate":{{"prompt_tokens":{:.0f},"cached_tokens":{:.0f},"delayed":{},"local_ns":{},"handover_ns":{}}})",
        estimate->prompt_tokens, estimate->cached_tokens, estimate->delayed, estimate->local.count(),
        estimate->handover.count());
  }
}

}  // namespace

Duration Timings::total() const {
  Duration sum{0};
  for (const TimedPart& part : parts) sum += part.took;
  return sum;
}

Timings timings_of(std::string_view at, const Timeline& timeline, Duration handover_hidden) {
  Timings out;
  for (const Timeline::Part& part : timeline.parts())
    out.parts.push_back({std::string(at), std::string(phase_name(part.phase)), part.took});
  if (handover_hidden > Duration{0}) out.handover_hidden = handover_hidden;
  return out;
}

std::string render_timings(const Timings& timings) {
  std::string out = "{\"total_ns\":";
  append_json_integer(out, timings.total().count());
  out += ",\"parts\":[";
  for (const TimedPart& part : timings.parts) {
    if (out.back() != '[') out += ',';
    out += "{\"at\":";
    append_json_string(out, part.at);
    out += ",\"phase\":";
    append_json_string(out, part.phase);
    out += ",\"ns\":";
    append_json_integer(out, part.took.count());
    out += '}';
  }
  out += ']';
  if (timings.handover_hidden) {
    out += ",\"handover_hidden_ns\":";
    append_json_integer(out, timings.handover_hidden->count());
  }
  if (timings.placement) append_placement(*timings.placement, out);
  out += '}';
  return out;
}

Result<Timings> parse_timings(std::string_view text) {
  TRY(const json::object object, parse_json_object(text, kTimingsBytesMax));
  Timings timings;
  const json::value* parts = find_field(object, "parts");
  if (parts == nullptr || !parts->is_array() || parts->get_array().size() > kTimingPartsMax) {
    return fail(Code::kInvalid, fmt::format("parts: expected a list of at most {}", kTimingPartsMax),
                "parts");
  }
  for (const json::value& entry : parts->get_array()) {
    if (!entry.is_object()) return refuse_field("parts", entry, "objects");
    TimedPart part;
    TRY(part.at, read_timing_name(entry.get_object(), "at"));
    TRY(part.phase, read_timing_name(entry.get_object(), "phase"));
    TRY(const auto ns, read_integer(entry.get_object(), "ns", 0, kTimingMax.count()));
    part.took = Duration(ns.value_or(0));
    timings.parts.push_back(std::move(part));
  }
  TRY(const auto hidden, read_integer(object, "handover_hidden_ns", 0, kTimingMax.count()));
  if (hidden) timings.handover_hidden = Duration(*hidden);
  return timings;
}

}  // namespace baton::api
