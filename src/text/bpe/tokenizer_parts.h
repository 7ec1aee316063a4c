// A tokenizer read from its files: the data that Tokenizer's functions work on. Constant once it is read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "text/bpe/added_tokens.h"
#include "text/bpe/merges.h"
#include "text/bpe/normalizer.h"
#include "text/bpe/pre_tokenizer.h"
#include "text/bpe/vocabulary.h"

namespace baton::text::bpe {

constexpr size_t kAddedTokensBytesMax = size_t{4} << 20;  // of all contents together

struct TokenizerParts {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Vocabulary vocabulary;
  MergeTable merges;
  bool ignore_merges = false;  // a word that is a token stays whole, whatever the merges say

  std::vector<AddedToken> added;
  bool split_special_tokens = false;                   // special tokens in a text are ordinary text
  std::unordered_map<std::string, TokenId> added_ids;  // by content
  AddedTokenFinder before_normalizer;                  // of the tokens that are not `normalized`
  AddedTokenFinder after_normalizer;                   // of those that are
  std::unordered_map<std::string, TokenId> raw_ids;    // entries of the vocabulary outside the byte alphabet
  std::vector<bool> special;  // by id; shorter than the vocabulary where none follows

  std::vector<TokenId> prefix;  // what add_special_tokens puts before and behind a text
  std::vector<TokenId> suffix;
  std::optional<TokenId> bos;
  std::optional<TokenId> eos;

  uint64_t serial = 0;  // another for every tokenizer of the process; names it in thread-local caches

  // The token of the vocabulary that is written `spelled` in tokenizer.json, or kNoToken.
  TokenId id_of_spelled(std::string_view spelled) const;
};

// Reads the parts from the bytes of tokenizer.json and tokenizer_config.json (empty: there is none). kCorrupt
// names file, JSON path, value and expectation.
Result<TokenizerParts> read_tokenizer(std::string_view tokenizer_json, std::string_view config_json);

}  // namespace baton::text::bpe
