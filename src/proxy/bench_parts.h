// The two ends of a proxy under measurement, for bench_proxy only: an engine that answers without computing,
// and a load generator. Each is one thread over epoll and plain sockets, cheap enough that the proxy between
// them is what is measured.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "base/clock.h"

namespace baton::proxy::bench {

// Answers until it is killed. GET /v1/models: a list of one. POST: by what the body says,
//   "do_remote_decode":true   a whole answer with kv_transfer_params, as a prefill instance
//   "stream":true             "max_tokens":N events of one token, "gap_us":G apart (0: as fast as the socket
//                             takes them), then [DONE]; header, every event and [DONE] are written apart
//   else                      a whole answer
// All streams with a gap tick together, as those of one batch do. Each event says when it was sent:
// "sent_ns": a string of kStampDigits digits, the steady clock's, which all processes of a host share.
inline constexpr int kStampDigits = 19;
int run_engine(uint16_t port);

struct Load {
  uint16_t port = 0;
  std::string path;
  std::string body;
  uint32_t connections = 1;
  bool in_bursts = false;  // all ask at once when all were answered; else each as soon as it is answered
  Duration warm{0};        // before counting
  Duration measure{0};
  pid_t relay = 0;  // whose CPU is counted: all its threads
};
// Prints one JSON object: requests, events, failures, seconds, cpu_s (of the relay), p50 and p99 of the whole
// answer, p50 of the first event, p50 and p99 of an event from its sending to its arrival, in microseconds.
// Counts what ended within the measured time.
int run_load(const Load& load);

}  // namespace baton::proxy::bench
