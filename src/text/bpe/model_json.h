// Reads `model` and `added_tokens` of tokenizer.json: the tables of byte-pair encoding.
#pragma once

#include <string_view>

#include "base/result.h"
#include "text/bpe/added_tokens.h"

namespace baton::text::bpe {

class Field;
struct TokenizerParts;

// `model`: type BPE, its vocabulary and merges.
Result<void> read_model(const Field& model, TokenizerParts& parts);

// Adds one token that stands at `place` ("tokenizer.json: added_tokens[3]"). Its id must be that of the
// vocabulary's token of this content, or free.
Result<void> add_token(AddedToken token, std::string_view place, TokenizerParts& parts);

// Makes every added token findable; after the last one was read and the normalizer is known.
Result<void> index_added_tokens(TokenizerParts& parts);

// `added_tokens` of the whole file.
Result<void> read_added_tokens(const Field& file, TokenizerParts& parts);

// Checks an id from a file.
Result<int64_t> read_id(const Field& field);

}  // namespace baton::text::bpe
