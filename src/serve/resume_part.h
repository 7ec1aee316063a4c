// What a proxy that can resume asks of a stream (api/resume.h, docs/resume.md): notes in front of its events,
// and perhaps that it goes on with an answer that another instance began.
#pragma once

#include <cstdint>
#include <optional>

#include "api/request.h"
#include "api/resume.h"
#include "base/result.h"
#include "engine/request.h"
#include "http/message.h"
#include "serve/request_builder.h"

namespace baton::serve {

struct ResumePart {
  bool writes_notes = false;
  std::optional<api::Resumption> before;  // only if writes_notes
};

// Without kResumeHeader neither counts, whatever the body says. kInvalid when `baton_resume` is malformed,
// has more choices than the request, or stands in a request that is no stream, hands over, or has several
// prompts.
Result<ResumePart> resume_part(const http::Headers& headers, const api::CommonRequest& request,
                               const HandoverPart& handover, size_t prompts, int32_t vocab_size);

// Makes `request`, resolved from the same body with the same seed, go on behind `before`. kInvalid when it
// would have been answered otherwise here.
Result<void> go_on_with(const api::Resumption& before, engine::Request& request);

}  // namespace baton::serve
