#include "text/bpe/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "base/check.h"
#include "text/utf8.h"

namespace baton::text::bpe {

namespace {

// Unicode's White_Space property (PropList.txt).
bool is_space(char32_t point) {
  return (point >= 9 && point <= 13) || point == 0x20 || point == 0x85 || point == 0xA0 || point == 0x1680 ||
         (point >= 0x2000 && point <= 0x200A) || point == 0x2028 || point == 0x2029 || point == 0x202F ||
         point == 0x205F || point == 0x3000;
}

// \w of Unicode Technical Standard 18, annex C, up to the letters that Alphabetic counts beyond category L
// (Other_Alphabetic: marks, which are here by category, and letter numbers and circled letters).
bool is_word(char32_t point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      break;
  }
  return point == 0x200C || point == 0x200D || (point >= 0x24B6 && point <= 0x24E9) ||
         (point >= 0x1F130 && point <= 0x1F149) || (point >= 0x1F150 && point <= 0x1F169) ||
         (point >= 0x1F170 && point <= 0x1F189);
}

// The last character of UTF-8 `text`, which is not empty.
Utf8Piece last_of(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return utf8_piece(text, at);
}

// The white space around places of one text that are asked for in ascending order.
class WhiteSpace {
 public:
  explicit WhiteSpace(std::string_view text) : text_(text) {}

  // Where the white space before `at` begins, or `floor` if it reaches that far. A later floor is not below
  // an earlier `at`, so that no character is looked at twice.
  size_t begin_before(size_t at, size_t floor) {
    while (at > floor) {
      ++looked_at_;
      const Utf8Piece last = last_of(text_.substr(0, at));
      if (!is_space(last.point)) return at;
      at -= last.bytes;
    }
    return floor;
  }

  // Where the white space that begins at `at` ends. What is known to be white space is not looked at again.
  size_t end_behind(size_t at) {
    if (at >= run_begin_ && at <= run_end_) return run_end_;
    run_begin_ = run_end_ = at;
    while (run_end_ < text_.size()) {
      ++looked_at_;
      const Utf8Piece next = utf8_piece(text_, run_end_);
      if (!is_space(next.point)) break;
      run_end_ += next.bytes;
    }
    return run_end_;
  }

  size_t looked_at() const { return looked_at_; }  // characters

 private:
  std::string_view text_;
  size_t run_begin_ = 1;  // the white space behind the last place; at first none
  size_t run_end_ = 0;
  size_t looked_at_ = 0;
};

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  const bool joined_before = begin > 0 && is_word(last_of(text.substr(0, begin)).point);
  const bool joined_behind = end < text.size() && is_word(utf8_piece(text, end).point);
  return !joined_before && !joined_behind;
}

}  // namespace

void AddedTokenFinder::add(std::string_view pattern, const AddedToken& token) {
  CHECK(!pattern.empty());
  uint32_t at = 0;
  for (const char byte : pattern) {
    const auto edge = std::ranges::find(nodes_[at].edges, byte, &Edge::byte);
    if (edge != nodes_[at].edges.end()) {
      at = edge->node;
      continue;
    }
    const auto node = static_cast<uint32_t>(nodes_.size());
    nodes_[at].edges.push_back({byte, node});
    if (at == 0) first_[static_cast<unsigned char>(byte)] = node;
    nodes_.emplace_back();
    at = node;
  }
  if (nodes_[at].token >= 0) return;
  nodes_[at].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back({token.id, token.single_word, token.lstrip, token.rstrip});
}

AddedTokenFinder::Found AddedTokenFinder::longest_at(std::string_view text, size_t at) const {
  Found found{0, nullptr};
  uint32_t node = first_[static_cast<unsigned char>(text[at])];
  for (size_t next = at + 1; node != 0; ++next) {
    if (nodes_[node].token >= 0) found = {next - at, &tokens_[static_cast<size_t>(nodes_[node].token)]};
    if (next == text.size()) break;
    const auto edge = std::ranges::find(nodes_[node].edges, text[next], &Edge::byte);
    node = edge == nodes_[node].edges.end() ? 0 : edge->node;
  }
  return found;
}

// Follows tokenizers' AddedVocabulary::find_matches, also in this: a match that single_word turns down is
// stepped over whole, and the search goes on behind the match, not behind the white space that rstrip took.
size_t AddedTokenFinder::split(std::string_view text, std::vector<AddedPiece>& pieces) const {
  size_t done = 0;
  WhiteSpace white_space(text);
  const auto append = [&](size_t begin, size_t end, TokenId id) {
    if (begin < end) pieces.push_back({{static_cast<uint32_t>(begin), static_cast<uint32_t>(end)}, id});
  };
  for (size_t at = 0; !empty() && at < text.size();) {
    if (first_[static_cast<unsigned char>(text[at])] == 0) {
      ++at;
      continue;
    }
    const auto [bytes, token] = longest_at(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + bytes;
    at = end;
    if (token->single_word && !stands_alone(text, begin, end)) continue;
    if (token->lstrip) begin = white_space.begin_before(begin, done);
    if (token->rstrip) end = white_space.end_behind(end);
    append(done, begin, -1);
    append(begin, end, token->id);
    done = end;
  }
  append(done, text.size(), -1);
  return white_space.looked_at();
}

}  // namespace baton::text::bpe
