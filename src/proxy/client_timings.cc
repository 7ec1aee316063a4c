#include "proxy/client_timings.h"

namespace baton::proxy {

namespace {

bool asks(const router::ClientBody& client, std::string_view key) {
  const std::string_view raw = client.members.find(key).value_or("");
  return !raw.empty() && raw != "null" && raw != "false" && raw != "0";
}

}  // namespace

bool asks_timings(const router::ClientBody& client) { return asks(client, "timings"); }
bool asks_receipt(const router::ClientBody& client) { return asks(client, "receipt"); }

std::string events_with_timings(std::string_view events, Time arrived, const router::FlowTimes& times,
                                Time now) {
  constexpr std::string_view kKey = "\"timings\":";
  constexpr std::string_view kData = "data: ";
  constexpr std::string_view kEnd = "\n\n";
  std::string out;
  bool changed = false;
  while (!events.empty() && events.find(kKey) != std::string_view::npos) {
    const size_t end = events.find(kEnd);
    if (end == std::string_view::npos) break;
    const std::string_view event = events.substr(0, end + kEnd.size());
    const std::string_view data = events.substr(0, end);
    events.remove_prefix(event.size());
    const auto whole = data.starts_with(kData) && data.find(kKey) != std::string_view::npos
                           ? router::with_whole_timings(data.substr(kData.size()), arrived, times, now)
                           : std::nullopt;
    if (whole) {
      out += kData;
      out += *whole;
      out += kEnd;
      changed = true;
    } else {
      out += event;
    }
  }
  if (!changed) return {};
  out += events;
  return out;
}

}  // namespace baton::proxy
