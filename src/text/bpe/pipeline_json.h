// Reads the stages of tokenizer.json around the model: normalizer, pre_tokenizer, post_processor, decoder.
// Each takes the whole file; a stage of an unknown type is an error that names its path.
#pragma once

#include "base/result.h"

namespace baton::text::bpe {

class Field;
struct TokenizerParts;

Result<void> read_normalizer(const Field& file, TokenizerParts& parts);
Result<void> read_pre_tokenizer(const Field& file, TokenizerParts& parts);
Result<void> read_post_processor(const Field& file, TokenizerParts& parts);
Result<void> check_decoder(const Field& file);

}  // namespace baton::text::bpe
