// bench_proxy: both ends of a relay, so that its CPU per request and per event can be compared with another
// relay's in the same run (tools/bench.py starts the relays and reads the numbers).
//   bench_proxy engine PORT
//   bench_proxy load PORT PATH BODY CONNECTIONS WARM_S MEASURE_S RELAY_PID [burst]
#include <fmt/format.h>

#include <charconv>
#include <csignal>
#include <cstdlib>
#include <span>
#include <string_view>

#include "proxy/bench_parts.h"

namespace {

// 0 for what is not a number: the caller is a script.
template <class Number>
Number number(std::string_view text) {
  Number value{};
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

baton::Duration duration(std::string_view text) {
  return std::chrono::duration_cast<baton::Duration>(std::chrono::duration<double>(number<double>(text)));
}

}  // namespace

int main(int argc, char** argv) {
  using namespace baton::proxy::bench;
  std::signal(SIGPIPE, SIG_IGN);
  const std::span<char*> words(argv, static_cast<size_t>(argc));
  if (words.size() == 3 && std::string_view(words[1]) == "engine") {
    return run_engine(number<uint16_t>(words[2]));
  }
  if ((words.size() == 9 || (words.size() == 10 && std::string_view(words[9]) == "burst")) &&
      std::string_view(words[1]) == "load") {
    return run_load({.port = number<uint16_t>(words[2]),
                     .path = words[3],
                     .body = words[4],
                     .connections = number<uint32_t>(words[5]),
                     .in_bursts = words.size() == 10,
                     .warm = duration(words[6]),
                     .measure = duration(words[7]),
                     .relay = number<pid_t>(words[8])});
  }
  fmt::print(stderr,
             "usage: bench_proxy engine PORT\n"
             "       bench_proxy load PORT PATH BODY CONNECTIONS WARM_S MEASURE_S RELAY_PID [burst]\n");
  return 2;
}
