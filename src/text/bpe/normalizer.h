// Unicode normalisation of text before it is split (Unicode Standard Annex 15), by utf8proc. Immutable.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::text::bpe {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// The forms are applied one after the other; none leaves the text as it is.
struct Normalizer {
  std::vector<NormalForm> forms;

  // `text` is UTF-8. The result is `text` itself or a view into `scratch`.
  Result<std::string_view> apply(std::string_view text, std::string& scratch) const;
};

}  // namespace baton::text::bpe
