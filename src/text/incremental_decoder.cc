#include "text/incremental_decoder.h"

#include <algorithm>
#include <utility>

#include "text/tokenizer.h"
#include "text/utf8.h"

namespace baton::text {

namespace {

// Whether the decoded text of `bytes` ends in U+FFFD, be it a real one or a replacement. A lead byte always
// begins a piece of its own, so the last four bytes tell.
bool ends_replaced(std::string_view bytes) {
  for (size_t back = 1; back <= std::min<size_t>(4, bytes.size()); ++back) {
    const Utf8Piece piece = utf8_piece(bytes, bytes.size() - back);
    if (piece.kind == Utf8Kind::kCharacter) return piece.bytes != back || piece.point == 0xFFFD;
  }
  return !bytes.empty();
}

}  // namespace

std::string IncrementalDecoder::push(TokenId id) {
  if (skip_special_tokens_ && tokenizer_->is_special(id)) return {};
  pending_ += tokenizer_->token_bytes(id);
  if (ends_replaced(pending_)) return {};
  return flush();
}

std::string IncrementalDecoder::flush() {
  std::string text;
  append_utf8_replaced(text, pending_);
  pending_.clear();
  return text;
}

}  // namespace baton::text
