#include "text/bpe/encode.h"

#include "text/bpe/tokenizer_parts.h"
#include "text/bpe/word_cache.h"

namespace baton::text::bpe {

namespace {

// What one encoding writes; one per thread, kept for the next.
struct Scratch {
  WordCache cache;
  MergeScratch merge;
  std::vector<TokenId> word_ids;
  std::vector<AddedPiece> outer;  // cut at added tokens before normalisation
  std::vector<AddedPiece> inner;  // and after it
  std::vector<Range> pieces;
  std::vector<Range> next_pieces;
  std::vector<Range> matches;
  std::string normalized;
  std::string prefixed;
};

constexpr size_t kScratchBytesMax = size_t{16} << 20;  // what a thread may keep of a long text

class Encoding {
 public:
  Encoding(const TokenizerParts& parts, Scratch& scratch, std::vector<TokenId>& ids)
      : parts_(parts), scratch_(scratch), ids_(ids) {}

  Result<void> text(std::string_view text) {
    scratch_.outer.clear();
    parts_.before_normalizer.split(text, scratch_.outer);
    for (const AddedPiece& piece : scratch_.outer) {
      if (piece.id >= 0) {
        ids_.push_back(piece.id);
      } else {
        TRY_DO(unnormalized(slice(text, piece.range)));
      }
    }
    return {};
  }

 private:
  static std::string_view slice(std::string_view text, Range range) {
    return text.substr(range.begin, range.end - range.begin);
  }

  Result<void> unnormalized(std::string_view text) {
    TRY(const std::string_view normalized, parts_.normalizer.apply(text, scratch_.normalized));
    if (parts_.after_normalizer.empty()) return plain(normalized);
    scratch_.inner.clear();
    parts_.after_normalizer.split(normalized, scratch_.inner);
    for (const AddedPiece& piece : scratch_.inner) {
      if (piece.id >= 0) {
        ids_.push_back(piece.id);
      } else {
        TRY_DO(plain(slice(normalized, piece.range)));
      }
    }
    return {};
  }

  // Text without added tokens.
  Result<void> plain(std::string_view text) {
    scratch_.pieces.assign(1, {0, static_cast<uint32_t>(text.size())});
    for (const SplitStep& step : parts_.pre_tokenizer.steps) {
      scratch_.next_pieces.clear();
      for (const Range piece : scratch_.pieces) {
        TRY_DO(step.split(text, piece, scratch_.matches, scratch_.next_pieces));
      }
      std::swap(scratch_.pieces, scratch_.next_pieces);
    }
    for (const Range piece : scratch_.pieces) TRY_DO(byte_level(slice(text, piece)));
    return {};
  }

  Result<void> byte_level(std::string_view piece) {
    if (piece.empty()) return {};
    const PreTokenizer& pre_tokenizer = parts_.pre_tokenizer;
    if (pre_tokenizer.add_prefix_space && !piece.starts_with(' ')) {
      scratch_.prefixed.assign(1, ' ').append(piece);
      piece = scratch_.prefixed;
    }
    if (!pre_tokenizer.byte_level) {
      word(piece);
      return {};
    }
    scratch_.next_pieces.clear();
    const Range whole{0, static_cast<uint32_t>(piece.size())};
    TRY_DO(pre_tokenizer.byte_level->split(piece, whole, scratch_.matches, scratch_.next_pieces));
    for (const Range range : scratch_.next_pieces) word(slice(piece, range));
    return {};
  }

  void word(std::string_view word) {
    if (word.size() > WordCache::kWordBytesMax) {
      const std::span<const TokenId> merged = merge(word);
      ids_.insert(ids_.end(), merged.begin(), merged.end());
      return;
    }
    const WordCache::Key key = WordCache::Key::of(word);
    WordCache::Entry& entry = scratch_.cache.place(key);
    if (entry.key == key) {
      ids_.insert(ids_.end(), entry.ids.begin(), entry.ids.begin() + entry.count);
      return;
    }
    const std::span<const TokenId> merged = merge(word);
    ids_.insert(ids_.end(), merged.begin(), merged.end());
    if (merged.size() > WordCache::kIdsMax) return;
    entry.key = key;
    entry.count = static_cast<uint8_t>(merged.size());
    std::ranges::copy(merged, entry.ids.begin());
  }

  std::span<const TokenId> merge(std::string_view word) {
    std::vector<TokenId>& ids = scratch_.word_ids;
    ids.clear();
    if (parts_.ignore_merges) {
      const TokenId whole = parts_.vocabulary.find(word);
      if (whole != kNoToken) {
        ids.push_back(whole);
        return ids;
      }
    }
    for (const char byte : word) ids.push_back(parts_.vocabulary.of_byte(static_cast<uint8_t>(byte)));
    return std::span(ids).first(merge_word(parts_.merges, ids, scratch_.merge));
  }

  const TokenizerParts& parts_;
  Scratch& scratch_;
  std::vector<TokenId>& ids_;
};

template <class T>
void drop_if_large(T& buffer) {
  if (buffer.capacity() * sizeof(typename T::value_type) > kScratchBytesMax) T().swap(buffer);
}

}  // namespace

Result<void> encode_text(const TokenizerParts& parts, std::string_view text, std::vector<TokenId>& ids) {
  thread_local Scratch scratch;
  scratch.cache.own(parts.serial);
  ids.reserve(ids.size() + text.size() / 4);
  auto done = Encoding(parts, scratch, ids).text(text);
  drop_if_large(scratch.word_ids);
  drop_if_large(scratch.merge.symbols);
  drop_if_large(scratch.merge.heap);
  drop_if_large(scratch.outer);
  drop_if_large(scratch.inner);
  drop_if_large(scratch.pieces);
  drop_if_large(scratch.next_pieces);
  drop_if_large(scratch.matches);
  drop_if_large(scratch.normalized);
  drop_if_large(scratch.prefixed);
  return done;
}

}  // namespace baton::text::bpe
