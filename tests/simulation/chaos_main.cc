// baton_chaos: runs of the chaos simulation (chaos_run.h), seed after seed, and one table. A seed that fails
// is named with the command that runs it again; the exit status is then 1.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/simulation/chaos_run.h"

namespace baton::simulation::chaos {
namespace {

struct Arguments {
  uint64_t seed = 1;
  uint64_t seeds = 0;  // 0: until there were so many requests, or for so many seconds
  uint64_t requests = 1'000'000;
  uint32_t per_seed = 400;
  double seconds = 0;
  uint32_t threads = std::max(1U, std::thread::hardware_concurrency());
};

const char* weather_name(Weather weather) {
  switch (weather) {
    case Weather::kCalm:
      return "calm";
    case Weather::kGusty:
      return "gusty";
    case Weather::kStormy:
      return "stormy";
  }
  return "";
}

struct Total {
  uint64_t seeds = 0;
  Report report;
};

void print_row(const std::string& name, const Total& total) {
  const Report& all = total.report;
  fmt::print("{:20}{:>8}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>11}{:>9}{:>9}{:>9}{:>12}\n", name, total.seeds,
             all.requests, all.answered, all.refused, all.failed, all.left, all.landed, all.recomputed,
             all.resumed, all.returned, all.faults, all.steps);
}

int run_all(const Arguments& arguments) {
  const Questions questions;
  const auto begun = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  };
  const uint64_t seeds = arguments.seeds != 0 ? arguments.seeds
                         : arguments.seconds > 0
                             ? UINT64_MAX
                             : (arguments.requests + arguments.per_seed - 1) / arguments.per_seed;
  std::atomic<uint64_t> next = 0;
  std::atomic<bool> has_failed = false;
  std::mutex mutex;
  std::map<std::pair<api::HandoverOrder, Weather>, Total> totals;
  const auto work = [&] {
    Stage stage(questions);
    while (!has_failed && (arguments.seconds <= 0 || elapsed() < arguments.seconds)) {
      const uint64_t i = next++;
      if (i >= seeds) return;
      const uint64_t seed = arguments.seed + i;
      const Report report = stage.run({.seed = seed, .requests = arguments.per_seed});
      const std::lock_guard lock(mutex);
      Total& total = totals[{order_of(seed), weather_of(seed)}];
      ++total.seeds;
      total.report.add(report);
      if (report.violation.empty()) continue;
      has_failed = true;
      fmt::print(stderr, "chaos: seed {}: {}\n  again: baton_chaos --seed {} --seeds 1 --per-seed {}\n", seed,
                 report.violation, seed, arguments.per_seed);
    }
  };
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < arguments.threads; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();

  Total all;
  fmt::print("{:20}{:>8}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>11}{:>9}{:>9}{:>9}{:>12}\n", "order, weather",
             "seeds", "requests", "answered", "refused", "failed", "left", "landed", "recomputed", "resumed",
             "returned", "faults", "steps");
  for (const auto& [kind, total] : totals) {
    const char* const order = kind.first == api::HandoverOrder::kPull ? "pull" : "layer-wise";
    print_row(fmt::format("{}, {}", order, weather_name(kind.second)), total);
    all.seeds += total.seeds;
    all.report.add(total.report);
  }
  print_row("all", all);
  fmt::print("{} requests in {:.1f} s: {:.0f} requests/s on {} threads, {:.0f} s of simulated time\n",
             all.report.requests, elapsed(), static_cast<double>(all.report.requests) / elapsed(),
             arguments.threads, seconds(all.report.simulated));
  return has_failed ? 1 : 0;
}

constexpr const char* kUsage =
    "usage: baton_chaos [OPTION VALUE]...\n"
    "  --seed N       the first one (1)\n"
    "  --seeds N      how many; else as --requests says\n"
    "  --requests N   in all, if neither --seeds nor --seconds is given (1000000)\n"
    "  --seconds N    go on for so long\n"
    "  --per-seed N   requests of one run (400)\n"
    "  --threads N    each with runs of its own (one per core)\n";

bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 == argc) return false;
    char* end = nullptr;
    const uint64_t number = std::strtoull(argv[i + 1], &end, 10);
    if (end == argv[i + 1] || *end != '\0') return false;
    if (name == "--seed") {
      arguments.seed = number;
    } else if (name == "--seeds") {
      arguments.seeds = number;
    } else if (name == "--requests") {
      arguments.requests = number;
    } else if (name == "--seconds") {
      arguments.seconds = static_cast<double>(number);
    } else if (name == "--per-seed") {
      arguments.per_seed = static_cast<uint32_t>(std::max<uint64_t>(number, 1));
    } else if (name == "--threads") {
      arguments.threads = static_cast<uint32_t>(std::max<uint64_t>(number, 1));
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace baton::simulation::chaos

int main(int argc, char** argv) {
  using namespace baton::simulation::chaos;
  Arguments arguments;
  if (parse(argc, argv, arguments)) return run_all(arguments);
  std::fputs(kUsage, stderr);
  return 2;
}
