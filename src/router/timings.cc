#include "router/timings.h"

#include <algorithm>
#include <utility>

#include "api/json.h"
#include "router/bodies.h"

namespace baton::router {
namespace {

constexpr std::string_view kRoute = "route";
constexpr std::string_view kGap = "gap";
constexpr std::string_view kExchange = "exchange";

std::optional<api::Timings> parsed(std::string_view text) {
  if (text.empty() || text == "null") return std::nullopt;
  auto timings = api::parse_timings(text);
  if (!timings) return std::nullopt;
  return std::move(*timings);
}

class Composer {
 public:
  explicit Composer(const std::optional<api::Placement>& placement) { out_.placement = placement; }
  void add(std::string_view at, std::string_view phase, Duration took) {
    if (took > Duration{0}) out_.parts.push_back({std::string(at), std::string(phase), took});
  }
  // What an instance says of itself within the time that it was asked for; the rest is the gap.
  void add_instance(std::string_view at, const std::optional<api::Timings>& own, Duration asked) {
    if (!own || own->total() > asked || own->parts.empty()) {
      add(at, kExchange, asked);
      return;
    }
    for (const api::TimedPart& part : own->parts) add(at, part.phase, part.took);
    if (own->handover_hidden) out_.handover_hidden = own->handover_hidden;
    add(api::kAtProxy, kGap, asked - own->total());
  }
  // D's wait for its blocks to be filled: by a P that was asked meanwhile, if that is known. What P does when
  // D has its blocks is no part of the wait.
  void add_wait(Duration wait, const std::optional<api::Timings>& p, Duration p_asked) {
    const auto add_within = [&](std::string_view at, std::string_view phase, Duration took) {
      took = std::clamp(took, Duration{0}, wait);
      add(at, phase, took);
      wait -= took;
    };
    if (p) {
      const Duration gap = p_asked - p->total();
      for (const api::TimedPart& part : p->parts) add_within(api::kAtPrefill, part.phase, part.took);
      if (p->handover_hidden) out_.handover_hidden = p->handover_hidden;
      add_within(api::kAtProxy, kGap, gap);
    }
    add(api::kAtDecode, phase_name(Phase::kHandover), wait);
  }
  api::Timings take() { return std::move(out_); }

 private:
  api::Timings out_;
};

bool is_layerwise(const FlowTimes& times) {
  return times.prefill_asked && times.decode_asked && *times.prefill_asked >= *times.decode_asked;
}

// D's parts where its wait holds P's.
void add_layerwise(Composer& composer, const FlowTimes& times, const std::optional<api::Timings>& d,
                   Duration asked) {
  const auto waits = [](const api::TimedPart& part) { return part.phase == phase_name(Phase::kHandover); };
  const auto p = parsed(times.prefill_timings);
  if (!d || d->total() > asked || !times.prefill_answered || std::ranges::count_if(d->parts, waits) != 1) {
    composer.add_instance(api::kAtDecode, d, asked);
    return;
  }
  for (const api::TimedPart& part : d->parts) {
    if (waits(part)) {
      composer.add_wait(part.took, p, *times.prefill_answered - *times.prefill_asked);
    } else {
      composer.add(api::kAtDecode, part.phase, part.took);
    }
  }
  composer.add(api::kAtProxy, kGap, asked - d->total());
}

}  // namespace

api::Timings whole_timings(Time arrived, const FlowTimes& times, const std::optional<api::Timings>& d,
                           Time end) {
  Composer composer(times.placement);
  Time at = arrived;
  const auto route_until = [&](Time until) {
    until = std::clamp(until, at, std::max(at, end));
    composer.add(api::kAtProxy, kRoute, until - at);
    at = until;
  };
  if (is_layerwise(times)) {
    route_until(*times.decode_asked);
    add_layerwise(composer, times, d, std::max(end - at, Duration{0}));
    return composer.take();
  }
  if (times.prefill_asked && times.prefill_answered) {
    route_until(*times.prefill_asked);
    const Time answered = std::clamp(*times.prefill_answered, at, std::max(at, end));
    composer.add_instance(api::kAtPrefill, parsed(times.prefill_timings), answered - at);
    at = answered;
  }
  if (times.decode_asked) {
    route_until(*times.decode_asked);
    composer.add_instance(api::kAtDecode, d, std::max(end - at, Duration{0}));
  } else {
    route_until(end);
  }
  return composer.take();
}

std::optional<std::string> with_whole_timings(std::string_view answer, Time arrived, const FlowTimes& times,
                                              Time end) {
  auto members = api::ObjectBytes::parse(answer, kAnswerBytesMax);
  if (!members) return std::nullopt;
  const std::string_view own = members->find("timings").value_or("");
  if (own.empty() || own == "null") return std::nullopt;
  const auto d = times.decode_asked ? parsed(own) : std::nullopt;
  members->set("timings", api::render_timings(whole_timings(arrived, times, d, end)));
  return members->str();
}

}  // namespace baton::router
