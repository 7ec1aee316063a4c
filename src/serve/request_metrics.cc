#include "serve/request_metrics.h"

namespace baton::serve {

// vLLM's parts are coarser: what is neither waiting nor decoding is prefill.
void observe_end(api::ServeMetrics& metrics, const MeasuredRequest& request) {
  const Timeline& line = *request.engine;
  const Duration queue = line.total(Phase::kQueue) + line.total(Phase::kReserve);
  const Duration handover = line.total(Phase::kHandover);
  const Duration decode = line.since_first({Phase::kDecodeWait, Phase::kDecode});
  const Duration prefill = line.total() - queue - handover - decode;
  metrics.e2e_latency_s.observe(seconds(request.whole->total()));
  metrics.queue_time_s.observe(seconds(queue));
  metrics.prefill_time_s.observe(seconds(prefill));
  metrics.decode_time_s.observe(seconds(decode));
  metrics.inference_time_s.observe(seconds(prefill + decode));
  if (request.remote) metrics.handover_time_s.observe(seconds(handover));
  for (size_t phase = 0; phase < kPhases; ++phase) {
    const Duration took = request.whole->total(static_cast<Phase>(phase));
    if (took > Duration{0}) metrics.phase_s[phase].observe(seconds(took));
  }
  metrics.request_generation_tokens.observe(request.output_tokens);
  metrics.request_max_generation_tokens.observe(request.longest_choice);
  if (request.prompt_tokens > 0)
    metrics.time_per_prefill_token_s.observe(seconds(prefill) / request.prompt_tokens);
  // The mean over its choices, which are drawn side by side.
  if (request.output_tokens > request.choices) {
    metrics.time_per_output_token_s.observe(
        seconds(decode) / (static_cast<double>(request.output_tokens) / request.choices - 1));
  }
}

}  // namespace baton::serve
