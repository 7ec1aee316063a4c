#include "serve/resume_part.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace baton::serve {
namespace {

Failure refuse(std::string message) {
  return fail(Code::kInvalid, fmt::format("{}{}", api::kResumeField, message),
              std::string(api::kResumeField));
}

Result<void> check_fits(const api::Resumption& before, const api::CommonRequest& request,
                        const HandoverPart& handover, size_t prompts) {
  if (!request.stream) return refuse(" with stream false, expected stream true");
  if (handover.hold || handover.remote) return refuse(" with kv_transfer_params, expected one of them");
  if (prompts != 1) return refuse(fmt::format(" with {} prompts, expected one", prompts));
  const auto n = static_cast<size_t>(request.sampling.n);
  if (before.choices.size() <= n) return {};
  return refuse(fmt::format(".choices: {}, expected at most n {}", before.choices.size(), n));
}

}  // namespace

Result<ResumePart> resume_part(const http::Headers& headers, const api::CommonRequest& request,
                               const HandoverPart& handover, size_t prompts, int32_t vocab_size) {
  ResumePart part;
  if (headers.get(api::kResumeHeader) != "1") return part;
  if (request.resume) {
    TRY(part.before, api::parse_resumption(*request.resume, vocab_size));
    TRY_DO(check_fits(*part.before, request, handover, prompts));
  }
  // A note says which choice, not which prompt.
  part.writes_notes = request.stream && prompts == 1;
  return part;
}

Result<void> go_on_with(const api::Resumption& before, engine::Request& request) {
  const uint64_t digest = engine::answer_digest(request.sampling, request.prompt);
  if (digest != before.head.digest) {
    return refuse(
        fmt::format(".head.digest: {:016x}, expected {:016x}: this instance reads the request otherwise",
                    before.head.digest, digest));
  }
  request.drawn_before.resize(request.sampling.n);
  for (size_t i = 0; i < before.choices.size(); ++i)
    request.drawn_before[i] = {before.choices[i].token_ids, before.choices[i].finished};
  const bool all_begun = std::ranges::all_of(request.drawn_before, [](const engine::DrawnBefore& one) {
    return one.finished || !one.tokens.empty();
  });
  // Those of the prompt have gone out with the first token, or were never known.
  if (all_begun || before.head.handed_over) request.sampling.prompt_logprobs.reset();
  return {};
}

}  // namespace baton::serve
