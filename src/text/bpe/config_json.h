// Reads tokenizer_config.json: what transformers adds to a tokenizer when it loads one.
#pragma once

#include <string_view>

#include "base/result.h"

namespace baton::text::bpe {

struct TokenizerParts;

// After tokenizer.json was read and before its added tokens are indexed. What is not about tokens (the chat
// template, lengths, class names) is left alone.
Result<void> read_config(std::string_view config_json, TokenizerParts& parts);

}  // namespace baton::text::bpe
