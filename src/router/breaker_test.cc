#include "router/breaker.h"

#include <gtest/gtest.h>

namespace baton::router {
namespace {

constexpr Time at(int ms) { return Time{std::chrono::milliseconds(1'000'000 + ms)}; }

// A trace: "f" a failure, "s" a success, "c" it is chosen, "l" its client leaves, "+N" N ms pass; then the
// state.
std::string after(std::string_view trace) {
  Breaker breaker;
  int now = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    if (trace[i] == 'f') breaker.on_failure(at(now));
    if (trace[i] == 's') breaker.on_success(at(now));
    if (trace[i] == 'c') breaker.on_chosen(at(now));
    if (trace[i] == 'l') breaker.on_trial_left();
    if (trace[i] == '+') now += std::stoi(std::string(trace.substr(i + 1)));
  }
  return std::string(breaker_state_name(breaker.state(at(now)))) +
         (breaker.allows(at(now)) ? ", allows" : "");
}

TEST(Breaker, GoesThroughItsStatesAsItsHeaderSays) {
  const std::vector<std::pair<std::string_view, std::string_view>> rows = {
      {"", "closed, allows"},
      {"ffff", "closed, allows"},
      {"ffffsffff", "closed, allows"},
      {"fffff", "open"},
      {"fffff+999", "open"},
      {"fffff+1000", "half-open, allows"},
      {"fffff+1000c", "half-open"},
      {"fffff+1000cl", "half-open, allows"},
      {"fffff+1000cs", "closed, allows"},
      {"fffff+1000csffff", "closed, allows"},
      {"fffff+1000cf", "open"},
      {"fffff+1000cf+1999", "open"},
      {"fffff+1000cf+2000", "half-open, allows"},
      {"fffffs", "open"},                      // of a request from before
      {"ffffffff+1000", "half-open, allows"},  // so are these failures
      {"fffff+1000cf+2000cf+4000cf+8000cf+16000cf+30000", "half-open, allows"},
      {"fffff+1000cf+2000cf+4000cf+8000cf+16000cf+29999", "open"},
  };
  for (const auto& [trace, expected] : rows) EXPECT_EQ(after(trace), expected) << trace;
}

}  // namespace
}  // namespace baton::router
