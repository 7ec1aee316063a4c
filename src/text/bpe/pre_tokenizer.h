// Cuts normalised text into the words that BPE works on: the pre-tokenizers Split, Digits and ByteLevel of
// Hugging Face's tokenizers. Immutable.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/bpe/regex.h"

namespace baton::text::bpe {

// The pattern of ByteLevel with use_regex, from GPT-2.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// What becomes of the matches of a Split, with the result on "a-b" split at "-".
enum class SplitBehavior {
  kIsolated,            // "a" "-" "b"
  kRemoved,             // "a" "b"
  kMergedWithPrevious,  // "a-" "b"
  kMergedWithNext,      // "a" "-b"
  kContiguous,          // as isolated, but neighbouring matches are one piece
};

struct SplitStep {
  Regex regex;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // the text between the matches plays the part of the matches

  // Appends the pieces of text[whole], none of them empty. `matches` is scratch. The regex sees this piece
  // alone: neither look-ahead nor look-behind reach into its neighbours.
  Result<void> split(std::string_view text, Range whole, std::vector<Range>& matches,
                     std::vector<Range>& pieces) const;
};

struct PreTokenizer {
  std::vector<SplitStep> steps;         // each cuts the pieces of the one before
  bool add_prefix_space = false;        // ByteLevel: a piece that does not begin with a space gets one
  std::optional<SplitStep> byte_level;  // ByteLevel with use_regex: the last cut, after that space
};

}  // namespace baton::text::bpe
