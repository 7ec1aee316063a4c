#include "top/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <map>
#include <string_view>
#include <utility>

namespace baton::top {
namespace json = boost::json;
namespace {

std::string place_of(const KnownInstance& instance) {
  const std::string_view side = instance.role == "prefill" ? "P " : instance.role == "decode" ? "D " : "";
  return std::string(side) + instance.address;
}

Row row_of(const InstanceRequest& request, const KnownInstance& at) {
  return {.id = request.id,
          .client_id = {},
          .age_ms = {},
          .phase = request.state,
          .where = place_of(at),
          .waits_for = request.waits_for,
          .since_ms = request.since_ms,
          .until_ms = request.until_ms,
          .prompt_tokens = request.prompt_tokens,
          .computed_tokens = request.computed_tokens,
          .output_tokens = request.output_tokens};
}

struct Held {
  const InstanceRequest* request;
  const KnownInstance* at;
};
// Of every instance that answered, by name; of one name in the order of the instances.
std::multimap<std::string_view, Held> held_by_name(const Cluster& cluster) {
  std::multimap<std::string_view, Held> out;
  for (const Asked& asked : cluster.instances) {
    if (!asked.requests) continue;
    for (const InstanceRequest& request : *asked.requests)
      out.emplace(request.id, Held{&request, &asked.instance});
  }
  return out;
}

Row row_of(const ProxyRequest& request) {
  return {.id = request.id,
          .client_id = request.client_id,
          .age_ms = request.age_ms,
          .phase = request.phase,
          .where = "proxy",
          .waits_for = request.waits_for,
          .since_ms = request.since_ms,
          .until_ms = request.until_ms,
          .prompt_tokens = {},
          .computed_tokens = {},
          .output_tokens = {}};
}

constexpr size_t kColumns = 8;
using Cells = std::array<std::string, kColumns>;

std::string shown_time(double ms) {
  if (ms < 1'000) return fmt::format("{:.0f} ms", ms);
  if (ms < 100'000) return fmt::format("{:.1f} s", ms / 1'000);
  return fmt::format("{:.0f} s", ms / 1'000);
}
std::string shown_time(const std::optional<double>& ms) { return ms ? shown_time(*ms) : "-"; }

// "16/40" while the prompt is computed, "40+12" when tokens are drawn.
std::string shown_tokens(const Row& row) {
  if (!row.prompt_tokens) return "-";
  if (row.output_tokens.value_or(0) > 0) return fmt::format("{}+{}", *row.prompt_tokens, *row.output_tokens);
  return fmt::format("{}/{}", row.computed_tokens.value_or(0), *row.prompt_tokens);
}

Cells cells_of(const Row& row) {
  return {row.client_id.empty() ? row.id : fmt::format("{} ({})", row.id, row.client_id),
          shown_time(row.age_ms),
          row.phase,
          row.where,
          row.waits_for.empty() ? "-" : row.waits_for,
          shown_time(row.since_ms),
          shown_time(row.until_ms),
          shown_tokens(row)};
}

// As a terminal counts: characters, not bytes.
size_t width_of(std::string_view text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

json::value number_or_null(const auto& value) { return value ? json::value(*value) : json::value(nullptr); }
json::value text_or_null(const std::string& text) {
  return text.empty() ? json::value(nullptr) : json::value(text);
}

json::object described(const Row& row) {
  return {{"request_id", row.id},
          {"client_id", text_or_null(row.client_id)},
          {"age_ms", number_or_null(row.age_ms)},
          {"phase", row.phase},
          {"where", row.where},
          {"waits_for", text_or_null(row.waits_for)},
          {"since_ms", row.since_ms},
          {"until_ms", number_or_null(row.until_ms)},
          {"prompt_tokens", number_or_null(row.prompt_tokens)},
          {"computed_tokens", number_or_null(row.computed_tokens)},
          {"output_tokens", number_or_null(row.output_tokens)}};
}

}  // namespace

std::vector<Row> rows_of(const Cluster& cluster) {
  auto held = held_by_name(cluster);
  std::vector<const ProxyRequest*> known;
  for (const ProxyRequest& request : cluster.view.requests) known.push_back(&request);
  std::ranges::sort(known, [](const ProxyRequest* a, const ProxyRequest* b) {
    return std::pair(-a->age_ms, std::string_view(a->id)) < std::pair(-b->age_ms, std::string_view(b->id));
  });
  std::vector<Row> rows;
  for (const ProxyRequest* request : known) {
    const auto [begin, end] = held.equal_range(request->id);
    if (begin == end) rows.push_back(row_of(*request));
    for (auto one = begin; one != end; ++one) {
      Row& row = rows.emplace_back(row_of(*one->second.request, *one->second.at));
      row.client_id = request->client_id;
      row.age_ms = request->age_ms;
    }
    held.erase(begin, end);
  }
  for (const auto& [name, one] : held) rows.push_back(row_of(*one.request, *one.at));
  return rows;
}

std::vector<std::string> errors_of(const Cluster& cluster) {
  std::vector<std::string> out;
  for (const Asked& asked : cluster.instances) {
    if (!asked.requests)
      out.push_back(
          fmt::format("{}: {}", place_of(asked.instance), shown_text(asked.requests.error().message)));
    else if (asked.instance.health != "up")
      out.push_back(fmt::format("{} is {}: {}", place_of(asked.instance), asked.instance.health,
                                asked.instance.reason));
    else if (!asked.instance.is_baton)
      out.push_back(
          fmt::format("{}: no Baton instance, what it does is not known", place_of(asked.instance)));
  }
  return out;
}

std::string render_table(const Cluster& cluster) {
  const std::vector<Row> rows = rows_of(cluster);
  std::vector<Cells> lines = {{"REQUEST", "AGE", "PHASE", "WHERE", "WAITS FOR", "SINCE", "UNTIL", "TOKENS"}};
  for (const Row& row : rows) lines.push_back(cells_of(row));
  std::array<size_t, kColumns> widths{};
  for (const Cells& line : lines) {
    for (size_t i = 0; i < kColumns; ++i) widths[i] = std::max(widths[i], width_of(line[i]));
  }
  std::string out = fmt::format("{}: {} request(s), {} instance(s)\n", cluster.proxy,
                                cluster.view.requests.size(), cluster.view.instances.size());
  for (const Cells& line : lines) {
    for (size_t i = 0; i < kColumns; ++i) {
      out += line[i];
      if (i + 1 < kColumns) out.append(widths[i] - width_of(line[i]) + 2, ' ');
    }
    out += '\n';
  }
  for (const std::string& error : errors_of(cluster)) out += error + '\n';
  return out;
}

std::string render_json(const Cluster& cluster) {
  json::array requests, instances, errors;
  for (const Row& row : rows_of(cluster)) requests.push_back(described(row));
  for (const KnownInstance& one : cluster.view.instances) {
    instances.push_back(
        {{"address", one.address}, {"role", one.role}, {"health", one.health}, {"baton", one.is_baton}});
  }
  for (const std::string& error : errors_of(cluster)) errors.emplace_back(error);
  return json::serialize(json::object{{"proxy", cluster.proxy},
                                      {"requests", std::move(requests)},
                                      {"instances", std::move(instances)},
                                      {"errors", std::move(errors)}});
}

}  // namespace baton::top
