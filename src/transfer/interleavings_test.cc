// Tries every order in which the events of a small world (testing_world.h) can happen, up to a number of
// faults, timers and events, and holds the two shipped machines to their promises in each state: no store
// lands in a block that has another owner, what lands is what was held, blocks come back exactly once, each
// request ends in exactly one outcome, no wait lacks a deadline.
//
// BATON_EXPLORER_DEEP=1 goes further: minutes instead of seconds, for `./dev soak`.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <unordered_map>
#include <unordered_set>

#include "transfer/testing_world.h"

namespace baton::transfer::explorer {
namespace {

class Explorer {
 public:
  // False at the first broken promise.
  bool explore(const World& world, int left) {
    const std::vector<Choice> choices = left > 0 ? world.choices() : std::vector<Choice>{};
    if (choices.empty()) return drains(world);
    for (const Choice choice : choices) {
      World next(world);
      next.apply(choice);
      ++transitions;
      path_.push_back(choice);
      if (!next.violation.empty()) return report(next);
      // Seen before with at least as many events to go: nothing new can come of it.
      const auto [seen, is_new] = states.try_emplace(next.key(), left - 1);
      if (is_new || seen->second < left - 1) {
        seen->second = left - 1;
        if (!explore(next, left - 1)) return false;
      }
      path_.pop_back();
    }
    return true;
  }

  std::unordered_map<uint64_t, int> states;  // and with how many events to go each was reached
  size_t transitions = 0;

 private:
  // Every order leads to a state in which this is asked, so whatever happens comes to an end.
  bool drains(const World& world) {
    World next(world);
    next.drain();
    return next.violation.empty() || report(next);
  }
  bool report(const World& world) {
    std::string trace;
    for (const Choice choice : path_) trace += fmt::format("\n  {} ({})", kind_name(choice.kind), choice.at);
    ADD_FAILURE() << world.violation << " after" << trace;
    return false;
  }

  std::vector<Choice> path_;
};

struct Row {
  const char* name;
  Bounds bounds;
  size_t states_min;
};

void print_row(const Row& row, const Explorer& explorer) {
  const Bounds& bounds = row.bounds;
  fmt::print(
      "{}: {} requests of {} blocks in {} layers, up to {} faults, {} timers and {} events: {} states, {} "
      "transitions\n",
      row.name, bounds.requests, bounds.blocks, bounds.layers, bounds.faults, bounds.ticks, bounds.depth,
      explorer.states.size(), explorer.transitions);
}

class Interleavings : public testing::TestWithParam<Row> {};

TEST_P(Interleavings, KeepEveryPromise) {
  const Row& row = GetParam();
  Explorer explorer;
  explorer.explore(World(row.bounds), row.bounds.depth);
  print_row(row, explorer);
  EXPECT_GE(explorer.states.size(), row.states_min);
}

std::vector<Row> pull_rows(bool is_deep) {
  if (is_deep) {
    return {{"tcp", {.local = false, .requests = 1, .faults = 3, .ticks = 1, .depth = 40}, 1'288'000},
            {"local", {.local = true, .requests = 1, .faults = 3, .ticks = 1, .depth = 40}, 758'000},
            {"tcp_reuse", {.local = false, .requests = 2, .faults = 1, .ticks = 1, .depth = 40}, 5'750'000},
            {"local_reuse", {.local = true, .requests = 2, .faults = 1, .ticks = 1, .depth = 40}, 2'448'000}};
  }
  return {{"tcp", {.local = false, .requests = 1, .faults = 2, .ticks = 1, .depth = 13}, 65'000},
          {"local", {.local = true, .requests = 1, .faults = 2, .ticks = 1, .depth = 13}, 48'000},
          {"tcp_reuse", {.local = false, .requests = 2, .faults = 1, .ticks = 0, .depth = 26}, 29'500},
          {"local_reuse", {.local = true, .requests = 2, .faults = 1, .ticks = 0, .depth = 26}, 19'500}};
}

// "layers": one block in two layers; "chunks": two blocks, computed one after the other; "refill": two
// requests that have the same blocks one after the other.
std::vector<Row> layerwise_rows(bool is_deep) {
  Bounds layers{.layerwise = true, .layers = 2, .faults = 2, .ticks = 1, .depth = 13};
  Bounds chunks{.layerwise = true, .layers = 2, .blocks = 2, .faults = 1, .ticks = 0, .depth = 24};
  Bounds reuse{.layerwise = true, .blocks = 2, .requests = 2, .faults = 1, .ticks = 0, .depth = 30};
  for (Bounds* const bounds : {&layers, &chunks, &reuse}) {
    if (!is_deep) continue;
    ++bounds->faults;
    bounds->depth = 60;
  }
  std::vector<Row> rows = {{"tcp_layers", layers, 46'000}, {"local_layers", layers, 33'000},
                           {"tcp_chunks", chunks, 5'400},  {"local_chunks", chunks, 2'700},
                           {"tcp_refill", reuse, 13'500},  {"local_refill", reuse, 7'000}};
  if (is_deep) {
    rows = {{"tcp_layers", layers, 10'500'000}, {"local_layers", layers, 5'300'000},
            {"tcp_chunks", chunks, 111'000},    {"local_chunks", chunks, 51'000},
            {"tcp_refill", reuse, 464'000},     {"local_refill", reuse, 208'000}};
  }
  for (Row& row : rows) row.bounds.local = std::string_view(row.name).starts_with("local");
  return rows;
}

std::vector<Row> rows() {
  const bool is_deep = std::getenv("BATON_EXPLORER_DEEP") != nullptr;
  std::vector<Row> all = pull_rows(is_deep);
  for (const Row& row : layerwise_rows(is_deep)) all.push_back(row);
  return all;
}

INSTANTIATE_TEST_SUITE_P(Explorer, Interleavings, testing::ValuesIn(rows()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace baton::transfer::explorer
