// The JSON flags of `serve` that come from vLLM and vllm-ascend. Internal to options/.
#pragma once

#include "options/keys.h"
#include "options/serve_options.h"

namespace baton::options {

Result<void> read_speculative_config(const json::object& config, ServeOptions& options, bool strict,
                                     Remarks remarks);
Result<void> read_compilation_config(const json::object& config, bool strict, Remarks remarks);
Result<void> read_additional_config(const json::object& config, bool enforce_eager, ServeOptions& options,
                                    bool strict, Remarks remarks);

}  // namespace baton::options
