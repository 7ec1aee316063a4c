#include "engine/stats.h"

#include <algorithm>

namespace baton::engine {
namespace {

constexpr double kFirstTokenEdges[] = {0.001, 0.005, 0.01, 0.02,  0.04,  0.06,  0.08, 0.1,
                                       0.25,  0.5,   0.75, 1.0,   2.5,   5.0,   7.5,  10.0,
                                       20.0,  40.0,  80.0, 160.0, 640.0, 2560.0};
constexpr double kInterTokenEdges[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,  0.4, 0.5,
                                       0.75, 1.0,   2.5,  5.0,   7.5, 10.0, 20., 40.0, 80.0};
constexpr double kLatencyEdges[] = {0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
                                    30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
constexpr double kTokenEdges[] = {1,    2,    5,     10,    20,    50,     100,    200,    500,    1000,
                                  2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000};

}  // namespace

void StatHistogram::observe(double value, uint64_t times) {
  const auto bucket = std::ranges::lower_bound(bounds, value) - bounds.begin();
  counts[static_cast<size_t>(bucket)] += times;
  count += times;
  sum += value * static_cast<double>(times);
}

std::span<const double> first_token_edges_s() { return kFirstTokenEdges; }
std::span<const double> inter_token_edges_s() { return kInterTokenEdges; }
std::span<const double> latency_edges_s() { return kLatencyEdges; }
std::span<const double> token_edges() { return kTokenEdges; }

}  // namespace baton::engine
