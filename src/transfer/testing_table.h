// For tests: the tables of states and events in docs/handover.md, and what a machine says, as those tables
// write it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "transfer/mover.h"

namespace baton::transfer {

// The cells of a row by the names of their columns.
using TableRow = std::map<std::string, std::string>;

inline std::vector<std::string> split_cells(std::string_view line, char separator) {
  std::vector<std::string> cells;
  while (true) {
    const size_t at = line.find(separator);
    std::string_view cell = line.substr(0, at);
    while (cell.starts_with(' ')) cell.remove_prefix(1);
    while (cell.ends_with(' ')) cell.remove_suffix(1);
    cells.emplace_back(cell);
    if (at == std::string_view::npos) return cells;
    line.remove_prefix(at + 1);
  }
}

// The table below `heading` ("## P: ...") that has these columns.
inline std::vector<TableRow> read_table(std::string_view heading, const std::vector<std::string>& columns) {
  std::ifstream file(BATON_SOURCE_DIR "/docs/handover.md");
  std::vector<TableRow> rows;
  bool is_below = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("## ")) is_below = line.starts_with(heading);
    if (!is_below || !line.starts_with("| ") || line.starts_with("| State |")) continue;
    std::vector<std::string> cells = split_cells(line, '|');
    cells.erase(cells.begin());
    cells.pop_back();
    EXPECT_EQ(cells.size(), columns.size()) << line;
    if (cells.size() != columns.size()) continue;
    TableRow row;
    for (size_t i = 0; i < columns.size(); ++i) row[columns[i]] = cells[i] == "–" ? "" : cells[i];
    rows.push_back(std::move(row));
  }
  return rows;
}

// One row per pair of a state and an event; fails where there is none, or more than one, or an unknown name.
// "any" stands for the states that no other row of the event names; "same" for the state itself.
inline std::map<std::pair<std::string, std::string>, TableRow> expand_table(
    const std::vector<TableRow>& rows, const std::set<std::string>& states,
    const std::set<std::string>& events) {
  std::map<std::pair<std::string, std::string>, TableRow> expanded;
  for (const bool any : {false, true}) {
    for (const TableRow& row : rows) {
      if ((row.at("State") == "any") != any) continue;
      for (const std::string& event : split_cells(row.at("Event"), ',')) {
        EXPECT_TRUE(events.contains(event)) << "the table has an unknown event: " << event;
        std::vector<std::string> named = split_cells(row.at("State"), ',');
        if (any) {
          named.clear();
          for (const std::string& state : states) {
            if (!expanded.contains({state, event})) named.push_back(state);
          }
          EXPECT_FALSE(named.empty()) << "the table's row of any state for " << event << " says nothing";
        }
        for (const std::string& state : named) {
          EXPECT_TRUE(states.contains(state)) << "the table has an unknown state: " << state;
          TableRow one = row;
          if (one.at("Next") == "same") one["Next"] = state;
          EXPECT_TRUE(expanded.emplace(std::pair(state, event), std::move(one)).second)
              << "the table has two rows for " << state << ", " << event;
        }
      }
    }
  }
  for (const std::string& state : states) {
    for (const std::string& event : events) {
      EXPECT_TRUE(expanded.contains({state, event}))
          << "the table lacks a row for " << state << ", " << event;
    }
  }
  return expanded;
}

inline std::string says(const Command& command) {
  struct Name {
    std::string operator()(const Connect&) const { return "Connect"; }
    std::string operator()(const AllowStores&) const { return "AllowStores"; }
    std::string operator()(const StopStores&) const { return "StopStores"; }
    std::string operator()(const Push&) const { return "Push"; }
    std::string operator()(const StopPush&) const { return "StopPush"; }
    std::string operator()(const Close&) const { return "Close"; }
    std::string operator()(const Send& send) const {
      const std::string name = message_name(send.message);
      if (const auto* const ended = std::get_if<HandoverEnded>(&send.message))
        return fmt::format("{}({})", name, code_name(ended->error.code));
      if (const auto* const aborted = std::get_if<AbortTransfer>(&send.message))
        return fmt::format("{}({})", name, code_name(aborted->error.code));
      return name;
    }
  };
  return std::visit(Name{}, command);
}
// "StopPush, AbortTransfer(timeout)"
inline std::string says(const std::vector<Command>& commands) {
  std::string all;
  for (const Command& command : commands) all += (all.empty() ? "" : ", ") + says(command);
  return all;
}

// The names of an enum's values from 0 on, up to the first that has none.
template <class Enum>
std::set<std::string> names_of(std::string_view (*name)(Enum)) {
  std::set<std::string> names;
  for (uint8_t i = 0; name(static_cast<Enum>(i)) != "unknown"; ++i) names.emplace(name(static_cast<Enum>(i)));
  return names;
}

}  // namespace baton::transfer
