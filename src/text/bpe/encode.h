// The way of one text through the parts: added tokens, normalizer, pre-tokenizer, merges.
#pragma once

#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace baton::text::bpe {

struct TokenizerParts;

// Appends the ids of `text`, which is UTF-8. Callable from several threads at once.
Result<void> encode_text(const TokenizerParts& parts, std::string_view text, std::vector<TokenId>& ids);

}  // namespace baton::text::bpe
